"""A page that a browser keeps whole while its visitor is elsewhere, and shows again as it was."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.contrib.staticfiles import finders
from django.template import RequestContext, Template
from django.test import RequestFactory

from tests.browser.conftest import (
    ARGUMENTS,
    ON_CLICK,
    Faults,
    in_each_engine,
    open_firefox,
    open_page,
)
from tests.browser.test_slow_provider import reply
from tests.needs import find_chromium
from tests.sockets import Peer, SocketServer, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

pytestmark = pytest.mark.browser

PAGE = """{% load leadexec %}<!doctype html><html lang="en"><title>Page</title><body><script>
addEventListener("pageshow", (event) => { window.isKept = event.persisted; });
</script>{% leadexec_button %}</body></html>"""
ANSWER = {"status": "login_required", "redirect": "/login/"}


# What a Firefox that nobody drives is set to.
KEEPS_PAGES = {"fission.bfcacheInParent": True, "browser.sessionhistory.max_total_viewers": -1}


@contextmanager
def open_chromium(playwright: "Playwright") -> Iterator["Browser"]:
    browser = playwright.chromium.launch(
        executable_path=find_chromium(),
        args=ARGUMENTS,
        ignore_default_args=["--disable-back-forward-cache"],
    )
    yield browser
    browser.close()


@pytest.fixture
def kept(engine: str, playwright: "Playwright", faults: Faults) -> Iterator["Page"]:
    """A page in a browser that keeps pages, which Playwright forbids unless it is told."""
    is_firefox = engine == "firefox"
    opened = open_firefox(playwright, **KEEPS_PAGES) if is_firefox else open_chromium(playwright)
    with opened as browser, open_page(browser, faults) as page:
        yield page


@pytest.fixture
def server(settings) -> Iterator[SocketServer]:
    """The site and LeadExec, on a real socket: a browser keeps no page whose requests are held."""
    settings.DEBUG = True  # it speaks http

    def talk(peer: Peer) -> None:
        while request := peer.request():
            path = request.target.partition("?")[0]
            _, is_static, name = path.partition("/static/")
            if is_static:
                text = Path(str(finders.find(name))).read_text("utf-8")
            elif path.endswith("le-app-button.js"):
                text = ON_CLICK % '{valid: true, refreshToken: "rt-1"}'
            elif path.startswith("/page/"):
                context = RequestContext(RequestFactory().get("/page/"))
                text = Template(PAGE).render(context)
            elif path.endswith("/state/"):
                text = json.dumps({"csrf_token": "s" * 64})
            else:
                text = json.dumps(ANSWER) if path.endswith("/callback/") else "Log in"
            peer.send(reply(text, path))

    with serving(talk) as server:
        settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": server.url}
        yield server


def posts(server: SocketServer) -> int:
    return sum(request.target.endswith("/callback/") for request in server.requests)


@in_each_engine
def test_a_kept_page_is_at_rest_and_takes_another_click(kept: "Page", server: SocketServer):
    kept.goto(f"{server.url}/page/")
    kept.evaluate("window.mark = 'the same page'")
    for count in (1, 2):
        # By the keyboard: Playwright never hears that Firefox has shown a kept page, and holds
        # back a click until then.
        kept.evaluate("document.getElementById('leAppButton').focus()")
        kept.keyboard.press("Enter")
        # Asked of the page itself, for the same reason.
        kept.wait_for_function("location.pathname === '/login/'")
        assert posts(server) == count
        kept.evaluate("history.back()")
        kept.wait_for_function("window.isKept === true && window.mark === 'the same page'")
        assert kept.locator("[aria-busy]").count() == 0
        assert kept.locator(".leadexec [role=status]").text_content() == ""
