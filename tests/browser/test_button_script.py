"""leadexec.js against a provider and a callback that the test plays."""

import json
from datetime import timedelta
from email.utils import format_datetime

import pytest
from django.utils import timezone

from tests.browser.conftest import (
    CONNECTED,
    ON_CLICK,
    ORIGIN,
    POSTED_BY_A_CLICK,
    PROVIDER,
    STRANGER,
    TRUSTED_TYPES,
    Faults,
    Site,
    in_each_engine,
)

pytestmark = pytest.mark.browser

AUTOMATIC = 'AuthorizeResult({valid: true, refreshToken: "rt-1"});'
RECORD_EVENTS = """<script>
window.seen = [];
for (const name of ["authorize", "connected", "redirect", "ignored", "error"]) {
  document.addEventListener(`leadexec:${name}`, (event) => {
    seen.push([name, event.detail]);
    if (window.prevented === name) event.preventDefault();
  });
}
</script>"""


def prevent(name):
    return RECORD_EVENTS + f"<script>window.prevented = '{name}'</script>"


def stop_the_clock(site):
    site.page.clock.install(time=0)
    site.page.clock.pause_at(1_000)


def seen(site, *names):
    """The details of the events RECORD_EVENTS noted: these, once there are that many, no more."""
    site.wait_for(lambda: site.page.evaluate("seen.length") >= len(names))
    site.settle()
    events = site.page.evaluate("seen")
    assert [name for name, _ in events] == list(names)
    return [detail for _, detail in events]


# The post


@in_each_engine
def test_a_click_posts_the_token_with_gesture_and_csrf_and_loads_the_page_again(site: Site):
    site.answer(CONNECTED)
    site.open()
    site.click()
    [posted] = site.posted()
    assert posted == POSTED_BY_A_CLICK
    assert site.post_headers["x-csrftoken"] == "s" * 64
    assert site.post_headers["accept"] == "application/json"
    assert site.post_headers["content-type"] == "application/json"
    site.wait_for(lambda: site.visits == [("GET", "/page/")] * 2)


def test_next_is_posted_and_the_answers_redirect_followed(site: Site):
    site.answer({"status": "signed_in", "redirect": "/leads/?page=2"})
    site.open(tag='{% leadexec_button next="/leads/?page=2" %}')
    site.click()
    assert site.posted()[0]["next"] == "/leads/?page=2"
    site.wait_for(lambda: site.visits[-1] == ("GET", "/leads/?page=2"))


def test_a_base_address_does_not_take_the_token_elsewhere(site: Site):
    asked = []
    site.page.context.on("request", lambda request: asked.append(request.url))
    site.answer({"status": "signed_in", "redirect": "/leads/"})
    site.open(head='<base href="https://cdn.test/assets/">')
    site.click()
    site.wait_for(lambda: site.visits[-1] == ("GET", "/leads/"))
    ours = [f"{ORIGIN}/leadexec/{name}/" for name in ("state", "callback")]
    assert [url for url in asked if "/leadexec/" in url] == ours


@pytest.mark.parametrize("status", ["login_required", "confirm_required"])
def test_what_needs_another_page_goes_there(site: Site, status):
    site.answer({"status": status, "redirect": "/accounts/login/?next=/x/"})
    site.open(head=RECORD_EVENTS)
    site.click()
    site.wait_for(lambda: site.visits[-1] == ("GET", "/accounts/login/?next=/x/"))


@pytest.mark.parametrize("redirect", ["javascript:document.title='hit'", "https://evil.test/"])
def test_a_redirect_off_the_site_is_never_followed(site: Site, redirect):
    site.answer({"status": "connected", "redirect": redirect})
    site.open()
    site.click()
    site.says("alert", "Something went wrong")
    site.stays()
    assert site.page.title() == "Page"
    assert site.page.url == f"{ORIGIN}/page/"


def test_a_redirect_to_a_place_on_the_same_page_loads_it_again(site: Site):
    site.answer({"status": "connected", "redirect": "/page/#leads"})
    site.open()
    site.click()
    site.wait_for(lambda: len(site.visits) == 2)
    site.page.wait_for_url(f"{ORIGIN}/page/#leads")


