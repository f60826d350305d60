"""Each state of the button and each page: axe, narrow and wide screens, both directions, print."""

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from django_leadexec.models import LeadExecConnection, PendingRevocation
from tests.browser.conftest import ORIGIN, Site, in_each_engine_and_scheme
from tests.browser.test_button_script import AUTOMATIC, stop_the_clock
from tests.browser.test_endings import DENIED, DOWN, rendered
from tests.factories import make_connection
from tests.needs import NODE_MODULES
from tests.visitor import link_shown, post

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.node]

FAULTS = """async () => (await axe.run()).violations.map(
  ({ id, nodes }) => `${id}: ${nodes.map((node) => node.target).join(", ")}`)"""
OVERFLOW = """() => {
  const { scrollWidth, clientWidth } = document.documentElement;
  return scrollWidth - clientWidth;
}"""
WIDTHS = (320, 390, 1280)
LONG = "acme-" + "w" * 80
HEAD = (
    '<meta name="viewport" content="width=device-width">'
    '<meta name="color-scheme" content="light dark">'
    # Without it axe takes dark pages for white, and has nothing to tell of white text on them.
    "<style>html { background: Canvas; color: CanvasText }</style>"
)


@pytest.fixture
def plain(site: Site) -> Site:
    """LeadExec's stylesheet comes, and leaves the colours alone."""
    site.stylesheet = ".le-app-button { letter-spacing: 0.01em }"
    return site


def examine(page: "Page", directions: tuple[str, ...] = ("rtl", "ltr")) -> None:
    """Run axe in light and dark, and look for what is wider than the screen.

    Firefox is light or dark as a whole, whatever it is told here. In forced colours axe takes a
    button's text for the colour that the stylesheet gives it (-webkit-text-fill-color), so it has
    nothing true to tell of them: test_look measures what is shown.
    """
    page.add_script_tag(content=(NODE_MODULES / "axe-core" / "axe.min.js").read_text("utf-8"))
    # Half way from one colour to the other, the contrast is nobody's.
    page.add_style_tag(content="* { transition: none !important }")
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(FAULTS) == [], scheme
    for direction in directions:
        page.evaluate("(dir) => { document.documentElement.dir = dir; }", direction)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate(OVERFLOW) <= 0, (direction, width)
    page.emulate_media(forced_colors="active")
    assert page.evaluate(OVERFLOW) <= 0
    page.emulate_media(forced_colors="none", media="print")
    assert page.evaluate(OVERFLOW) <= 0
    page.emulate_media(media="screen")


# The button


def at_rest(site: Site) -> None:
    site.page.locator("#leAppButton").wait_for()
    site.wait_for(site.has_providers_stylesheet)


def busy(site: Site) -> None:
    site.answer(hang=True)
    site.click()
    site.says("status", "Connecting…")


def refused(site: Site) -> None:
    site.answer(DENIED, status=422)
    site.click()
    site.says("alert", "No.")


def may_try_again(site: Site) -> None:
    site.answer(DOWN, status=502)
    site.click()
    site.page.get_by_role("button", name="Try again").wait_for()


def recognized(site: Site) -> None:
    site.answer({"status": "ignored", "redirect": None})
    site.page.evaluate(AUTOMATIC)
    site.page.get_by_role("button", name="Continue with LeadExec").wait_for()


def connected_by_itself(site: Site) -> None:
    site.answer({"status": "connected", "redirect": None})
    site.page.evaluate(AUTOMATIC)
    site.says("status", "You are connected with LeadExec.")


def loading(site: Site) -> None:
    site.page.route("**/le-app-button.js", lambda route: None)
    site.page.evaluate("dispatchEvent(new Event('leadexec:load'))")
    site.click()
    site.says("status", "Loading LeadExec…")


def not_answered(site: Site) -> None:
    site.provider = ""
    stop_the_clock(site)
    site.click()
    site.wait_for(site.has_providers_stylesheet)
    site.page.clock.fast_forward(21_000)
    site.says("alert", "LeadExec has not answered.")
    site.page.clock.resume()


def unfit(site: Site) -> None:
    site.faults.allow("AuthorizeResult can't be replaced")
    site.page.add_script_tag(content="const AuthorizeResult = () => {};")
    site.click()
    site.says("alert", "This button does not work on this page.")


def to_be_reloaded(site: Site) -> None:
    site.answer({"error": {"code": "reload", "message": "Another visitor."}}, status=409)
    site.click()
    site.page.get_by_role("button", name="Reload").wait_for()


STATES = [at_rest, busy, refused, may_try_again, recognized, connected_by_itself]
STATES += [loading, not_answered, unfit, to_be_reloaded]
# In these nothing is fetched before the click.
ASKED_BY_A_CLICK = [loading, not_answered]


@in_each_engine_and_scheme
@pytest.mark.parametrize("state", STATES)
def test_the_button_in_each_state(plain: Site, state: Callable[[Site], None]):
    load = "click" if state in ASKED_BY_A_CLICK else "page"
    tag = f'{{% leadexec_button load="{load}" %}}'
    plain.open(head=HEAD, before="<main><h1>A page</h1>", tag=tag, after="</main>")
    state(plain)
    examine(plain.page)


