"""A real Chromium, and a site of one page whose provider and callback a test plays itself."""

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest
from django.contrib.staticfiles import finders
from django.template import RequestContext, Template
from django.test import RequestFactory

from tests.conftest import find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ORIGIN = "https://site.test"
PROVIDER = "https://apps.leadexec.net"
# Calls back for a click, like the provider's script after its dialog.
ON_CLICK = """
document.getElementById("leAppButton").addEventListener("click", () => AuthorizeResult(%s));
"""
CONNECTED = {"status": "connected", "redirect": None}
# Not fetch(), which a test may hold back. As a condition to wait for, it outlives a navigation.
FENCE = """() => new Promise((resolve) => {
  const request = new XMLHttpRequest();
  request.addEventListener("load", () => resolve(true));
  request.open("GET", "/fence/");
  request.send();
})"""


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with pytest.MonkeyPatch.context() as monkeypatch, sync_playwright() as playwright:
        # Playwright keeps an event loop in this thread, where Django then refuses the ORM.
        monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: "Browser") -> Iterator["Page"]:
    """A page in a profile of its own; an uncaught script error fails the test."""
    context = chromium.new_context(ignore_https_errors=True)
    context.set_default_timeout(30_000)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context.new_page()
    # An answer under way when the context closes is an error; and what comes now goes nowhere.
    context.set_offline(True)
    context.unroute_all(behavior="ignoreErrors")
    context.close()
    assert errors == []


class Site:
    """One page at ORIGIN; `provider` is the script served as the provider's."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.provider: str | None = ON_CLICK % '{valid: true, refreshToken: "rt-1"}'
        self.answers: list[dict[str, Any]] = []
        self.posts: list[dict[str, Any]] = []
        self.post_headers: dict[str, str] = {}
        self.visits: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self.html = ""
        page.context.route("**/*", self._serve)

    def open(
        self,
        *,
        head: str = "",
        before: str = "",
        tag: str = "{% leadexec_button %}",
        after: str = "",
        path: str = "/page/",
        until: Literal["load", "commit"] = "load",
    ) -> None:
        self.html = self.render(
            f'<!doctype html><html lang="en"><head><title>Page</title>{head}</head>'
            f"<body>{before}{tag}{after}</body></html>"
        )
        self.page.goto(ORIGIN + path, wait_until=until)

    def render(self, template: str, **attributes: object) -> str:
        request = RequestFactory().get("/page/")
        vars(request).update(attributes)
        return Template("{% load leadexec %}" + template).render(RequestContext(request))

    def answer(self, body: object = None, *, status: int = 200, **more: Any) -> None:
        """What the callback says next."""
        text = body if isinstance(body, str) else json.dumps(body)
        kind = "text/html" if isinstance(body, str) else "application/json"
        self.answers.append({"status": status, "body": text, "content_type": kind} | more)

    def click(self) -> None:
        self.page.locator("#leAppButton").click()

    def posted(self, count: int = 1) -> list[dict[str, Any]]:
        """The callback's posts, once there are that many, and no more that has begun."""
        self.wait_for(lambda: len(self.posts) >= count)
        self.settle()
        assert len(self.posts) == count
        return self.posts

    def stays(self) -> None:
        """The page has gone nowhere, nor begun to."""
        self.settle()
        assert self.visits == [("GET", "/page/")]

    def settle(self) -> None:
        """Whatever the page has sent until now has arrived here: its requests come in order."""
        self.page.wait_for_function(FENCE)

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "it did not happen within thirty seconds"
            self.page.wait_for_timeout(20)

    def says(self, role: str, text: str) -> "Locator":
        region = self.page.locator(f".leadexec [role={role}]").filter(has_text=text)
        region.wait_for()
        return region

    @property
    def alert(self) -> str:
        return self.page.locator(".leadexec [role=alert]").text_content() or ""

    def _serve(self, route: "Route") -> None:
        request = route.request
        path = urlsplit(request.url).path
        if request.url == f"{PROVIDER}/js/le-app-button.js":
            if self.provider is None:
                route.abort()
            else:
                route.fulfill(body=self.provider, content_type="text/javascript")
        elif request.url == f"{PROVIDER}/css/le-app-button.css":
            route.fulfill(body=".le-app-button { color: teal }", content_type="text/css")
        elif path.startswith("/static/"):
            found = finders.find(path.removeprefix("/static/"))
            assert isinstance(found, str), path
            route.fulfill(path=found)
        elif path == "/fence/":
            route.fulfill(body="")
        elif path == "/leadexec/callback/":
            self.posts.append(json.loads(request.post_data or ""))
            self.post_headers = request.headers
            # A test that says no more leaves the page waiting: it may have moved on by itself.
            answer = self.answers.pop(0) if self.answers else {"hang": True}
            if "abort" in answer:
                route.abort()
            elif "hang" not in answer:
                route.fulfill(**answer)
        else:
            self.visits.append((request.method, request.url.removeprefix(ORIGIN)))
            route.fulfill(
                body=self.html, content_type="text/html; charset=utf-8", headers=self.headers
            )


@pytest.fixture
def site(page: "Page") -> Site:
    return Site(page)