def test_a_page_that_came_from_a_form_is_fetched_again_and_not_sent_again(site: Site):
    site.answer(CONNECTED)
    site.open(before='<form method="post" action="/page/"><button id="send">Send</button></form>')
    with site.page.expect_navigation():
        site.page.click("#send")
    assert site.visits[1:] == [("POST", "/page/")]
    site.click()
    site.wait_for(lambda: len(site.visits) == 3)
    assert site.visits[-1] == ("GET", "/page/")


@pytest.mark.parametrize(
    ("result", "token"),
    [
        ('{valid: true, RefreshToken: "a"}', "a"),
        ('{valid: true, refresh_token: "b"}', "b"),
        ('{valid: true, refresh_token: "c", RefreshToken: "b", refreshToken: "a"}', "a"),
        ('{valid: true, refreshToken: "", RefreshToken: 5, refresh_token: "c"}', "c"),
        ('{valid: "True", refreshToken: "a", authToken: "access"}', "a"),
    ],
)
def test_the_token_is_found_under_each_of_its_possible_names(site: Site, result, token):
    site.provider = ON_CLICK % result
    site.answer(CONNECTED)
    site.open()
    site.click()
    assert site.posted()[0]["token"] == token


@pytest.mark.parametrize("result", ['{valid: true, authToken: "access"}', "{valid: true}"])
def test_an_access_token_alone_is_never_posted(site: Site, result):
    site.provider = ON_CLICK % result
    site.open()
    site.click()
    site.says("alert", "Something went wrong")
    site.posted(0)


@pytest.mark.parametrize("valid", ["false", "1", '"yes"', "undefined", '"false"'])
def test_only_a_true_result_is_posted(site: Site, valid):
    site.provider = ON_CLICK % f'{{valid: {valid}, refreshToken: "rt-1"}}'
    site.open()
    site.click()
    site.says("alert", "Nothing was connected.")
    site.posted(0)


# Cancelled, or anything else the provider says


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ('"access denied"', "LeadExec says: access denied"),
        ('"<img src=x onerror=alert(1)>$&"', "LeadExec says: <img src=x onerror=alert(1)>$&"),
        ('{message: "denied"}', "LeadExec says: denied"),
        ('{code: 7, why: ["a"]}', 'LeadExec says: {"code":7,"why":["a"]}'),
        ("42", "LeadExec says: 42"),
        ('"x".repeat(5000)', f"LeadExec says: {'x' * 200}…"),
        ("(() => { const a = {}; a.a = a; return a; })()", "Nothing was connected."),
        ("null", "Nothing was connected."),
    ],
)
def test_a_refusal_is_told_in_place_as_text(site: Site, error, words):
    site.provider = ON_CLICK % f"{{valid: false, error: {error}}}"
    site.open(head=RECORD_EVENTS)
    site.click()
    site.says("alert", words)
    assert site.alert.endswith(words)
    assert site.page.locator(".leadexec img").count() == 0
    assert seen(site, "error") == [{"code": "not_authorized", "message": site.alert}]
    site.posted(0)


def test_a_result_that_is_no_object_is_told_too(site: Site):
    site.provider = ON_CLICK % "undefined"
    site.open()
    site.click()
    site.says("alert", "Nothing was connected.")


# Without a click


def test_an_automatic_connected_says_so_and_goes_nowhere(site: Site):
    site.provider = AUTOMATIC
    site.answer(CONNECTED)
    site.open(head=RECORD_EVENTS)
    site.says("status", "You are connected with LeadExec.")
    assert site.posted()[0]["gesture"] is False
    assert site.page.locator("#leAppButton").is_hidden()
    seen(site, "authorize", "connected")
    site.posted()
    site.stays()