@pytest.mark.parametrize("status", ["active", "rejected"])
@pytest.mark.parametrize("account", ["acme", LONG, ""])
def test_the_button_of_a_visitor_with_a_connection(plain: Site, monkeypatch, status, account):
    html = rendered(plain, monkeypatch, status=status, account_id=account)
    plain.html = html.replace("<body>", f"{HEAD}<body><main><h1>A page</h1>") + "</main>"
    plain.page.goto(f"{ORIGIN}/page/")
    plain.page.locator(".leadexec").wait_for()
    examine(plain.page)


@in_each_engine_and_scheme
def test_the_button_while_it_disconnects(plain: Site, monkeypatch):
    html = rendered(plain, monkeypatch)
    plain.html = html.replace("<body>", f"{HEAD}<body><main><h1>A page</h1>") + "</main>"
    # Without an answer of its own the page stays.
    plain.page.route("**/leadexec/disconnect/", lambda route: route.fulfill(status=204))
    plain.page.goto(f"{ORIGIN}/page/")
    plain.page.get_by_role("button", name="Disconnect").click()
    plain.says("status", "Disconnecting…")
    examine(plain.page)


@pytest.mark.parametrize("account", ["acme", LONG, ""])
def test_the_button_of_a_visitor_with_a_link_to_finish(plain: Site, monkeypatch, account):
    waiting = SimpleNamespace(account_id=account)
    monkeypatch.setattr("django_leadexec.button._waiting_link", lambda request: waiting)
    monkeypatch.setattr("django_leadexec.button.live_connections", lambda *args: [])
    html = plain.render(
        f'<!doctype html><html lang="en"><head><title>Page</title>{HEAD}</head>'
        "<body><main><h1>A page</h1>{% leadexec_button %}</main>",
        user=SimpleNamespace(pk=1, is_authenticated=True),
    )
    plain.html = html
    plain.page.goto(f"{ORIGIN}/page/")
    plain.page.get_by_role("link", name="Finish connecting").wait_for()
    examine(plain.page)


def test_a_script_that_does_not_come(plain: Site):
    plain.provider = None
    plain.open(head=HEAD, before="<main><h1>A page</h1>", after="</main>")
    plain.says("alert", "LeadExec could not be loaded")
    examine(plain.page)


# The pages


@pytest.fixture
def browse(page: "Page", live_server, settings, provider, db) -> Callable[[Client, str], None]:
    """Opens a page as whoever is logged in to the client."""
    settings.DEBUG = True
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    # LeadExec's own files: nothing of them is examined here.
    page.route("https://apps.leadexec.net/**", lambda route: route.fulfill(body=""))

    def open_page(client: Client, path: str) -> None:
        value = client.cookies["sessionid"].value
        page.context.add_cookies([{"name": "sessionid", "value": value, "url": live_server.url}])
        page.goto(live_server.url + path)

    return open_page


def logged_in(**fields: Any) -> tuple[Any, Client]:
    user = get_user_model()._default_manager.create_user("ada", password="x", **fields)
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return user, client


@pytest.mark.django_db(transaction=True)
class TestPages:
    def test_connect(self, browse, page, settings):
        settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": "https://apps.leadexec.net"}
        _, client = logged_in()
        browse(client, "/leadexec/connect/")
        page.locator("#leAppButton").wait_for()
        examine(page)

    def test_confirm(self, browse, page, settings):
        settings.LEADEXEC = settings.LEADEXEC | {"SIGN_IN": True}
        _, client = logged_in()
        post(client, "t")
        assert link_shown(client)
        browse(client, "/leadexec/confirm/")
        page.get_by_role("button", name="Connect", exact=True).wait_for()
        [first, second] = page.get_by_role("button").all()
        assert (first.inner_text(), second.inner_text()) == ("Connect", "Don't connect")
        examine(page)
        page.get_by_text("Use another LeadExec account").click()
        examine(page)

    @pytest.mark.parametrize(
        ("path", "action"),
        [
            ("leadexecconnection/", ""),
            ("leadexecconnection/", "revoke_selected"),
            ("leadexecconnection/", "delete_selected"),
            ("pendingrevocation/", ""),
            ("pendingrevocation/", "let_go"),
        ],
    )
    def test_the_admin(self, browse, page, path, action):
        _, client = logged_in(is_staff=True, is_superuser=True)
        make_connection("t", account_id="acme")
        gone = make_connection("gone", account_id=LONG)
        LeadExecConnection.objects.filter(pk=gone.pk).move_to_outbox()
        PendingRevocation.objects.update(requested_at=timezone.now() - timedelta(days=31))
        browse(client, f"/admin/django_leadexec/{path}")
        if action:
            page.locator("#action-toggle").check()
            page.locator("select[name=action]").select_option(action)
            page.get_by_role("button", name="Run", exact=True).or_(
                page.get_by_role("button", name="Go", exact=True)
            ).click()
            page.locator("form input[name=post]").wait_for(state="attached")
        # The admin has a stylesheet of its own for the other direction, which it links by language.
        examine(page, directions=("ltr",))
