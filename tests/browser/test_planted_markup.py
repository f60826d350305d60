"""Markup that a sanitizer may let a visitor put on a page: classes and data, no script."""

import pytest

from tests.browser.conftest import CONNECTED, ORIGIN, Site

pytestmark = pytest.mark.browser

NONCE = "bm9uY2U="
CONNECT = """<div id="place"></div><script type="module" nonce="{nonce}">
import * as leadexec from "/static/django_leadexec/leadexec.esm.js";
window.leadexec = leadexec;
leadexec.connect(window.place, {{ nonce: "{nonce}", load: "{load}" }});
</script>"""
by_each_way = pytest.mark.parametrize("way", ["tag", "connect"])


def button(site: Site, way: str, load: str = "page") -> str:
    """What puts the button on the page: the tag itself, or a call of connect()."""
    tag = f'{{% leadexec_button load="{load}" %}}'
    if way == "tag":
        return tag
    site.state["button"] = site.render(tag)
    return CONNECT.format(nonce=NONCE, load=load)


PLANTED = """<div class="leadexec" data-callback="{other}/take" data-csrf-header="X-CSRFToken"
  data-csrf-token="x" data-script="{other}/script.js"><p role="status"></p><p role="alert"></p>
  <div class="leadexec-action"></div></div>"""


@by_each_way
@pytest.mark.parametrize("other", ["https://evil.test", "/elsewhere"])
def test_what_looks_like_the_tag_names_neither_script_nor_callback(site: Site, other, way):
    planted = PLANTED.format(other=other)
    # Whatever has the nonce may run, so the policy alone would not stop it.
    policy = (
        f"default-src 'none'; connect-src *; script-src 'nonce-{NONCE}'; style-src 'nonce-{NONCE}'"
    )
    site.headers = {"Content-Security-Policy": policy}
    asked = []
    site.page.context.on("request", lambda request: asked.append(request.url))
    site.html = site.render(
        "<title>Page</title>" + planted + button(site, way) + planted, csp_nonce=NONCE
    )
    site.answer(CONNECTED)
    site.page.goto(f"{ORIGIN}/page/")
    site.click()
    assert site.posted()[0]["token"] == "rt-1"
    assert [url for url in asked if "evil.test" in url or "elsewhere" in url] == []


# A click on it is no gesture

OPENS_BY_ANY_CLICK = """document.addEventListener("click", () => {
  AuthorizeResult({valid: true, refreshToken: "rt-1"});
}); window.listening = true;"""
# The gesture of each post that would be made.
RECORD_GESTURES = """<script>window.gestures = [];
document.addEventListener("leadexec:authorize", (event) => {
  gestures.push(event.detail.gesture);
  event.preventDefault();
});</script>"""


@pytest.mark.parametrize(
    "planted",
    [
        '<div class="leadexec-action"><b id="lure">Lure</b></div>',
        '<div class="leadexec"><div class="leadexec-action"><b id="lure">Lure</b></div></div>',
        '<b id="leAppButton"><i id="lure">Lure</i></b>',
        '<button class="leadexec-continue" id="lure">Lure</button>',
        '<label for="leAppButton" id="lure">Lure</label>',
        '<label for="leAppButton"><b id="lure">Lure</b></label>',
        '<form><input name="closest"><b id="lure">Lure</b></form>',
    ],
)
@by_each_way
@pytest.mark.parametrize(
    ("engine", "side"),
    [
        ("chromium", "before"),
        ("chromium", "after"),
        pytest.param("firefox", "before", marks=pytest.mark.firefox),
    ],
)
def test_a_click_on_it_is_no_gesture(site: Site, planted, side, way):
    site.provider = OPENS_BY_ANY_CLICK
    site.open(head=RECORD_GESTURES, tag=button(site, way), **{side: planted})
    site.page.wait_for_function("window.listening")
    site.page.click("#lure")
    site.page.wait_for_function("gestures.length > 0")
    site.page.locator(".leadexec > .leadexec-action > button").click()
    site.page.wait_for_function("gestures.includes(true)")
    # A label makes two clicks of one.
    assert set(site.page.evaluate("gestures.slice(0, -1)")) == {False}


@by_each_way
def test_a_label_around_it_makes_a_click_no_gesture_and_fetches_nothing(site: Site, way):
    site.open(
        tag=button(site, way, load="click"),
        before='<label for="leAppButton" id="lure">Lure</label>',
    )
    site.page.locator("button#leAppButton").wait_for()
    site.page.click("#lure")
    assert site.asked_provider() == []
    site.answer(hang=True)
    site.click()
    assert site.posted()[0]["gesture"] is True


@by_each_way
@pytest.mark.parametrize(
    "name",
    [
        "currentScript",
        "querySelector",
        "createElement",
        "addEventListener",
        "dispatchEvent",
        "readyState",
        "head",
        "body",
        "activeElement",
        "hasFocus",
        "location",
        "AuthorizeResult",
        "trustedTypes",
        "navigator",
    ],
)
def test_a_name_of_it_disables_neither_the_script_nor_its_nonce(site: Site, name, way):
    policy = (
        "default-src 'none'; connect-src 'self'; "
        f"script-src 'nonce-{NONCE}'; style-src 'nonce-{NONCE}'"
    )
    site.headers = {"Content-Security-Policy": policy}
    planted = f'<img name="{name}" id="{name}" alt=""><form name="{name}"></form>'
    site.html = site.render("<title>Page</title>" + planted + button(site, way), csp_nonce=NONCE)
    site.answer({"error": {"code": "rejected", "message": "No."}}, status=422)
    site.page.goto(f"{ORIGIN}/page/")
    site.click()
    assert site.posted()[0]["gesture"] is True
    site.says("alert", "No.")


def test_a_name_of_it_keeps_nobody_from_hearing_of_a_disconnect(site: Site):
    site.state |= {"csrf_header": "X-CSRFToken", "disconnect_url": "/leadexec/disconnect/"}
    answer = {"status": "disconnected", "message": "Done.", "redirect": "/"}
    site.page.route("**/leadexec/disconnect/", lambda route: route.fulfill(json=answer))
    site.open(
        head="<script>addEventListener('leadexec:disconnected', () => { window.heard = 1; });"
        "</script>",
        before='<img name="dispatchEvent" alt="">',
        tag=button(site, "connect"),
    )
    site.page.locator("#leAppButton").wait_for()
    # Without a button the event comes from the document.
    site.page.evaluate("leadexec.connect(place).remove()")
    assert site.page.evaluate("leadexec.disconnect(7)") == {
        "status": "disconnected",
        "message": "Done.",
    }
    assert site.page.evaluate("heard") == 1