def test_an_automatic_sign_in_never_loops_on_a_page_that_cannot_show_it(site: Site):
    site.provider = AUTOMATIC
    # Not by the page's clock, which would let a slow page return once more.
    site.page.clock.set_fixed_time("2026-01-01")
    for _ in range(4):
        site.answer({"status": "signed_in", "redirect": None})
    # The page leaves by itself, which fails a goto() that still waits for it to load.
    site.open(until="commit")
    site.says("status", "You are signed in.")
    site.settle()
    assert site.visits == [("GET", "/page/")] * 2
    site.page.goto(f"{ORIGIN}/another/", wait_until="commit")
    site.wait_for(lambda: len(site.visits) >= 4)
    site.says("status", "You are signed in.")
    site.settle()
    assert site.visits[2:] == [("GET", "/another/")] * 2


def test_an_automatic_sign_in_goes_nowhere_without_session_storage(site: Site):
    site.provider = AUTOMATIC
    site.answer({"status": "signed_in", "redirect": None})
    site.open(
        head="<script>Object.defineProperty(window, 'sessionStorage', "
        "{get() { throw new DOMException('blocked', 'SecurityError'); }});</script>"
    )
    site.says("status", "You are signed in.")
    site.stays()


def test_an_ignored_result_is_offered_and_posted_only_by_a_click(site: Site):
    site.provider = AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.answer({"status": "signed_in", "redirect": "/leads/"})
    site.open(head=RECORD_EVENTS)
    button = site.page.get_by_role("button", name="Continue with LeadExec")
    button.wait_for()
    assert site.alert == ""
    assert "rt-1" not in site.page.content()
    site.page.evaluate("document.querySelector('.leadexec-continue').click()")
    site.posted(1)
    site.provider = ""
    button.click()
    assert site.posted(2)[1] == site.posts[0] | {"gesture": True}
    site.wait_for(lambda: site.visits[-1] == ("GET", "/leads/"))


# The gesture


def test_a_click_made_by_a_script_is_no_gesture(site: Site):
    site.provider = f"{site.provider} window.listening = true;"
    site.answer({"status": "ignored", "redirect": None})
    site.open()
    site.page.wait_for_function("window.listening")
    site.page.evaluate("document.getElementById('leAppButton').click()")
    assert site.posted()[0]["gesture"] is False


@in_each_engine
@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_key_on_the_button_is_a_gesture(site: Site, key):
    site.answer(CONNECTED)
    site.open()
    site.page.locator("#leAppButton").press(key)
    assert site.posted()[0]["gesture"] is True


def test_a_gesture_serves_for_one_result(site: Site):
    site.provider = """
    document.getElementById("leAppButton").addEventListener("click", () => {
      AuthorizeResult({valid: false, error: "no"});
      AuthorizeResult({valid: true, refreshToken: "rt-1"});
    });"""
    site.answer({"status": "ignored", "redirect": None})
    site.open()
    site.click()
    assert site.posted()[0]["gesture"] is False


@pytest.mark.parametrize(("minutes", "gesture"), [(9, True), (11, False)])
def test_a_gesture_lapses_after_ten_minutes(site: Site, minutes, gesture):
    site.provider = "window.call = () => " + AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    stop_the_clock(site)
    site.open()
    site.wait_for(lambda: site.page.evaluate("typeof call") == "function")
    site.click()
    site.page.clock.fast_forward(minutes * 60_000)
    site.page.evaluate("call()")
    assert site.posted()[0]["gesture"] is gesture


def test_a_click_elsewhere_is_no_gesture(site: Site):
    site.provider = "document.addEventListener('click', () => " + AUTOMATIC.rstrip(";") + ")"
    site.answer({"status": "ignored", "redirect": None})
    site.open(after="<p>elsewhere</p>")
    site.page.wait_for_load_state()
    site.page.get_by_text("elsewhere").click()
    assert site.posted()[0]["gesture"] is False


def test_a_button_that_the_provider_replaces_still_counts(site: Site):
    site.provider = """
    const link = document.createElement("a");
    link.textContent = "LeadExec";
    link.addEventListener("click", () => AuthorizeResult({valid: true, refreshToken: "rt-1"}));
    document.getElementById("leAppButton").replaceWith(link);"""
    site.answer(CONNECTED)
    site.open()
    site.page.get_by_text("LeadExec", exact=True).click()
    assert site.posted()[0]["gesture"] is True


