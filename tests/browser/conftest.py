"""A real browser, and a site of one page whose provider and callback a test plays itself."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

import pytest
from django.contrib.staticfiles import finders
from django.template import RequestContext, Template
from django.test import RequestFactory
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from django_leadexec.visitor_mark import mark_of
from tests.needs import find_chromium, find_firefox, skip_for_want

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Locator,
        Page,
        Playwright,
        Request,
        Route,
    )

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.example.test 127.0.0.1",
]
PREFERENCES: dict[str, str | float | bool] = {
    # It would be asked for on every page, and violate the policy of some.
    "browser.chrome.site_icons": False,
    "network.dns.localDomains": "www.example.test,blog.example.test",
}
ORIGIN = "https://site.test"
PROVIDER = "https://apps.leadexec.net"
# Calls back for a click, like the provider's script after its dialog.
ON_CLICK = """
document.getElementById("leAppButton").addEventListener("click", () => AuthorizeResult(%s));
"""
# The mark on the pages of who is not logged in.
STRANGER = mark_of(None)
# What a stranger's click has posted, from a page whose tag names no `next`.
POSTED_BY_A_CLICK = {
    "token": "rt-1",
    "gesture": True,
    "visitor": STRANGER,
    "next": None,
    "page": "/page/",
}
CONNECTED = {"status": "connected", "redirect": None}
# Not fetch(), which a test may hold back. As a condition to wait for, it outlives a navigation.
FENCE = """() => new Promise((resolve) => {
  const request = new XMLHttpRequest();
  request.addEventListener("load", () => resolve(true));
  request.open("GET", "/fence/");
  request.send();
})"""


# For a test of what the engines decide, each in its own way.
in_each_engine = pytest.mark.parametrize(
    "engine", ["chromium", pytest.param("firefox", marks=pytest.mark.firefox)]
)


# And for one of what it looks like: Chromium is told by the test whether the system is dark.
in_each_engine_and_scheme = pytest.mark.parametrize(
    "engine",
    [
        "chromium",
        pytest.param("firefox", marks=pytest.mark.firefox),
        pytest.param("dark_firefox", marks=pytest.mark.firefox),
    ],
)
# Where the sandbox plays LeadExec, for pages of localhost. Another address is another site, too.
in_each_origin = pytest.mark.parametrize(
    "provider_host", ["localhost", "127.0.0.1"], ids=["same-origin", "across-origins"]
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of an engine together, so that a browser is started once for many."""
    folder = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        if folder not in item.path.parents:
            return 2
        return 0 if item.get_closest_marker("firefox") else 1

    items.sort(key=place)


# Firefox does not tell Playwright what a page posts.
SHOW_BODIES = """{
  const fetched = window.fetch;
  window.fetch = (url, options = {}) => {
    const { body } = options;
    if (typeof body !== "string") return fetched(url, options);
    const headers = { ...options.headers, "X-Body": encodeURIComponent(body) };
    return fetched(url, { ...options, headers });
  };
}"""


@pytest.fixture(scope="package")
def playwright() -> Iterator["Playwright"]:
    from playwright.sync_api import sync_playwright

    with pytest.MonkeyPatch.context() as monkeypatch, sync_playwright() as playwright:
        # Playwright keeps an event loop in this thread, where Django then refuses the ORM.
        monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield playwright


@pytest.fixture(scope="package")
def chromium(playwright: "Playwright") -> Iterator["Browser"]:
    browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
    yield browser
    browser.close()


@contextmanager
def open_firefox(
    playwright: "Playwright", **preferences: str | float | bool
) -> Iterator["Browser"]:
    """The distribution's own; Playwright's would be patched."""
    from playwright.sync_api import Error

    browser = playwright.firefox.launch(
        channel="moz-firefox",
        executable_path=find_firefox(),
        firefox_user_prefs=PREFERENCES | preferences,
    )
    try:
        browser.new_context().close()
    except Error as error:
        version = browser.version
        browser.close()
        skip_for_want(f"this Playwright can't drive Firefox {version}: {error.message}")
    yield browser
    browser.close()


@pytest.fixture(scope="package")
def firefox(playwright: "Playwright") -> Iterator["Browser"]:
    with open_firefox(playwright) as browser:
        yield browser


@pytest.fixture(scope="package")
def dark_firefox(playwright: "Playwright") -> Iterator["Browser"]:
    """One whose system is dark, of which Playwright can't tell it."""
    with open_firefox(playwright, **{"layout.css.prefers-color-scheme.content-override": 0}) as it:
        yield it


@pytest.fixture
def provider_host() -> str:
    """The host of the sandbox. A test marked ``in_each_origin`` has another, too."""
    return "localhost"


@pytest.fixture
def sandbox(live_server: LiveServer, settings: Settings, provider_host: str) -> str:
    """The address of the sandbox, which is LeadExec in the settings."""
    url = f"http://{provider_host}:{live_server.thread.port}/sandbox"
    settings.DEBUG = True  # http, and the sandbox
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
    settings.LEADEXEC = settings.LEADEXEC | {
        "BASE_URL": url,
        "ACCOUNT_API_URL": f"{url}/account-api",
        "DATA_API_URL": f"{url}/data-api",
    }
    return url


@pytest.fixture
def engine() -> str:
    """What runs the test's pages. A test marked ``in_each_engine`` is run in Firefox too."""
    return "chromium"


@pytest.fixture
def browser(request: pytest.FixtureRequest, engine: str) -> "Browser":
    browser: Browser = request.getfixturevalue(engine)
    return browser


