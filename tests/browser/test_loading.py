"""When LeadExec's files are fetched, and what becomes of a click that comes before."""

from types import SimpleNamespace

import pytest

from tests.browser.conftest import (
    CONNECTED,
    NOT_LOADED,
    ON_CLICK,
    POSTED_BY_A_CLICK,
    Faults,
    Site,
    in_each_engine,
)

pytestmark = pytest.mark.browser

ON_REQUEST = '{% leadexec_button load="click" %}'
FILES = {"/js/le-app-button.js", "/css/le-app-button.css"}
AUTOMATIC = 'AuthorizeResult({valid: true, refreshToken: "rt-1"});'
# What a cookie banner says once the visitor has agreed.
CONSENT = 'document.dispatchEvent(new Event("leadexec:load"))'
NO_ACTIVATION = """Object.defineProperty(navigator, "userActivation", {
  value: { isActive: false },
});"""


@pytest.fixture
def held(site: Site):
    """The script's requests, held; a test answers them."""
    routes = []
    site.page.route("**/le-app-button.js", lambda route: routes.append(route))
    return routes


def come(held, script):
    held.pop(0).fulfill(body=script, content_type="text/javascript")


# load="click"


def test_nothing_is_fetched_before_the_visitor_asks(site: Site):
    site.open(tag=ON_REQUEST)
    assert site.asked_provider() == []
    site.page.locator("#leAppButton").focus()
    site.page.locator("#leAppButton").hover()
    assert site.asked_provider() == []
    assert site.states == 0
    assert site.page.context.cookies() == []


def test_a_click_fetches_both_files_and_is_passed_on(site: Site):
    site.answer(hang=True)
    site.open(tag=ON_REQUEST)
    site.click()
    [posted] = site.posted()
    assert posted == POSTED_BY_A_CLICK
    assert sorted(site.asked_provider()) == sorted(FILES)
    site.click()
    site.settle()
    assert sorted(site.asked_provider()) == sorted(FILES)


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_so_does_a_key(site: Site, key):
    site.answer(hang=True)
    site.open(tag=ON_REQUEST)
    site.page.locator("#leAppButton").press(key)
    assert site.posted()[0]["gesture"] is True


def test_a_click_made_by_a_script_fetches_nothing(site: Site):
    site.open(tag=ON_REQUEST)
    site.page.evaluate("document.getElementById('leAppButton').click()")
    assert site.asked_provider() == []


@pytest.mark.parametrize(
    "consent",
    [
        CONSENT,
        'window.dispatchEvent(new Event("leadexec:load"))',
        'document.body.dispatchEvent(new Event("leadexec:load"))',
    ],
)
def test_the_sites_word_fetches_them_without_a_click(site: Site, consent):
    site.provider = AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.open(tag=ON_REQUEST)
    assert site.asked_provider() == []
    site.page.evaluate(consent)
    assert site.posted()[0]["gesture"] is False
    assert set(site.asked_provider()) == FILES


def test_the_sites_word_may_come_while_the_page_is_loading(site: Site):
    site.provider = AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.open(
        tag=ON_REQUEST,
        head=f"<script>document.addEventListener('DOMContentLoaded', () => {CONSENT})</script>",
    )
    site.posted()


def test_the_sites_word_holds_for_a_button_that_is_inserted_later(site: Site):
    site.provider = AUTOMATIC
    site.answer({"status": "ignored", "redirect": None})
    site.open(tag=ON_REQUEST, before="<main>", after="</main>")
    site.page.evaluate(
        "(html) => { document.querySelector('main').innerHTML = html; }", site.render(ON_REQUEST)
    )
    site.page.evaluate(CONSENT)
    site.posted()
    site.provider = "window.ran = true;"
    site.page.evaluate(
        "(html) => { document.querySelector('main').innerHTML = html; }", site.render(ON_REQUEST)
    )
    site.page.evaluate("document[Symbol.for('django_leadexec')]()")
    site.page.wait_for_function("window.ran")


# A click before the script


