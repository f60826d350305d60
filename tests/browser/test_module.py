"""leadexec.esm.js in pages that no template has made: the documented examples, and bad days."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone

from django_leadexec import csp
from django_leadexec.models import LeadExecConnection, PendingRevocation
from tests.browser.conftest import (
    CONNECTED,
    NOT_LOADED,
    ON_CLICK,
    ORIGIN,
    TRUSTED_TYPES,
    Faults,
    Site,
    body_of,
    in_each_engine,
    in_each_origin,
)
from tests.browser.spa_urls import ROOT, block, example
from tests.browser.test_button_script import AUTOMATIC, RECORD_EVENTS, VIOLATIONS, seen
from tests.browser.test_flows import Visitor
from tests.browser.test_policies import header
from tests.needs import NODE_MODULES
from tests.processes import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

STATIC = ROOT / "django_leadexec" / "static" / "django_leadexec"
SHELL = '<!doctype html><html lang="en"><title>App</title><main id="app"></main>'


class SinglePage(Visitor):
    """A person at the page of the first example."""

    path = "/leads/"

    def open(self) -> None:
        self.page.goto(self.url + self.path)
        self.page.locator("#leadexec *").first.wait_for()

    def consent(self) -> None:
        with self.page.expect_popup() as opened:
            self.page.locator("#leAppButton").click()
        opened.value.get_by_role("button", name="Consent").click()


@pytest.fixture
def ada() -> Any:
    return get_user_model()._default_manager.create_user("ada", password="lovelace")


@pytest.fixture
def visitor(page: "Page", live_server, settings, sandbox) -> Iterator[SinglePage]:
    settings.ROOT_URLCONF = "tests.browser.spa_urls"
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "rest_framework"]
    yield SinglePage(page, live_server.url)
    # What is still under way must not meet the next test's database.
    page.wait_for_load_state("networkidle")
    wait_until(lambda: not PendingRevocation.objects.exists())


@in_each_engine
@in_each_origin
def test_the_example_connects_calls_the_api_and_disconnects_on_one_page(visitor, ada):
    visitor.has_session_of(ada)
    visitor.open()
    page = visitor.page
    page.evaluate("window.same = true")
    visitor.consent()
    page.locator(".leadexec-account").wait_for()
    page.locator("#types li").first.wait_for()
    page.locator(".leadexec [role=status]").filter(has_text="You are connected").wait_for()
    page.get_by_role("button", name="Disconnect").click()
    page.locator("#leAppButton").wait_for()
    page.locator(".leadexec [role=status]").filter(has_text="LeadExec is disconnected.").wait_for()
    assert page.locator("#types li").count() == 0
    assert page.evaluate("window.same") is True
    assert not LeadExecConnection.objects.live().exists()


def test_it_connects_again_after_it_was_disconnected(visitor, ada):
    visitor.has_session_of(ada)
    visitor.open()
    for _ in range(2):
        visitor.consent()
        visitor.page.get_by_role("button", name="Disconnect").click()
        visitor.page.locator("#leAppButton").wait_for()
    assert LeadExecConnection.objects.count() == 2


def bundled(tmp_path) -> str:
    """The React example and what it imports, as one script."""
    source: Path = tmp_path / "app.jsx"
    source.write_text(example("jsx"), "utf-8")
    subprocess.run(
        [
            NODE_MODULES / ".bin" / "esbuild",
            source,
            "--bundle",
            "--jsx=automatic",
            "--log-level=warning",
            f"--alias:leadexec={STATIC / 'leadexec.esm.js'}",
            f"--outfile={tmp_path / 'app.js'}",
        ],
        env={"NODE_PATH": str(NODE_MODULES), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        check=True,
        timeout=60,
    )
    script: Path = tmp_path / "app.js"
    return script.read_text("utf-8")


@pytest.mark.node
def test_the_react_example_works(visitor, ada, tmp_path):
    script = bundled(tmp_path)
    page = visitor.page
    page.route("**/react/", lambda route: route.fulfill(content_type="text/html", body=SHELL))
    visitor.has_session_of(ada)
    page.goto(f"{visitor.url}/react/")
    page.add_script_tag(content=script)
    page.get_by_text("0 connected").wait_for()
    visitor.consent()
    page.get_by_text("1 connected").wait_for()
    page.get_by_role("button", name="Disconnect").click()
    page.get_by_text("0 connected").wait_for()
    page.locator("#leAppButton").wait_for()


# Bad days

DENIED = {"error": {"code": "rejected", "message": "No."}}
DISCONNECTED = {"status": "disconnected", "message": "It is disconnected.", "redirect": "/"}
PAGE = """<!doctype html><html lang="en"><head><title>Page</title>%s</head><body>
<div id="place"></div><script type="module" nonce="n">
import * as leadexec from "/static/django_leadexec/leadexec.esm.js";
window.leadexec = leadexec;
window.button = leadexec.connect(document.querySelector("#place"), %s);
</script></body></html>"""


class BarePage:
    """A page with the module, on a site that the test plays."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.monkeypatch = site, monkeypatch
        self.disconnects: list[Any] = []
        self.disconnect_answer: dict[str, Any] = {"json": DISCONNECTED}
        self.show()
        site.page.route("**/leadexec/disconnect/", self._disconnect)

    def show(self, *connections: Any) -> None:
        """What leadexec:state says from now on: the visitor has these connections."""
        rows = [
            SimpleNamespace(status="active", account_id=name, pk=number, created_at=timezone.now())
            for number, name in enumerate(connections, 1)
        ]
        self.monkeypatch.setattr("django_leadexec.button.live_connections", lambda *args: rows)
        user = SimpleNamespace(is_authenticated=bool(rows), pk=1)
        self.site.state = {
            "button": self.site.render("{% leadexec_button %}", user=user),
            "csrf_header": "X-CSRFToken",
            "disconnect_url": "/leadexec/disconnect/",
            "connections": [{"id": row.pk, "status": "active"} for row in rows],
        }

    def open(self, options: str = "{}", head: str = RECORD_EVENTS) -> None:
        self.site.html = PAGE % (head, options)
        self.site.page.goto(f"{ORIGIN}/page/")

    def _disconnect(self, route: Any) -> None:
        self.disconnects.append(body_of(route.request))
        self.show()
        route.fulfill(**self.disconnect_answer)


