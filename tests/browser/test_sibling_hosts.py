"""Another site under the same domain plants a session of its own in the victim's browser.

The site's own cookies are host-only. A cookie for the whole domain goes along with them, and where
it is the newer one, Django takes it.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from django_leadexec import pending_link
from django_leadexec.models import LeadExecConnection
from django_leadexec.visitor_mark import mark_of
from tests.factories import make_connection, make_user
from tests.provider import Provider
from tests.visitor import LOGIN, agree, post

from . import urls
from .conftest import NOT_LOADED, ON_CLICK, Faults, in_each_engine, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SITE, SIBLING = "www.example.test", "blog.example.test"


def plant(request: HttpRequest) -> HttpResponse:
    """A page of the sibling's."""
    response = HttpResponse("<title>Blog</title>")
    session, where = request.GET["session"], request.GET["path"]
    response.set_cookie("sessionid", session, domain="example.test", path=where, httponly=True)
    return response


urlpatterns = [path("plant/", plant), *urls.urlpatterns]


class Victim:
    """A person at the site's page, in a browser that somebody else can set cookies in."""

    def __init__(self, page: "Page", port: int) -> None:
        self.page = page
        self.port = port
        self.site = f"http://{SITE}:{port}"

    def log_in(self, user: Any) -> None:
        client = Client()
        client.force_login(user, backend=LOGIN)
        key = client.cookies["sessionid"].value
        self.page.context.add_cookies([{"name": "sessionid", "value": key, "url": self.site}])

    def open(self) -> None:
        self.page.goto(f"{self.site}/strict/")

    def visits_the_sibling(self, attacker: Client, cookie_path: str = "/") -> None:
        """In another tab."""
        session = attacker.cookies["sessionid"].value
        query = urlencode({"session": session, "path": cookie_path})
        tab = self.page.context.new_page()
        tab.goto(f"http://{SIBLING}:{self.port}/plant/?{query}")
        tab.close()

    def click(self) -> None:
        self.page.locator("#leAppButton").click()

    def is_refused(self) -> str:
        """Click; the code of the error that the page is told."""
        with self.page.expect_response("**/leadexec/callback/") as answered:
            self.click()
        return str(answered.value.json()["error"]["code"])

    def logs_in(self) -> None:
        """By the form that the page has led to."""
        self.page.locator("[name=username]").fill("victim")
        self.page.locator("[name=password]").fill("secret")
        self.page.locator("[name=password]").press("Enter")

    def reload(self) -> str:
        """Press what the page offers; whom it is for then."""
        with self.page.expect_navigation():
            self.page.get_by_role("button", name="Reload").click()
        return self.page.locator("h1").inner_text()


@pytest.fixture(params=[False, True], ids=["", "SIGN_IN"])
def sign_in(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[False, True], ids=["", "CSRF_USE_SESSIONS"])
def csrf_in_session(request: pytest.FixtureRequest, settings: Settings) -> bool:
    settings.CSRF_USE_SESSIONS = request.param
    return bool(request.param)


@pytest.fixture
def victim(
    browser: "Browser", faults: Faults, live_server: LiveServer, settings: Settings,
    provider: Provider, configure: Callable[..., None], sign_in: bool, csrf_in_session: bool,
) -> Iterator[Victim]:  # fmt: skip
    settings.ROOT_URLCONF = __name__
    settings.LOGIN_REDIRECT_URL = "/strict/"
    settings.ALLOWED_HOSTS = [".example.test", "testserver"]
    configure(SIGN_IN=sign_in)
    # Without TLS the hosts are not "trustworthy", and each refusal is an error.
    faults.allow("Cross-Origin-Opener-Policy header has been ignored", NOT_LOADED)
    script = ON_CLICK % '{valid: true, refreshToken: "victims"}'
    with open_page(browser, faults) as page:
        page.context.route(f"{provider.url}/**", lambda route: route.fulfill(body=script))
        yield Victim(page, live_server.thread.port)
        page.wait_for_load_state("networkidle")