def test_so_does_a_key_on_what_replaced_it(site: Site):
    site.provider = """
    const span = document.createElement("span");
    span.tabIndex = 0;
    span.textContent = "LeadExec";
    span.addEventListener("keydown", () => AuthorizeResult({valid: true, refreshToken: "rt-1"}));
    document.getElementById("leAppButton").replaceWith(span);"""
    site.answer(CONNECTED)
    site.open()
    site.page.get_by_text("LeadExec", exact=True).press("Enter")
    assert site.posted()[0]["gesture"] is True


# Twice


def test_a_result_that_comes_twice_is_posted_once(site: Site):
    site.provider = """
    document.getElementById("leAppButton").addEventListener("click", () => {
      for (let i = 0; i < 3; i++) AuthorizeResult({valid: true, refreshToken: "rt-1"});
    });"""
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.open()
    site.click()
    site.says("alert", "No.")
    site.posted()


def test_the_same_automatic_result_is_posted_once(site: Site):
    site.provider = AUTOMATIC + "window.again = () => " + AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.open()
    site.page.get_by_role("button", name="Continue with LeadExec").wait_for()
    site.page.evaluate("again()")
    site.posted()


# What comes between a post and its answer; and whether the page is through with the answer.
HELD_ANSWER = """const { fetch } = window;
window.fetch = async (...all) => {
  const answer = await fetch(...all);
  if (!String(all[0]).includes("/callback/")) return answer;
  const body = await answer.text();
  await new Promise((resolve) => { window.release = resolve; });
  answer.json = async () => {
    setTimeout(() => { window.handled = true; });
    return JSON.parse(body);
  };
  return answer;
};"""


def test_a_second_click_before_the_answer_posts_nothing(site: Site):
    site.page.add_init_script(HELD_ANSWER)
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.open()
    site.click()
    site.wait_for(lambda: site.page.evaluate("typeof release") == "function")
    site.click()
    site.page.evaluate("release()")
    site.says("alert", "No.")
    site.posted()


def test_a_clicked_result_waits_for_an_automatic_one_in_flight(site: Site):
    site.provider = AUTOMATIC + ON_CLICK % '{valid: true, refreshToken: "rt-1"}'
    site.page.add_init_script(HELD_ANSWER)
    site.answer({"status": "ignored", "redirect": None})
    site.answer(CONNECTED)
    site.open()
    site.wait_for(lambda: site.page.evaluate("typeof release") == "function")
    assert site.page.locator(".leadexec-action").get_attribute("aria-busy") == "true"
    # A screen reader may keep to itself what is said inside of something busy.
    assert site.page.locator("[aria-busy] [role]").count() == 0
    site.click()
    site.posted(1)
    site.page.evaluate("release()")
    assert [post["gesture"] for post in site.posted(2)] == [False, True]


# The page's own AuthorizeResult

DECLARATION = "function AuthorizeResult(result) { window.own = result.refreshToken; }"
ASSIGNMENT = "window.AuthorizeResult = (result) => { window.own = result.refreshToken; };"
DECLARED = f"<script>{DECLARATION}</script>"
ASSIGNED = f"<script>{ASSIGNMENT}</script>"
WRAPPED = """<script>document.addEventListener("DOMContentLoaded", () => {
  const before = window.AuthorizeResult;
  window.AuthorizeResult = (result) => { window.own = result.refreshToken; before(result); };
})</script>"""
REPLACED = f"""<script>document.addEventListener("DOMContentLoaded", () => {{
  const script = document.createElement("script");
  script.textContent = "{DECLARATION}";
  document.head.append(script);
}})</script>"""


@pytest.mark.parametrize(
    ("head", "after"),
    [
        (DECLARED, ""),
        ("", DECLARED),
        (ASSIGNED, ""),
        ("", ASSIGNED),
        ("", f"<script type=module>{ASSIGNMENT}</script>"),
        (WRAPPED, ""),
        ("", WRAPPED),
        (REPLACED, ""),
        ("", REPLACED),
    ],
    ids=[
        "declared before",
        "declared after",
        "assigned before",
        "assigned after",
        "assigned by a module",
        "wrapped before",
        "wrapped after",
        "declared again before",
        "declared again after",
    ],
)
def test_a_page_keeps_its_own_function(site: Site, head, after):
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.open(head=head, after=after)
    site.page.wait_for_load_state()
    site.click()
    site.posted()
    assert site.page.evaluate("own") == "rt-1"