@pytest.fixture
def bare(site: Site, monkeypatch: pytest.MonkeyPatch) -> BarePage:
    return BarePage(site, monkeypatch)


@in_each_engine
def test_a_click_posts_and_the_page_stays_and_shows_the_connection(bare: BarePage, site: Site):
    site.answer(CONNECTED)
    bare.open()
    site.page.locator("#leAppButton").wait_for()
    bare.show("acme")
    site.click()
    account = site.page.locator(".leadexec-account:focus")
    account.wait_for()
    assert "Connected with LeadExec as acme" in (account.text_content() or "")
    site.says("status", "You are connected with LeadExec.")
    assert site.posted()[0] | {"visitor": ""} == {
        "token": "rt-1",
        "gesture": True,
        "visitor": "",
        "next": None,
        "page": None,
    }
    site.stays()


def test_an_automatic_return_moves_no_focus(bare: BarePage, site: Site):
    site.provider = "setTimeout(() => { window.call = () => " + AUTOMATIC + " });"
    site.answer({"status": "signed_in", "redirect": None})
    bare.open()
    site.page.wait_for_function("typeof call == 'function'")
    bare.show("acme")
    site.page.evaluate("call()")
    site.page.locator(".leadexec-account").wait_for()
    assert site.page.evaluate("document.activeElement === document.body")
    site.stays()


def test_an_error_is_told_in_place_as_for_the_tag(bare: BarePage, site: Site):
    site.answer(DENIED, status=422)
    bare.open()
    site.click()
    site.says("alert", "No.")
    assert [detail.get("code") for detail in seen(site, "authorize", "error")] == [None, "rejected"]


