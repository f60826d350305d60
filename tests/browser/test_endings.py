"""Each way that a visit can end is told, in place, and leaves a next step."""

from types import SimpleNamespace

import pytest
from django.utils import timezone

from tests.browser.conftest import CONNECTED, ON_CLICK, ORIGIN, Faults, Site, in_each_engine
from tests.browser.test_button_script import RECORD_EVENTS, prevent, seen, stop_the_clock

pytestmark = pytest.mark.browser

AUTOMATIC = 'AuthorizeResult({valid: true, refreshToken: "rt-1"});'
WORKING = ON_CLICK % '{valid: true, refreshToken: "rt-1"}'
DENIED = {"error": {"code": "rejected", "message": "No."}}
DOWN = {"error": {"code": "unavailable", "message": "Down."}}
# Calls back with the next of window.results for each click.
IN_TURN = """
document.getElementById("leAppButton").addEventListener("click", () => {
  AuthorizeResult(window.results.shift());
});
window.listening = true;
"""


def rendered(site, monkeypatch, **fields):
    """A page with the tag, for a visitor with one connection; an active one to the account acme."""
    row = SimpleNamespace(status="active", account_id="acme", pk=7, created_at=timezone.now())
    vars(row).update(fields)
    monkeypatch.setattr("django_leadexec.button.live_connections", lambda *args: [row])
    return site.render(
        '<!doctype html><html lang="en"><title>Page</title><body>{% leadexec_button %}',
        user=SimpleNamespace(pk=1, is_authenticated=True),
    )


# The provider's script

# What the engines say of a page that comes in its place.
NO_SCRIPT = ["Unexpected token '<'", "expected expression, got '<'"]


@in_each_engine
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("throw new Error('broken')", ["broken"]),
        ("<!doctype html><h1>Down for maintenance</h1>", NO_SCRIPT),
        ("nothing()", ["nothing is not defined"]),
    ],
)
def test_a_script_that_fails_is_told_and_the_next_click_fetches_it_again(
    site: Site, faults: Faults, script, said
):
    faults.allow(*said)
    site.provider = script
    site.open(head=RECORD_EVENTS)
    site.says("alert", "LeadExec could not be loaded")
    assert seen(site, "error")[0]["code"] == "script"
    site.provider = WORKING
    site.answer(hang=True)
    site.click()
    assert site.posted()[0]["gesture"] is True
    assert site.alert == ""


def test_a_script_that_has_called_back_before_it_fails_has_worked(site: Site):
    site.provider = AUTOMATIC + "setTimeout(() => { window.ran = true; });"
    site.answer({"status": "ignored", "redirect": None})
    site.open(
        head="<script>window.AuthorizeResult = () => { throw new Error('of the page'); };</script>"
        "<script>window.addEventListener('error', (event) => event.preventDefault());</script>"
    )
    site.page.get_by_role("button", name="Continue with LeadExec").wait_for()
    assert site.alert == ""


@in_each_engine
def test_a_script_that_never_calls_back_is_told_and_fetched_again(site: Site):
    site.provider = "window.listening = true;"
    stop_the_clock(site)
    site.open(head=RECORD_EVENTS)
    site.page.wait_for_function("window.listening")
    site.click()
    site.page.clock.fast_forward(19_000)
    site.settle()
    assert site.alert == ""
    site.page.clock.fast_forward(2_000)
    site.says("alert", "LeadExec has not answered.")
    assert seen(site, "error")[0]["code"] == "no_answer"
    site.provider = WORKING
    site.answer(hang=True)
    site.click()
    assert site.posted()[0]["gesture"] is True
    assert site.alert == ""


@in_each_engine
def test_whoever_is_busy_in_its_dialog_is_not_disturbed(site: Site):
    site.provider = """document.getElementById("leAppButton").addEventListener("click", () => {
      const frame = document.createElement("iframe");
      frame.src = "/dialog/";
      frame.addEventListener("load", () => { frame.focus(); window.open_ = true; });
      document.body.append(frame);
    }); window.listening = true;"""
    stop_the_clock(site)
    site.open()
    site.page.wait_for_function("window.listening")
    site.click()
    site.page.wait_for_function("window.open_")
    site.page.clock.fast_forward(60_000)
    site.settle()
    assert site.alert == ""
    site.page.evaluate("document.querySelector('iframe').remove()")
    site.page.mouse.click(1, 1)
    site.page.clock.fast_forward(21_000)
    site.says("alert", "LeadExec has not answered.")