# What Chromium says of an answer that is an error, or does not come; of a policy that is broken;
# and of its own pages.
NOT_LOADED = "Failed to load resource"
BLOCKED = "Content Security Policy"
# What the engines say where Trusted Types don't allow a policy, and what follows.
TRUSTED_TYPES = [
    "Creating a TrustedTypePolicy named",
    "requires 'Trusted",
    "blocked creating a Trusted Types policy",
    "require-trusted-types-for",
]
CHROMIUMS_OWN = "Couldn't load preload assets"


class Faults:
    """What pages say is wrong: uncaught errors of scripts, errors and warnings of the console.

    They fail a test that does not allow them.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._allowed = [CHROMIUMS_OWN]

    def allow(self, *words: str) -> None:
        """The test causes what says any of these words."""
        self._allowed += words

    def left(self) -> list[str]:
        return [text for text in self.found if not any(words in text for words in self._allowed)]

    def watch(self, context: "BrowserContext") -> None:
        context.on("weberror", lambda error: self.found.append(str(error.error)))
        context.on("console", self.hear)

    def hear(self, message: "ConsoleMessage") -> None:
        if message.type in ("error", "warning"):
            # Only the address says what could not be loaded.
            self.found.append(f"{message.text} ({message.location['url']})")


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def page(browser: "Browser", faults: Faults) -> Iterator["Page"]:
    """A page in a profile of its own."""
    with open_page(browser, faults) as page:
        yield page


@contextmanager
def open_page(browser: "Browser", faults: Faults) -> Iterator["Page"]:
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(30_000)
    faults.watch(context)
    if browser.browser_type.name == "firefox":
        context.add_init_script(SHOW_BODIES)
    yield context.new_page()
    # An answer under way when the context closes is an error; and what comes now goes nowhere,
    # which the browser says of each.
    context.remove_listener("console", faults.hear)
    context.set_offline(True)
    context.unroute_all(behavior="ignoreErrors")
    context.close()
    left = faults.left()
    assert not left, "\n".join(left)


def body_of(request: "Request") -> Any:
    """The JSON that the page has posted."""
    return json.loads(request.post_data or unquote(request.headers["x-body"]))


class Site:
    """One page at ORIGIN; `provider` and `stylesheet` are served as the provider's."""

    def __init__(self, page: "Page", faults: Faults) -> None:
        self.page = page
        self.faults = faults
        self.provider: str | None = ON_CLICK % '{valid: true, refreshToken: "rt-1"}'
        self.stylesheet: str | None = ".le-app-button { color: teal }"
        self.answers: list[dict[str, Any]] = []
        self.posts: list[dict[str, Any]] = []
        self.post_headers: dict[str, str] = {}
        self.csrf_token: str | None = "s" * 64
        # What leadexec:state answers beside it.
        self.state: dict[str, Any] = {}
        self.states = 0
        self.asked: list[str] = []
        self.visits: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self.html = ""
        # The address of a server that a test runs itself: requests to it are left alone.
        self.real = "none"
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

    def has_providers_stylesheet(self) -> bool:
        """Whether it has come, and counts."""
        found = self.page.evaluate(
            "(url) => [...document.styleSheets].some((sheet) => "
            "sheet.href === url && sheet.media.mediaText !== 'print')",
            f"{PROVIDER}/css/le-app-button.css",
        )
        return bool(found)

    def says(self, role: str, text: str) -> "Locator":
        region = self.page.locator(f".leadexec [role={role}]").filter(has_text=text)
        region.wait_for()
        return region

    def asked_provider(self) -> list[str]:
        """The provider's files that were asked for until now."""
        self.settle()
        return self.asked

    @property
    def alert(self) -> str:
        return self.page.locator(".leadexec [role=alert]").text_content() or ""

    def _serve(self, route: "Route") -> None:
        request = route.request
        path = urlsplit(request.url).path
        if request.url.startswith(PROVIDER):
            self.asked.append(request.url.removeprefix(PROVIDER))
        if request.url.startswith(self.real):
            route.continue_()
        elif request.url == f"{PROVIDER}/js/le-app-button.js":
            if self.provider is None:
                self._fail(route)
            else:
                route.fulfill(body=self.provider, content_type="text/javascript")
        elif request.url == f"{PROVIDER}/css/le-app-button.css":
            if self.stylesheet is None:
                self._fail(route)
            else:
                route.fulfill(body=self.stylesheet, content_type="text/css")
        elif path.startswith("/static/"):
            found = finders.find(path.removeprefix("/static/"))
            assert isinstance(found, str), path
            route.fulfill(path=found)
        elif path == "/fence/":
            # Firefox takes what has no type for XML, and says that there is none.
            route.fulfill(body="", content_type="text/plain")
        elif path == "/leadexec/state/":
            self.states += 1
            if self.csrf_token is None:
                self._fail(route, status=500, body="<h1>Error</h1>", content_type="text/html")
            else:
                route.fulfill(json={"csrf_token": self.csrf_token} | self.state)
        elif path == "/leadexec/callback/":
            self.posts.append(body_of(request))
            self.post_headers = request.headers
            # A test that says no more leaves the page waiting: it may have moved on by itself.
            answer = self.answers.pop(0) if self.answers else {"hang": True}
            if "abort" in answer:
                self._fail(route)
            elif answer.get("status", 200) >= 400:
                self._fail(route, **answer)
            elif "hang" not in answer:
                route.fulfill(**answer)
        else:
            self.visits.append((request.method, request.url.removeprefix(ORIGIN)))
            route.fulfill(
                body=self.html, content_type="text/html; charset=utf-8", headers=self.headers
            )

    def _fail(self, route: "Route", **answer: Any) -> None:
        """Give an answer that is an error, or none. The browser will say so."""
        self.faults.allow(f"({route.request.url})")
        if answer:
            route.fulfill(**answer)
        else:
            route.abort()


@pytest.fixture
def site(page: "Page", faults: Faults) -> Site:
    return Site(page, faults)
