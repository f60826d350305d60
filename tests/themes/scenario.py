"""Looks in a browser at the pages that ask first, in the admin theme that THEME names.

Prints as JSON what was measured. With PICTURES, a folder, it leaves a picture of each page there.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.conf import settings

MEASURE = """() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const channels = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => {
    const [red, green, blue] = channels(color).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (channels(color)[3] === 255) return color;
    }
    return "white";
  };
  const describe = (element) => {
    const { width, height } = element.getBoundingClientRect();
    const sides = [getComputedStyle(element).color, behind(element)].map(luminance);
    const contrast = (Math.max(...sides) + 0.05) / (Math.min(...sides) + 0.05);
    return { width, height, contrast };
  };
  const title = document.title;
  return {
    headings: [...document.querySelectorAll("h1")]
      .filter((head) => head.checkVisibility() && title.includes(head.textContent.trim()))
      .map((head) => head.textContent.trim()),
    yes: describe(document.querySelector("#leadexec-confirm-yes")),
    no: describe(document.querySelector("#leadexec-confirm-no")),
    overflow: document.documentElement.scrollWidth - innerWidth,
  };
}"""


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served() -> Iterator[str]:
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.handlers.wsgi import WSGIHandler

    application = StaticFilesHandler(WSGIHandler())
    server = make_server("127.0.0.1", 0, application, Server, Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def main() -> None:
    django.setup()
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.test import Client
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import ARGUMENTS
    from tests.factories import make_connection
    from tests.needs import find_chromium

    call_command("migrate", verbosity=0)
    settings.ALLOWED_HOSTS = ["*"]
    boss = get_user_model()._default_manager.create_superuser("boss", password="pw")
    for number in range(3):
        make_connection(f"rt-{number}", account_id=f"account {number}")
    make_connection("rt-x").delete()
    client = Client()
    client.force_login(boss, backend="django.contrib.auth.backends.ModelBackend")
    cookies: SimpleCookie = client.cookies
    pages = {
        "revoke": ("leadexecconnection", "revoke_selected"),
        "delete": ("leadexecconnection", "delete_selected"),
        "let_go": ("pendingrevocation", "let_go"),
    }
    found: dict[str, Any] = {}
    pictures = os.environ.get("PICTURES")
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 320)):
            context = browser.new_context(
                color_scheme=scheme,  # type: ignore[arg-type]
                viewport={"width": width, "height": 800},
            )
            session = cookies[settings.SESSION_COOKIE_NAME].value
            context.add_cookies(
                [{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": url}]
            )
            page = context.new_page()
            for name, (model, action) in pages.items():
                page.goto(f"{url}/admin/django_leadexec/{model}/")
                keys = page.locator("input[name=_selected_action]").evaluate_all(
                    "(boxes) => boxes.map((box) => box.value)"
                )
                page.evaluate(
                    """([action, keys]) => {
                      const form = document.createElement("form");
                      form.method = "post";
                      const csrf = document.querySelector("[name=csrfmiddlewaretoken]").value;
                      const values = [["csrfmiddlewaretoken", csrf], ["action", action]];
                      for (const key of keys) values.push(["_selected_action", key]);
                      for (const [name, value] of values) {
                        const input = document.createElement("input");
                        [input.name, input.value] = [name, value];
                        form.append(input);
                      }
                      document.body.append(form);
                      HTMLFormElement.prototype.submit.call(form);
                    }""",
                    [action, keys],
                )
                page.locator("input[name=post]").wait_for(state="attached")
                page.wait_for_load_state("networkidle")
                found[f"{name} {scheme} {width}"] = page.evaluate(MEASURE)
                if pictures:
                    path = (
                        f"{pictures}/{os.environ['THEME'] or 'django'}-{name}-{scheme}-{width}.png"
                    )
                    page.screenshot(path=path)
                page.locator("#leadexec-confirm-no").click()
                page.wait_for_url(f"{url}/admin/django_leadexec/{model}/")
            context.close()
        browser.close()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