def test_a_function_defined_long_after_is_called_too(site: Site):
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.open()
    site.page.wait_for_load_state()
    site.page.evaluate(f"() => {{ {ASSIGNMENT} }}")
    site.click()
    site.posted()
    assert site.page.evaluate("own") == "rt-1"


def test_a_function_declared_long_after_takes_nothing_away(site: Site):
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.open()
    site.page.add_script_tag(content=DECLARATION)
    site.click()
    site.posted()
    assert site.page.evaluate("own") == "rt-1"


def test_nothing_but_the_providers_function_is_global(site: Site):
    site.provider = ""
    site.open(head="<script>window.names = Object.getOwnPropertyNames(window)</script>")
    site.page.wait_for_load_state()
    found = site.page.evaluate(
        "Object.getOwnPropertyNames(window).filter((name) => !names.includes(name))"
    )
    assert [name for name in found if name != "names"] == ["AuthorizeResult"]


# What goes wrong


@pytest.mark.parametrize(
    ("answer", "code", "message", "again"),
    [
        ({"status": 422, "code": "rejected"}, "rejected", "The server's words.", ""),
        ({"status": 409, "code": "conflict"}, "conflict", "The server's words.", ""),
        ({"status": 409, "code": "revoking"}, "revoking", "The server's words.", ""),
        ({"status": 409, "code": "reload"}, "reload", "The server's words.", "Reload"),
        ({"status": 502, "code": "unavailable"}, "unavailable", "The server's words.", "Try again"),
        ({"status": 403, "code": "not_allowed"}, "not_allowed", "The server's words.", ""),
        ({"status": 403, "code": "csrf"}, "csrf", "This page has expired.", "Reload"),
        ({"status": 403}, "csrf", "This page has expired.", "Reload"),
        ({"status": 500}, "unexpected", "Something went wrong.", "Try again"),
        ({"status": 200}, "unexpected", "Something went wrong.", ""),
        ({"status": 404}, "unexpected", "Something went wrong.", ""),
    ],
)
def test_an_error_is_told_in_place(site: Site, answer, code, message, again):
    body: object = "<h1>A page</h1>"
    if "code" in answer:
        body = {"error": {"code": answer["code"], "message": "The server's words."}}
    site.answer(body, status=answer["status"])
    site.open(head=RECORD_EVENTS)
    site.click()
    site.says("alert", message)
    assert seen(site, "authorize", "error")[-1] == {"code": code, "message": site.alert}
    offered = site.page.locator(".leadexec-continue:visible").all_text_contents()
    assert offered == ([again] if again else [])
    assert site.page.locator("[aria-busy]").count() == 0


def test_a_page_of_another_visitor_offers_to_load_it_again_and_keeps_the_token_to_itself(
    site: Site,
):
    site.answer({"error": {"code": "reload", "message": "Reload the page."}}, status=409)
    site.open()
    site.click()
    site.says("alert", "Reload the page.")
    site.page.get_by_role("button", name="Reload").click()
    site.wait_for(lambda: site.visits == [("GET", "/page/")] * 2)
    site.posted(1)


def test_the_mark_is_the_pages_own_whatever_the_state_says_by_then(site: Site):
    # The state tells of the session of now, which may be another's.
    site.state = {"visitor": "x" * 64}
    site.answer(hang=True)
    site.open()
    site.click()
    assert site.posted()[0]["visitor"] == STRANGER
    assert site.states == 1


@pytest.mark.parametrize(
    "body", ["null", "[]", '"text"', '{"status": 7}', '{"error": "x"}', '{"status": "odd"}', "{"]
)
def test_an_odd_answer_is_told_in_place(site: Site, body):
    site.answer(body)
    site.open()
    site.click()
    site.says("alert", "Something went wrong.")


def test_a_redirect_to_a_login_page_is_not_followed_with_the_token(site: Site):
    site.answer("", status=307, headers={"Location": "/accounts/login/"})
    site.open()
    site.click()
    site.says("alert", "Something went wrong.")
    assert site.visits == [("GET", "/page/")]