def test_a_late_answer_counts_and_takes_the_message_away(site: Site):
    site.provider = "window.call = () => " + AUTOMATIC
    site.answer(DENIED, status=422)
    stop_the_clock(site)
    site.open()
    site.page.wait_for_function("typeof call == 'function'")
    site.click()
    site.page.clock.fast_forward(21_000)
    site.says("alert", "LeadExec has not answered.")
    site.page.evaluate("call()")
    site.says("alert", "No.")
    assert site.posted()[0]["gesture"] is True


# One ending at a time


def test_try_again_never_stands_beside_a_later_refusal(site: Site):
    site.provider = IN_TURN
    site.answer(DOWN, status=502)
    site.open(
        head="<script>window.results = [{valid: true, refreshToken: 'rt-1'}, "
        "{valid: false, error: 'denied'}];</script>"
    )
    site.page.wait_for_function("window.listening")
    site.click()
    again = site.page.get_by_role("button", name="Try again")
    again.wait_for()
    site.click()
    site.says("alert", "LeadExec says: denied")
    assert again.is_hidden()
    site.page.evaluate("document.querySelector('.leadexec-continue').click()")
    site.posted(1)


def test_a_refusal_without_a_click_takes_an_older_offer_away(site: Site):
    site.provider = AUTOMATIC + "window.refuse = () => AuthorizeResult({valid: false});"
    site.answer({"status": "ignored", "redirect": None})
    site.open()
    offered = site.page.get_by_role("button", name="Continue with LeadExec")
    offered.wait_for()
    site.page.evaluate("refuse()")
    site.says("alert", "Nothing was connected.")
    assert offered.is_hidden()
    assert site.page.locator("#leAppButton").is_visible()


def test_a_click_clears_the_old_message_while_the_dialog_is_open(site: Site):
    site.provider = """document.getElementById("leAppButton").addEventListener("click", () => {
      if (window.clicked) return;
      window.clicked = true;
      AuthorizeResult({valid: true, refreshToken: "rt-1"});
    });"""
    site.answer(DOWN, status=502)
    site.open()
    site.click()
    site.page.get_by_role("button", name="Try again").wait_for()
    site.click()
    site.wait_for(lambda: site.alert == "")
    assert site.page.get_by_role("button", name="Try again").is_hidden()


def test_what_went_wrong_describes_the_button(site: Site):
    site.answer(DENIED, status=422)
    site.open()
    site.click()
    site.says("alert", "No.")
    button = site.page.locator("#leAppButton")
    described_by = button.get_attribute("aria-describedby")
    assert site.page.locator(f"[id='{described_by}']").text_content() == "No."


def test_of_two_buttons_with_one_meaning_only_one_is_there(site: Site):
    site.provider = AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.answer(DENIED, status=422)
    site.open()
    offered = site.page.get_by_role("button", name="Continue with LeadExec")
    offered.wait_for()
    assert site.page.locator("#leAppButton").is_hidden()
    offered.click()
    site.says("alert", "No.")
    assert offered.is_hidden()
    assert site.page.locator("#leAppButton").is_visible()


def test_a_rejected_visitor_who_is_recognized_sees_one_sentence_and_one_button(
    site: Site, monkeypatch
):
    site.html = rendered(site, monkeypatch, status="rejected")
    site.provider = AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.answer(DENIED, status=422)
    site.page.goto(f"{ORIGIN}/page/")
    offered = site.page.locator(".leadexec-continue")
    offered.wait_for()
    [button] = site.page.get_by_role("button").all()
    assert button.text_content() == "Reconnect LeadExec"
    text = site.page.locator(".leadexec").inner_text()
    assert "LeadExec no longer accepts your connection." in text
    assert "recognizes" not in text
    offered.click()
    assert site.posted(2)[1]["gesture"] is True
    site.says("alert", "No.")
    assert site.page.locator("#leAppButton").is_visible()