def test_a_disconnect_says_that_it_works_and_what_came_of_it(bare: BarePage, site: Site):
    bare.show("acme", "globex")
    bare.open(
        head="<script>addEventListener('leadexec:disconnected', (event) => {"
        "window.told = event.detail; });</script>"
    )
    button = site.page.get_by_role("button", name="Disconnect").nth(1)
    button.click()
    site.says("status", "It is disconnected.")
    assert bare.disconnects == [{"connection": "2"}]
    assert site.page.evaluate("told") == {
        "status": "disconnected",
        "message": "It is disconnected.",
    }
    site.page.locator("#leAppButton:focus").wait_for()
    site.stays()


def test_a_disconnect_that_fails_is_told_and_can_be_tried_again(
    bare: BarePage, site: Site, faults: Faults
):
    faults.allow(NOT_LOADED)
    bare.show("acme")
    bare.disconnect_answer = {"status": 403, "json": {"error": {"code": "csrf", "message": "Old."}}}
    bare.open()
    site.page.get_by_role("button", name="Disconnect").click()
    site.says("status", "Old.")
    assert seen(site, "error") == [{"code": "csrf", "message": "Old."}]
    bare.disconnect_answer = {"json": DISCONNECTED}
    site.page.get_by_role("button", name="Disconnect").click()
    site.says("status", "It is disconnected.")


def test_a_disconnect_without_a_network_is_told_in_the_sites_words(
    bare: BarePage, site: Site, faults: Faults
):
    faults.allow(NOT_LOADED)
    bare.show("acme")
    bare.open()
    button = site.page.get_by_role("button", name="Disconnect")
    button.wait_for()
    site.page.route("**/leadexec/state/", lambda route: route.abort())
    button.click()
    site.says("status", "This site could not be reached.")


NO_SENSE = "Something went wrong. Reload the page and try again."


@pytest.mark.parametrize("connections", [(), ("acme",)])
def test_an_answer_that_makes_no_sense_is_told_in_the_sites_words(
    bare: BarePage, site: Site, connections: tuple[str, ...]
):
    bare.show(*connections)
    bare.open()
    site.page.locator(".leadexec").wait_for()
    site.csrf_token = None  # the state is an error page
    site.page.evaluate("button.refresh().catch(() => {})")
    site.says("status", NO_SENSE)
    assert seen(site, "error") == [{"code": "unexpected", "message": NO_SENSE}]
    failing = "leadexec.disconnect().catch((error) => error.message)"
    assert site.page.evaluate(failing) == NO_SENSE


def test_the_example_says_in_the_pages_words_that_the_button_does_not_come(
    bare: BarePage, site: Site
):
    site.html = (
        f'<!doctype html><html lang="en"><title>Page</title><body>{block("html", "problem")}'
        f'<script type="module">{block("js", "problem")}</script></body></html>'
    )
    site.csrf_token = None
    site.page.goto(f"{ORIGIN}/page/")
    site.page.get_by_text("LeadExec can't be used just now.").wait_for()
    site.csrf_token = "s" * 64
    again = site.page.get_by_role("button", name="Try again")
    again.click()
    site.page.locator("#leAppButton").wait_for()
    again.wait_for(state="hidden")
    assert site.page.get_by_role("alert").first.text_content() == ""


def test_a_page_can_say_an_error_itself(bare: BarePage, site: Site):
    bare.open(
        head=f"{RECORD_EVENTS}<script>"
        "addEventListener('leadexec:error', (event) => event.preventDefault());</script>"
    )
    site.page.locator("#leAppButton").wait_for()
    site.csrf_token = None
    site.page.evaluate("button.refresh().catch(() => {})")
    assert seen(site, "error") == [{"code": "unexpected", "message": NO_SENSE}]
    assert site.page.get_by_role("status").text_content() == ""