@pytest.mark.parametrize(
    ("retry_after", "words"),
    [
        ("17", "Try again in 17 seconds."),
        (None, "Try again later."),
        ("soon", "Try again later."),
        ("past", "Try again later."),
        ("date", "Try again in "),
    ],
)
def test_throttling_tells_when_to_try_again(site: Site, retry_after, words):
    dates = {"past": -60, "date": 60}
    if retry_after in dates:
        moment = timezone.now() + timedelta(seconds=dates[retry_after])
        retry_after = format_datetime(moment, usegmt=True)
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    site.answer("<h1>Slow down</h1>", status=429, headers=headers)
    site.open()
    site.click()
    site.says("alert", words)
    site.page.get_by_role("button", name="Try again").wait_for()


def test_a_lost_network_is_told_and_trying_again_posts_the_token_held(site: Site):
    site.answer(abort=True)
    site.answer(CONNECTED)
    site.open()
    site.click()
    site.says("alert", "This site could not be reached.")
    site.page.get_by_role("button", name="Try again").click()
    assert site.posted(2)[0] == site.posts[1]
    site.wait_for(lambda: len(site.visits) == 2)


def test_who_tries_again_by_the_keyboard_keeps_their_place(site: Site):
    down = {"error": {"code": "unavailable", "message": "Down."}}
    site.answer(down, status=502)
    site.answer(down, status=502)
    site.open()
    site.click()
    again = site.page.get_by_role("button", name="Try again")
    again.focus()
    with site.page.expect_response("**/leadexec/callback/"):
        site.page.keyboard.press("Enter")
        assert again.evaluate("(button) => button === document.activeElement")
    site.says("alert", "Down.")
    assert again.evaluate("(button) => button === document.activeElement")
    site.page.keyboard.press("Enter")
    site.posted(3)


@pytest.mark.parametrize("replacement", ["", '<a id="leAppButton" href="#">LeadExec</a>'])
def test_who_has_tried_again_in_vain_is_led_back_to_the_button(site: Site, replacement):
    site.answer({"error": {"code": "unavailable", "message": "Down."}}, status=502)
    site.answer({"error": {"code": "rejected", "message": "Refused."}}, status=422)
    site.open()
    site.click()
    again = site.page.get_by_role("button", name="Try again")
    again.focus()
    if replacement:
        site.page.locator("#leAppButton").evaluate(
            "(button, html) => { button.outerHTML = html; }", replacement
        )
    site.page.keyboard.press("Enter")
    site.says("alert", "Refused.")
    site.wait_for(again.is_hidden)
    assert site.page.locator("#leAppButton:focus").count() == 1


def test_a_new_try_clears_the_old_message(site: Site):
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.answer(hang=True)
    site.open()
    site.click()
    site.says("alert", "No.")
    site.click()
    site.says("status", "Connecting…")
    assert site.alert == ""


# Events


def test_no_event_carries_a_token(site: Site):
    site.answer({"error": {"code": "unavailable", "message": "Later."}}, status=502)
    site.answer({"status": "ignored", "redirect": None})
    site.answer({"status": "connected", "redirect": "/page/#top"})
    site.open(head=prevent("connected"))
    site.click()
    site.page.get_by_role("button", name="Try again").click()
    site.page.get_by_role("button", name="Continue with LeadExec").click()
    names = ("authorize", "error", "authorize", "ignored", "authorize", "connected")
    details = seen(site, *names)
    assert "rt-1" not in json.dumps(details)
    assert details[-1] == {"status": "connected", "redirect": "/page/#top", "gesture": True}
    site.posted(3)


def test_a_page_can_stop_the_post(site: Site):
    site.open(head=prevent("authorize"))
    site.click()
    seen(site, "authorize")
    site.posted(0)


def test_a_page_can_stop_the_navigation(site: Site):
    site.answer({"status": "connected", "redirect": "/leads/"})
    site.open(head=prevent("connected"))
    site.click()
    seen(site, "authorize", "connected")
    site.posted()
    site.stays()
    assert site.page.locator(".leadexec [role=status]").text_content() == ""


