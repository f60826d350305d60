"""Makes the documentation's pictures, in docs/pictures/, from the example project: make pictures.

It serves the example with its sandbox on a database of its own, and photographs each state.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
MANAGE = [sys.executable, str(ROOT / "example_project" / "manage.py")]
# Pixels left free around what is photographed, and the widest picture.
MARGIN, WIDTH = 12, 560
STILL = "* { transition: none !important }"
# The stand-in has little to say; the look is the package's own.
PLAIN = STILL + "body { background: Canvas !important }"

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Page, Playwright, Route


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def site(folder: str) -> Iterator[str]:
    """The example project's address, while it is served."""
    port = free_port()
    os.environ |= {
        "DATABASE_URL": f"sqlite:///{folder}/pictures.sqlite3",
        "DEBUG": "on",
        "LEADEXEC_SANDBOX": "on",
        "DEMO_PORT": str(port),
        "DJANGO_SETTINGS_MODULE": "example_project.settings",
    }
    subprocess.run([*MANAGE, "prepare_demo"], check=True, stdout=subprocess.DEVNULL)
    server = subprocess.Popen(
        [*MANAGE, "runserver", "--noreload", f"127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def log_in(names: tuple[str, ...]) -> dict[str, str]:
    """For each of these users of the example, the key of a session in which they are logged in."""
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.test import Client

    sessions = {}
    for name in names:
        client = Client()
        user = get_user_model()._default_manager.get_by_natural_key(name)
        client.force_login(user, "django.contrib.auth.backends.ModelBackend")
        sessions[name] = client.cookies["sessionid"].value
    return sessions


class Photographer:
    """A browser on the site, each picture in a profile of its own."""

    def __init__(self, browser: "Browser", url: str, sessions: dict[str, str]) -> None:
        self.browser, self.url, self.sessions = browser, url, sessions

    def take(
        self,
        name: str,
        path: str,
        prepare: Callable[["Page"], None] | None = None,
        *,
        of: str = ".leadexec",
        user: str = "",
        scheme: str = "light",
        width: int = 640,
        height: int = 900,
        is_whole: bool = False,
    ) -> None:
        """``of`` is what is on the picture, without the site's background, or the whole window."""
        style = STILL if is_whole else PLAIN
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            bypass_csp=True,  # for the style that is added
        )
        context.set_default_timeout(20_000)
        # LeadExec's stylesheet is not known: these are the looks of the package.
        context.route("**/css/le-app-button.css", _answer_nothing)
        if user:
            cookie = {"name": "sessionid", "value": self.sessions[user], "url": self.url}
            context.add_cookies([cookie])  # type: ignore[list-item]
        page = context.new_page()
        page.goto(self.url + path)
        page.wait_for_load_state("networkidle")
        page.add_style_tag(content=style)
        if prepare:
            prepare(page)
            page.wait_for_load_state("networkidle")
            page.add_style_tag(content=style)
        clip = None if is_whole else _around(page, name, of)
        page.screenshot(path=PICTURES / f"{name}.png", clip=clip)
        context.close()


def _around(page: "Page", name: str, of: str) -> "FloatRect":
    box = page.locator(of).first.bounding_box()
    if box is None:
        raise LookupError(f"{name}: {of} is not on the page, or not visible")
    return {
        "x": max(box["x"] - MARGIN, 0),
        "y": max(box["y"] - MARGIN, 0),
        "width": min(box["width"] + 2 * MARGIN, WIDTH),
        "height": box["height"] + 2 * MARGIN,
    }


def _answer_nothing(route: "Route") -> None:
    route.fulfill(body="", content_type="text/css")


def answer_dialog(page: "Page", answer: str) -> None:
    with page.expect_popup() as opened:
        page.locator("#leAppButton").click()
    opened.value.get_by_role("button", name=answer, exact=True).click()


def customize(page: "Page") -> None:
    """Give the button the look that the documentation shows."""
    text = (ROOT / "docs" / "button.md").read_text("utf-8")
    [css] = re.findall(r"^```css\n(.*?)^```$", text, re.M | re.S)
    page.add_style_tag(content=css)


def customize_and_lose_the_network(page: "Page") -> None:
    customize(page)
    lose_the_network(page)


def cancel(page: "Page") -> None:
    answer_dialog(page, "Cancel")
    page.locator(".leadexec-error:not(:empty)").wait_for()


def consent(page: "Page") -> None:
    answer_dialog(page, "Consent")
    page.locator(".leadexec-account").wait_for()


def lose_the_network(page: "Page") -> None:
    page.route("**/leadexec/callback/", lambda route: route.abort())
    answer_dialog(page, "Consent")
    page.locator(".leadexec-continue:visible").wait_for()


def be_recognized(page: "Page") -> None:
    """Consent, and come back as somebody who has signed out."""
    lose_the_network(page)
    page.unroute_all()
    page.route("**/css/le-app-button.css", _answer_nothing)
    page.goto(page.url)
    page.locator(".leadexec-continue:visible").wait_for()


def come_to_confirm(page: "Page") -> None:
    answer_dialog(page, "Consent")
    page.wait_for_url("**/confirm/**")


def connect(page: "Page") -> None:
    come_to_confirm(page)
    page.get_by_role("button", name="Connect", exact=True).click()
    page.locator(".leadexec-account").wait_for()


def choose_revoke(page: "Page") -> None:
    page.locator("#action-toggle").check()
    page.locator("select[name=action]").select_option("revoke_selected")
    page.locator("button[name=index]").click()
    page.locator("form input[name=post]").wait_for(state="attached")


def main() -> None:
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT))
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, site(folder) as url:
        # Before Playwright, whose event loop Django takes for async code.
        sessions = log_in(("admin", "demo", "granite-homes", "maple-realty"))
        with sync_playwright() as play:
            take_all(play, url, sessions)


def take_all(play: "Playwright", url: str, sessions: dict[str, str]) -> None:
    from tests.needs import find_chromium

    browser = play.chromium.launch(
        executable_path=find_chromium(), args=["--no-sandbox", "--font-render-hinting=none"]
    )
    photographer = Photographer(browser, url, sessions)
    take = photographer.take
    take("button", "/welcome/")
    take("button-dark", "/welcome/", scheme="dark")
    take("refused", "/welcome/", cancel)
    take("try-again", "/welcome/", lose_the_network)
    take("recognized", "/welcome/", be_recognized)
    take("reconnect", "/", user="granite-homes")
    take("connect-page", "/leadexec/connect/", of=".card", user="demo")
    take("confirm-page", "/", come_to_confirm, of=".card", user="demo")
    take(
        "example-project",
        "/",
        connect,
        user="demo",
        width=1000,
        height=760,
        is_whole=True,
    )
    take("connected", "/", user="maple-realty")
    take("connected-narrow", "/", user="maple-realty", width=320)
    take("customized", "/welcome/", customize_and_lose_the_network)
    take("customized-connected", "/", customize, user="maple-realty")
    take(
        "admin-revoke",
        "/admin/django_leadexec/leadexecconnection/",
        choose_revoke,
        of="#content",
        user="admin",
        width=WIDTH,
    )
    browser.close()


if __name__ == "__main__":
    main()