def test_whoever_had_the_focus_on_the_button_has_it_on_the_one_in_its_place(site: Site):
    site.provider = "window.call = () => " + AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.open()
    site.page.wait_for_function("typeof call == 'function'")
    site.page.locator("#leAppButton").focus()
    site.page.evaluate("call()")
    site.page.locator(".leadexec-continue:focus").wait_for()


# After connecting


@in_each_engine
def test_who_has_connected_is_told_and_has_the_focus_there(site: Site, monkeypatch):
    site.answer(CONNECTED)
    site.open()
    site.html = rendered(site, monkeypatch)
    site.click()
    site.says("status", "You are connected with LeadExec.")
    focused = site.page.locator(":focus")
    assert "Connected with LeadExec as acme" in (focused.text_content() or "")
    # Once: who comes back to the page later is not moved about.
    site.page.reload()
    site.settle()
    assert site.page.locator(".leadexec [role=status]").text_content() == ""
    assert site.page.evaluate("document.activeElement === document.body")


def test_what_a_message_of_the_pages_says_is_not_said_again(site: Site, monkeypatch):
    site.answer(CONNECTED | {"redirect": "/leads/"})
    site.open(tag='{% leadexec_button next="/leads/" %}')
    html = rendered(site, monkeypatch)
    site.html = html.replace("<body>", "<body><p>You are connected with LeadExec.</p>")
    site.click()
    # The focus comes last.
    site.page.locator(".leadexec-account:focus").wait_for()
    assert site.page.get_by_text("You are connected with LeadExec.").count() == 1


def test_where_the_site_has_put_the_focus_it_stays(site: Site, monkeypatch):
    site.answer(CONNECTED)
    site.open()
    site.html = rendered(site, monkeypatch) + "<input autofocus>"
    site.click()
    site.says("status", "You are connected with LeadExec.")
    assert site.page.locator("input:focus").count() == 1


@in_each_engine
def test_an_automatic_connected_keeps_the_focus_off_the_body(site: Site):
    site.provider = "window.call = () => " + AUTOMATIC
    site.answer(CONNECTED)
    site.open()
    site.page.wait_for_function("typeof call == 'function'")
    site.page.locator("#leAppButton").focus()
    site.page.evaluate("call()")
    site.says("status", "You are connected with LeadExec.")
    assert site.page.locator("#leAppButton").is_hidden()
    assert site.page.locator(".leadexec [role=status]:focus").count() == 1


def test_disconnecting_shows_that_it_works_and_is_sent_once(site: Site, monkeypatch):
    site.html = rendered(site, monkeypatch)
    sent = []

    def stay(route):
        sent.append(route.request.post_data)
        route.fulfill(status=204)

    site.page.route("**/leadexec/disconnect/", stay)
    site.page.goto(f"{ORIGIN}/page/")
    button = site.page.get_by_role("button", name="Disconnect")
    button.click()
    site.says("status", "Disconnecting…")
    assert site.page.locator("form").get_attribute("aria-busy") == "true"
    button.click()
    button.press("Enter")
    site.settle()
    assert len(sent) == 1


def test_a_page_from_the_history_can_disconnect_again(site: Site, monkeypatch):
    site.html = rendered(site, monkeypatch)
    site.page.route("**/leadexec/disconnect/", lambda route: route.fulfill(status=204))
    site.page.goto(f"{ORIGIN}/page/")
    site.page.get_by_role("button", name="Disconnect").click()
    site.says("status", "Disconnecting…")
    site.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    assert site.page.locator("[aria-busy]").count() == 0
    assert site.page.locator(".leadexec [role=status]").text_content() == ""


def test_a_form_that_the_page_stops_is_not_busy(site: Site, monkeypatch):
    site.html = rendered(site, monkeypatch)
    site.page.goto(f"{ORIGIN}/page/")
    site.page.evaluate("document.addEventListener('submit', (event) => event.preventDefault())")
    site.page.get_by_role("button", name="Disconnect").click()
    site.settle()
    assert site.page.locator("[aria-busy]").count() == 0