@pytest.mark.parametrize("status", ["login_required", "confirm_required"])
def test_a_page_can_stop_the_way_to_another_page(site: Site, status):
    site.answer({"status": status, "redirect": "/accounts/login/"})
    site.open(head=prevent("redirect"))
    site.click()
    details = seen(site, "authorize", "redirect")
    site.posted()
    assert details[-1] == {"status": status, "redirect": "/accounts/login/"}
    site.stays()
    assert site.page.locator(".leadexec [role=status]").text_content() == ""


def test_a_page_can_stop_the_message_and_with_it_the_offer_to_try_again(site: Site):
    site.answer({"error": {"code": "unavailable", "message": "Down."}}, status=502)
    site.open(head=prevent("error"))
    site.click()
    seen(site, "authorize", "error")
    site.posted()
    assert site.alert == ""
    assert site.page.locator(".leadexec-continue").is_hidden()


def test_a_page_can_stop_the_offer(site: Site):
    site.provider = AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.open(head=prevent("ignored"))
    seen(site, "authorize", "ignored")
    site.posted()
    assert site.page.locator(".leadexec-continue").is_hidden()


# The provider's script


def test_a_script_that_cannot_be_loaded_is_told_and_a_click_tries_again(site: Site):
    working, site.provider = site.provider, None
    site.answer(hang=True)
    site.open(head=RECORD_EVENTS)
    site.says("alert", "LeadExec could not be loaded")
    assert seen(site, "error")[0]["code"] == "script"
    site.provider = working
    site.click()
    assert site.posted()[0]["gesture"] is True
    assert site.alert == ""


def test_a_script_that_hangs_is_told_and_the_message_goes_when_it_comes(site: Site):
    held = []
    site.page.route("**/le-app-button.js", lambda route: held.append(route))
    stop_the_clock(site)
    site.open(until="commit")
    site.wait_for(lambda: held)
    site.page.clock.fast_forward(19_000)
    assert site.alert == ""
    site.page.clock.fast_forward(2_000)
    site.says("alert", "LeadExec could not be loaded")
    held[0].fulfill(body="", content_type="text/javascript")
    site.wait_for(lambda: site.alert == "")


# The page around it

VIOLATIONS = """window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});"""


@in_each_engine
@pytest.mark.parametrize(
    ("nonce", "sources"), [("bm9uY2U=", "'nonce-bm9uY2U='"), (None, f"'self' {PROVIDER}")]
)
def test_a_strict_policy_is_never_violated(site: Site, nonce, sources):
    attributes = {} if nonce is None else {"csp_nonce": nonce}
    site.html = site.render("<title>Page</title>{% leadexec_button %}", **attributes)
    policy = f"connect-src 'self'; script-src {sources}; style-src {sources}"
    site.headers = {"Content-Security-Policy": f"default-src 'none'; {policy}"}
    site.page.add_init_script(VIOLATIONS)
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.page.goto(f"{ORIGIN}/page/")
    site.click()
    site.says("alert", "No.")
    assert site.page.evaluate("violations") == []
    color = site.page.locator("#leAppButton").evaluate("(b) => getComputedStyle(b).color")
    assert color == "rgb(0, 128, 128)"


def test_a_page_that_requires_trusted_types_lets_the_script_be_loaded(site: Site):
    policy = "require-trusted-types-for 'script'; trusted-types django-leadexec"
    site.headers = {"Content-Security-Policy": policy}
    site.page.add_init_script(VIOLATIONS)
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.open()
    site.click()
    site.says("alert", "No.")
    assert site.page.evaluate("violations") == []


@in_each_engine
def test_a_page_that_knows_no_such_policy_is_told_at_once_that_it_is_the_pages_fault(
    site: Site, faults: Faults
):
    faults.allow(*TRUSTED_TYPES)
    policy = "require-trusted-types-for 'script'; trusted-types another"
    site.headers = {"Content-Security-Policy": policy}
    site.open(head=RECORD_EVENTS)
    site.says("alert", "This button does not work on this page.")
    site.click()
    site.says("alert", "This button does not work on this page.")
    assert [detail["code"] for detail in seen(site, "error", "error")] == ["page", "page"]
    assert site.page.locator("[aria-busy]").count() == 0
    assert site.asked_provider() == ["/css/le-app-button.css"]