@in_each_engine
def test_a_click_before_a_slow_script_is_remembered(site: Site, held):
    site.answer(hang=True)
    site.open()
    site.click()
    site.says("status", "Loading LeadExec…")
    assert site.page.locator(".leadexec-action").get_attribute("aria-busy") == "true"
    site.click()
    site.wait_for(lambda: held)
    come(held, ON_CLICK % '{valid: true, refreshToken: "rt-1"}')
    assert site.posted()[0]["gesture"] is True
    assert not held


def test_a_click_before_the_page_is_complete_waits_for_nothing_else(site: Site):
    images = []
    site.page.route("**/slow.png", lambda route: images.append(route))
    site.answer(hang=True)
    site.open(after='<img src="/slow.png" alt="">', until="commit")
    site.wait_for(lambda: images)
    assert site.asked_provider() == []
    site.page.wait_for_function("typeof AuthorizeResult == 'function'")
    site.click()
    assert site.posted()[0]["gesture"] is True
    images[0].fulfill(body="", content_type="image/png")
    site.page.wait_for_load_state()
    assert sorted(site.asked_provider()) == sorted(FILES)


def test_a_click_that_the_script_answers_by_itself_is_not_passed_on(site: Site, held):
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.open()
    site.click()
    site.wait_for(lambda: held)
    clicks = "window.clicks = 0; addEventListener('click', () => { clicks += 1; }, true);"
    come(held, clicks + AUTOMATIC)
    site.says("alert", "No.")
    assert site.posted()[0]["gesture"] is True
    assert site.page.evaluate("clicks") == 0


def test_a_click_of_long_ago_is_asked_for_again(site: Site, held):
    site.page.add_init_script(NO_ACTIVATION)
    site.answer(hang=True)
    site.open()
    site.click()
    site.wait_for(lambda: held)
    come(held, ON_CLICK % '{valid: true, refreshToken: "rt-1"}')
    site.says("status", "LeadExec is ready. Please press the button again.")
    assert site.page.locator("[aria-busy]").count() == 0
    site.posted(0)
    site.click()
    assert site.posted()[0]["gesture"] is True


def test_a_click_that_waits_in_vain_is_told(site: Site, faults: Faults, held):
    faults.allow(NOT_LOADED)
    site.open()
    site.click()
    site.wait_for(lambda: held)
    held.pop(0).abort()
    site.says("alert", "LeadExec could not be loaded")
    assert site.page.locator("[aria-busy]").count() == 0
    site.click()
    site.wait_for(lambda: held)
    assert site.alert == ""
    site.answer(hang=True)
    come(held, ON_CLICK % '{valid: true, refreshToken: "rt-1"}')
    site.posted()


# The CSRF token


def test_a_stranger_fetches_it_when_it_is_needed(site: Site):
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.open()
    site.settle()
    assert site.states == 0
    site.click()
    site.says("alert", "No.")
    assert site.states == 1
    assert site.post_headers["x-csrftoken"] == "s" * 64


def test_a_logged_in_visitor_has_it_in_the_page(site: Site, monkeypatch):
    monkeypatch.setattr("django_leadexec.button.live_connections", lambda *args: [])
    user = SimpleNamespace(pk=1, is_authenticated=True)
    page = site.render("<title>Page</title>{% leadexec_button %}", user=user)
    site.html = page
    site.answer(CONNECTED)
    site.page.goto("https://site.test/page/")
    site.click()
    site.posted()
    assert site.states == 0
    assert f'data-csrf-token="{site.post_headers["x-csrftoken"]}"' in page


def test_a_stranger_who_gets_none_is_told_and_may_try_again(site: Site):
    site.csrf_token = None
    site.answer(CONNECTED)
    site.open()
    site.click()
    site.says("alert", "This site could not be reached.")
    site.posted(0)
    site.csrf_token = "t" * 64
    site.page.get_by_role("button", name="Try again").click()
    site.posted()
    assert site.post_headers["x-csrftoken"] == "t" * 64