@pytest.fixture
def attacker() -> Client:
    client = Client()
    client.force_login(make_user("attacker"), backend=LOGIN)
    return client


def assert_gained_nothing(attacker: Client) -> None:
    assert pending_link.KEY not in attacker.session
    agree(attacker)
    assert not LeadExecConnection.objects.filter(user__username="attacker").exists()


def test_a_session_planted_over_the_victims_gets_nothing_from_an_open_page(
    victim: Victim, attacker: Client, provider: Provider, csrf_in_session: bool
) -> None:
    victim.log_in(make_user("victim"))
    victim.open()
    victim.visits_the_sibling(attacker)
    assert victim.is_refused() == ("csrf" if csrf_in_session else "reload")
    # The cookie counts, on the whole site. So names that begin with __Host- are advised.
    assert victim.reload() == "attacker"
    assert not provider.calls
    assert_gained_nothing(attacker)


def test_the_mark_is_all_that_is_in_its_way(
    victim: Victim, attacker: Client, sign_in: bool, csrf_in_session: bool
) -> None:
    victim.log_in(make_user("victim"))
    victim.open()
    victim.visits_the_sibling(attacker)
    user = attacker.get("/strict/").wsgi_request.user
    victim.page.locator(".leadexec").evaluate(
        "(tag, mark) => { tag.dataset.visitor = mark; }", mark_of(user)
    )
    if csrf_in_session:
        assert victim.is_refused() == "csrf"
        return
    victim.click()
    connected = victim.page.locator(".leadexec-connected")
    asked = victim.page.get_by_role("button", name="Connect", exact=True)
    (asked if sign_in else connected).wait_for()
    agree(attacker)
    assert LeadExecConnection.objects.get().user == user


@in_each_engine
@pytest.mark.parametrize("cookie_path", ["/", "/leadexec/"])
def test_a_session_planted_for_a_stranger_gets_nothing(
    victim: Victim, attacker: Client, provider: Provider, sign_in: bool, csrf_in_session: bool,
    cookie_path: str,
) -> None:  # fmt: skip
    if sign_in:
        make_connection("victims", user=make_user("victim"))
    victim.open()
    victim.visits_the_sibling(attacker, cookie_path)
    # A page for strangers gets its CSRF token at the click, for the session of then.
    assert victim.is_refused() == "reload"
    # A token in the session is written to it, which sends its cookie for the whole site.
    counts_everywhere = cookie_path == "/" or csrf_in_session
    assert victim.reload() == ("attacker" if counts_everywhere else "nobody")
    assert not provider.calls
    assert_gained_nothing(attacker)


def test_a_strangers_session_that_was_planted_keeps_no_link(
    victim: Victim, provider: Provider
) -> None:
    attacker = Client()
    post(attacker, "attackers")
    assert pending_link.KEY in attacker.session
    planted = attacker.session.session_key
    make_user("victim", password="secret")
    victim.open()
    victim.visits_the_sibling(attacker)
    victim.click()
    victim.page.locator("[name=username]").wait_for()
    attacker.cookies["sessionid"] = str(planted)
    attacker.force_login(make_user("attacker"), backend=LOGIN)
    assert_gained_nothing(attacker)
    victim.logs_in()
    victim.page.get_by_role("button", name="Connect", exact=True).click()
    victim.page.wait_for_url("**/strict/")
    assert LeadExecConnection.objects.get().user.username == "victim"


def test_a_session_planted_before_a_yes_on_the_confirm_page_gets_nothing(
    victim: Victim, attacker: Client
) -> None:
    make_user("victim", password="secret")
    victim.open()
    victim.click()
    victim.logs_in()
    yes = victim.page.get_by_role("button", name="Connect", exact=True)
    yes.wait_for()
    victim.visits_the_sibling(attacker)
    with victim.page.expect_navigation():
        yes.click()
    assert not LeadExecConnection.objects.exists()