def test_the_button_never_submits_a_form_around_it(site: Site):
    site.provider = ""
    site.open(
        before='<form action="/sent/" onsubmit="window.submitted = true"><input name="q">',
        after='<button id="send">Send</button></form>',
    )
    site.click()
    assert site.page.evaluate("window.submitted") is None
    site.stays()
    site.page.locator("[name=q]").press("Enter")
    site.page.wait_for_url(f"{ORIGIN}/sent/?q=")


INSERT = """(html) => {
  const place = document.querySelector("main");
  place.innerHTML = html;
  for (const old of place.querySelectorAll("script")) {
    const script = document.createElement("script");
    for (const { name, value } of old.attributes) script.setAttribute(name, value);
    old.replaceWith(script);
  }
}"""


def test_a_button_that_is_inserted_later_works_each_time(site: Site):
    site.provider = f"(() => {{ {site.provider} }})(); window.runs = (window.runs ?? 0) + 1;"
    site.open(tag="", before="<main></main>")
    for count in (1, 2):
        site.answer({"error": {"code": "rejected", "message": f"No {count}."}}, status=422)
        site.page.evaluate(INSERT, site.render("{% leadexec_button %}"))
        site.page.wait_for_function(f"window.runs == {count}")
        site.click()
        site.says("alert", f"No {count}.")
        assert site.posted(count)[-1]["gesture"] is True


def test_a_button_that_is_inserted_again_starts_afresh(site: Site):
    site.provider = AUTOMATIC
    site.open(tag="", before="<main></main>")
    for count in (1, 2):
        site.answer({"status": "ignored", "redirect": None})
        site.page.evaluate(INSERT, site.render("{% leadexec_button %}"))
        site.page.get_by_role("button", name="Continue with LeadExec").wait_for()
        site.posted(count)


def test_a_button_that_is_replaced_without_running_its_script_takes_the_first_click(site: Site):
    site.provider = """
    window.listening ??= document.addEventListener("click", (event) => {
      if (event.target.id !== "leAppButton") return;
      AuthorizeResult({valid: true, refreshToken: "rt-1"});
    }) ?? true;"""
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.open(before="<main>", after="</main>")
    site.page.evaluate(
        "(html) => { document.querySelector('main').innerHTML = html; }",
        site.render("{% leadexec_button %}"),
    )
    site.click()
    site.says("alert", "No.")
    assert site.posted()[0]["gesture"] is True


def test_a_result_for_a_button_that_was_removed_goes_to_the_pages_function_only(site: Site):
    site.provider = "window.call = () => " + AUTOMATIC
    site.open(head=DECLARED)
    site.wait_for(lambda: site.page.evaluate("typeof call") == "function")
    site.page.evaluate("document.querySelector('.leadexec').remove()")
    site.page.evaluate("call()")
    assert site.page.evaluate("own") == "rt-1"
    site.posted(0)


def test_a_page_from_the_history_is_no_longer_busy(site: Site):
    site.answer(hang=True)
    site.answer(CONNECTED)
    site.open()
    site.click()
    site.says("status", "Connecting…")
    site.page.evaluate(
        "dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))",
    )
    assert site.page.locator("[aria-busy]").count() == 0
    assert site.page.locator(".leadexec [role=status]").text_content() == ""
    site.click()
    site.posted(2)


def test_an_answer_from_before_the_page_was_left_moves_it_nowhere(site: Site):
    site.page.add_init_script(HELD_ANSWER)
    site.answer({"status": "connected", "redirect": "/leads/"})
    site.open()
    site.click()
    site.wait_for(lambda: site.page.evaluate("typeof release") == "function")
    site.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    site.page.evaluate("release()")
    site.page.wait_for_function("window.handled")
    site.stays()


def test_the_markups_own_text_survives_without_javascript(chromium, faults: Faults):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    site = Site(page, faults)
    site.open()
    assert page.locator("noscript p").is_visible()
    context.close()