def test_a_disconnect_counts_though_the_new_state_does_not_come(
    bare: BarePage, site: Site, faults: Faults
):
    faults.allow(NOT_LOADED)
    bare.show("acme")
    bare.open()
    site.page.get_by_role("button", name="Disconnect").wait_for()
    # The state answers once more, for the token.
    asked: list[str] = []

    def answer_once(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(json={"csrf_token": "s" * 64} | site.state)
        else:
            route.abort()

    site.page.route("**/leadexec/state/*", answer_once)
    site.page.route("**/leadexec/state/", answer_once)
    answer = site.page.evaluate("leadexec.disconnect()")
    assert answer["status"] == "disconnected"
    assert seen(site, "error")[0]["code"] == "network"


def test_disconnect_works_without_a_button(bare: BarePage, site: Site):
    bare.open()
    site.page.locator("#leAppButton").wait_for()
    found = site.page.evaluate(
        "async () => { button.remove(); const heard = [];"
        "addEventListener('leadexec:disconnected', (event) => heard.push(event.detail.status));"
        "const answer = await leadexec.disconnect(7); return [answer, heard]; }"
    )
    answer = {"status": "disconnected", "message": "It is disconnected."}
    assert found == [answer, ["disconnected"]]
    assert bare.disconnects == [{"connection": 7}]


def test_what_fails_has_a_code(bare: BarePage, site: Site, faults: Faults):
    faults.allow(NOT_LOADED)
    bare.open()
    site.page.locator("#leAppButton").wait_for()
    site.csrf_token = None  # the state is an error page
    code = (
        "leadexec.state().catch((error) => [error instanceof leadexec.LeadExecError, error.code])"
    )
    assert site.page.evaluate(code) == [True, "unexpected"]
    site.page.route("**/leadexec/state/", lambda route: route.abort())
    assert site.page.evaluate(code) == [True, "network"]


def test_a_site_that_cannot_be_reached_is_told_by_an_event_and_nothing_else(
    bare: BarePage, site: Site, faults: Faults
):
    site.csrf_token = None
    bare.open()
    assert seen(site, "error")[0]["code"] == "unexpected"
    site.csrf_token = "s" * 64
    site.page.evaluate("button.refresh()")
    site.page.locator("#leAppButton").wait_for()
    assert faults.left() == []


def test_one_that_was_removed_meanwhile_shows_nothing(bare: BarePage, site: Site):
    bare.open()
    site.page.locator("#leAppButton").wait_for()
    site.page.evaluate(
        "async () => { const late = button.refresh(); button.remove(); await late; }"
    )
    assert site.page.locator("#place").inner_html() == ""


MOVE = """() => {
  const other = document.createElement("div");
  other.id = "other";
  document.body.append(other);
  return leadexec.connect(other).ready;
}"""


def test_a_second_call_moves_the_button(bare: BarePage, site: Site):
    site.answer(DENIED, status=422)
    site.provider = f"{site.provider} window.hasRun = true;"
    bare.open()
    site.page.wait_for_function("window.hasRun")
    site.page.evaluate(MOVE)
    assert site.page.locator("#place").inner_html() == ""
    assert site.page.locator("#leAppButton").count() == 1
    site.page.locator("#other #leAppButton").click()
    site.says("alert", "No.")


def hold_script(site: Site) -> list[Any]:
    """The page's requests for the provider's script, which the test answers."""
    held: list[Any] = []
    site.page.route("**/le-app-button.js", lambda route: held.append(route))
    return held


def test_a_script_still_under_way_serves_the_button_where_it_has_moved_to(
    bare: BarePage, site: Site
):
    held = hold_script(site)
    bare.open()
    site.wait_for(lambda: held)
    site.page.evaluate(MOVE)
    site.page.locator("#other #leAppButton").click()
    site.says("status", "Loading LeadExec…")
    site.settle()
    script = ON_CLICK % '{valid: false, error: "No."}' + "window.runs = (window.runs ?? 0) + 1;"
    for route in held:
        route.fulfill(body=script, content_type="text/javascript")
    site.says("alert", "No.")
    site.settle()
    # Twice, and one click would open two dialogs.
    assert site.page.evaluate("runs") == 1
    site.wait_for(site.has_providers_stylesheet)


def test_a_script_that_finds_no_button_is_asked_for_again_by_the_next(
    bare: BarePage, site: Site, faults: Faults
):
    held = hold_script(site)
    bare.open()
    site.wait_for(lambda: held)
    site.page.evaluate("leadexec.connect(document.createElement('div')).remove()")
    script = ON_CLICK % '{valid: false, error: "No."}'
    held.pop().fulfill(body=script, content_type="text/javascript")
    site.wait_for(lambda: faults.found)
    faults.found.clear()
    site.page.evaluate(MOVE)
    site.wait_for(lambda: held)
    held.pop().fulfill(body=script, content_type="text/javascript")
    site.page.locator("#other #leAppButton").click()
    site.says("alert", "No.")


def test_the_options_reach_the_site(bare: BarePage, site: Site):
    asked = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(json=site.state)

    site.page.route("**/elsewhere/?*", answer)
    bare.open("{stateUrl: '/elsewhere/', label: 'Go & go', next: '/x/', load: 'click'}")
    site.page.locator("#leAppButton").wait_for()
    assert asked == [f"{ORIGIN}/elsewhere/?label=Go+%26+go&next=%2Fx%2F&load=click&button="]


def test_onstate_gets_what_is_so_and_its_own_error_is_reported(
    bare: BarePage, site: Site, faults: Faults
):
    bare.show("acme")
    bare.open("{onState(known) { window.known = known; throw new Error('of the page'); }}")
    site.page.wait_for_function("window.known")
    known = site.page.evaluate("known")
    assert known["connections"] == [{"id": 1, "status": "active"}]
    assert "button" not in known
    site.wait_for(lambda: faults.found)
    faults.allow("of the page")


def test_the_tags_script_and_the_module_are_one(bare: BarePage, site: Site):
    site.answer(DENIED, status=422)
    bare.open(
        head=RECORD_EVENTS + '<script src="/static/django_leadexec/leadexec.min.js" defer></script>'
    )
    site.click()
    site.says("alert", "No.")
    site.posted(1)


STRICT: dict[str, list[str]] = {
    "default-src": ["'none'"],
    "script-src": ["'nonce-n'"],
    "style-src": ["'nonce-n'"],
    "base-uri": ["'none'"],
    "require-trusted-types-for": ["'script'"],
    "trusted-types": ["another"],
}


@in_each_engine
def test_a_strict_policy_is_never_violated(bare: BarePage, site: Site):
    policy = {**STRICT, **csp.directives({}, STRICT)}
    site.headers["Content-Security-Policy"] = header(policy)
    site.page.add_init_script(VIOLATIONS)
    site.answer(DENIED, status=422)
    bare.open("{nonce: 'n'}", head="")
    site.click()
    site.says("alert", "No.")
    site.wait_for(site.has_providers_stylesheet)
    assert site.page.evaluate("violations") == []
    assert (
        site.page.locator("#leAppButton").evaluate("e => getComputedStyle(e).cursor") == "pointer"
    )


@in_each_engine
@pytest.mark.parametrize("allowed", ["another", "django-leadexec"])
def test_a_page_that_knows_no_such_policy_is_told_that_it_is_the_pages_fault(
    bare: BarePage, site: Site, faults: Faults, allowed: str
):
    faults.allow(*TRUSTED_TYPES)
    policy = f"require-trusted-types-for 'script'; trusted-types {allowed}"
    site.headers["Content-Security-Policy"] = policy
    bare.open()
    [told] = seen(site, "error")
    assert told["code"] == "page"
    assert told["message"].startswith("This button does not work on this page.")
    failing = "button.ready.catch((error) => [error instanceof leadexec.LeadExecError, error.code])"
    assert site.page.evaluate(failing) == [True, "page"]