# A page that keeps the result to itself

UNJOINED = "AuthorizeResult can't be replaced"
FIXED = "Object.defineProperty(window, 'AuthorizeResult', {value: () => {}});"


@pytest.mark.parametrize("script", ["const AuthorizeResult = () => {};", FIXED])
def test_a_function_of_the_pages_that_cannot_be_joined_is_told(site: Site, faults: Faults, script):
    faults.allow(UNJOINED)
    site.open(head=f"{RECORD_EVENTS}<script>{script}</script>")
    site.says("alert", "This button does not work on this page.")
    assert seen(site, "error")[0]["code"] == "page"
    [told] = faults.found
    assert UNJOINED in told
    assert site.asked_provider() == []
    site.click()
    site.says("alert", "This button does not work on this page.")
    assert site.asked_provider() == []


def test_one_that_becomes_so_later_is_told_at_the_click(site: Site, faults: Faults):
    faults.allow(UNJOINED)
    site.open()
    site.page.add_script_tag(content="const AuthorizeResult = () => {};")
    site.click()
    site.says("alert", "This button does not work on this page.")


def test_one_that_is_declared_with_let_is_joined(site: Site):
    site.answer(DENIED, status=422)
    site.open(
        head="<script>let AuthorizeResult = (result) => { window.own = result.refreshToken; };"
        "</script>"
    )
    site.click()
    site.posted()
    assert site.page.evaluate("own") == "rt-1"


def test_a_page_may_stop_the_message_of_its_own_fault(site: Site, faults: Faults):
    faults.allow(UNJOINED)
    site.open(head=prevent("error") + f"<script>{FIXED}</script>")
    seen(site, "error")
    assert site.alert == ""


# What never comes to an end

LIMITED = """window.limits = [];
AbortSignal.timeout = (milliseconds) => {
  const controller = new AbortController();
  limits.push([milliseconds, () => controller.abort(new DOMException("", "TimeoutError"))]);
  return controller.signal;
};"""


def test_a_post_that_never_ends_is_given_up_and_told(site: Site):
    site.page.add_init_script(LIMITED)
    site.answer(hang=True)
    site.answer(DENIED, status=422)
    site.open()
    site.click()
    site.says("status", "Connecting…")
    site.posted()
    # A minute for the CSRF token, another for the post, and no more.
    assert site.page.evaluate("limits.map(([milliseconds]) => milliseconds)") == [60_000] * 2
    site.page.evaluate("limits[1][1]()")
    site.says("alert", "This site could not be reached.")
    assert site.page.locator("[aria-busy]").count() == 0
    site.page.get_by_role("button", name="Try again").click()
    site.says("alert", "No.")


def test_a_script_that_has_come_is_not_said_to_be_missing(site: Site):
    site.provider = "window.came = true;"
    stop_the_clock(site)
    site.open()
    site.page.wait_for_function("window.came")
    # By then it would have been given up.
    site.page.clock.fast_forward(60_000)
    site.settle()
    assert site.alert == ""


@pytest.mark.parametrize("key", ["Tab", "Escape", "ArrowDown", "a"])
def test_a_key_that_only_passes_over_the_button_is_no_gesture(site: Site, key):
    site.provider = "window.call = () => " + AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.open()
    site.page.wait_for_function("typeof call == 'function'")
    site.page.locator("#leAppButton").press(key)
    site.page.evaluate("call()")
    assert site.posted()[0]["gesture"] is False


@pytest.mark.parametrize("body", ["", "<h1>Down</h1>"])
def test_a_script_that_is_empty_or_a_page_leaves_no_dead_button(site: Site, faults: Faults, body):
    faults.allow(*NO_SCRIPT)
    site.provider = body
    stop_the_clock(site)
    site.open()
    if body:
        site.says("alert", "LeadExec could not be loaded")
    else:
        site.wait_for(site.has_providers_stylesheet)
        site.click()
        site.page.clock.fast_forward(21_000)
        site.says("alert", "LeadExec has not answered.")
