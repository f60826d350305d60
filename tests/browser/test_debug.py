"""With DEBUG the page says why the button can't work where it is: in place, and in the console."""

import pytest

from tests.browser.conftest import CONNECTED, NOT_LOADED, Site
from tests.sockets import Peer, serving

pytestmark = pytest.mark.browser

NOTE = ".leadexec-debug, .leadexec-debug-waits"


@pytest.fixture(autouse=True)
def debug(settings) -> None:
    settings.DEBUG = True


@pytest.fixture
def told(site: Site) -> list[str]:
    """What the page has told the console."""
    found: list[str] = []
    site.page.on("console", lambda message: found.append(message.text))
    # What it says, it says as an error.
    site.faults.allow("django-leadexec: ")
    return found


def note(site: Site) -> str:
    shown = site.page.locator(NOTE)
    shown.wait_for()
    return shown.text_content() or ""


def works(site: Site) -> None:
    site.answer(CONNECTED)
    site.click()
    site.posted()


def test_where_all_is_well_nothing_is_said(site: Site, told):
    site.headers["Cross-Origin-Opener-Policy"] = "same-origin-allow-popups"
    site.open()
    site.page.locator(NOTE).wait_for(state="detached")
    assert told == []
    works(site)


def test_without_debug_nothing_of_it_is_in_the_page(site: Site, settings):
    settings.DEBUG = False
    site.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    site.open()
    assert "debug" not in site.page.content()


@pytest.mark.parametrize("policy", ["same-origin", 'same-origin; report-to="x"'])
def test_a_policy_that_cuts_off_leadexecs_window_is_told(site: Site, told, policy):
    site.headers["Cross-Origin-Opener-Policy"] = policy
    site.open()
    site.wait_for(lambda: "same-origin-allow-popups" in note(site))
    site.wait_for(lambda: len(told) == 1)
    assert "SECURE_CROSS_ORIGIN_OPENER_POLICY" in told[0]


def test_a_tag_inside_a_form_is_told_and_works_all_the_same(site: Site, told):
    site.open(before='<form action="/outer/">', after="</form>")
    site.wait_for(lambda: "inside a form" in note(site))
    site.wait_for(lambda: len(told) == 1)
    works(site)
    assert not [url for _, url in site.visits if "outer" in url]


INNER_HTML = """<div id="place"></div><template id="tag">{tag}</template><script>
document.querySelector("#place").innerHTML = document.querySelector("#tag").innerHTML;
document.querySelector("#tag").remove();
</script>"""


def test_a_tag_that_innerhtml_brings_says_that_its_script_has_not_run(site: Site):
    tag = site.render("{% leadexec_button %}")
    site.open(tag="", before=INNER_HTML.replace("{tag}", tag))
    shown = site.page.locator(".leadexec-debug-waits")
    # The style shows it after five seconds.
    site.wait_for(shown.is_visible)
    assert "leadexec.esm.js" in note(site)
    assert site.asked_provider() == []


def test_where_the_script_is_there_already_such_a_tag_works_by_a_click(site: Site):
    tag = site.render("{% leadexec_button %}")
    script = '<script src="/static/django_leadexec/leadexec.min.js" defer></script>'
    site.open(tag="", head=script, before=INNER_HTML.replace("{tag}", tag))
    works(site)


@pytest.mark.parametrize("how", ["parsed", "cloned"])
def test_a_tag_in_a_shadow_tree_says_so(site: Site, told, how):
    tag = site.render("{% leadexec_button %}")
    if how == "parsed":
        site.open(tag="", before=f'<div><template shadowrootmode="open">{tag}</template></div>')
    else:
        site.open(
            tag="",
            before=f"""<div id="host"></div><template id="tag">{tag}</template><script>
            const root = document.querySelector("#host").attachShadow({{mode: "open"}});
            root.append(document.querySelector("#tag").content.cloneNode(true));
            </script>""",
        )
    site.wait_for(lambda: "shadow tree" in note(site))
    site.wait_for(lambda: [text for text in told if "shadow tree" in text])
    assert site.asked_provider() == []


def test_the_module_shows_no_note(site: Site):
    site.state = {"button": site.render("{% leadexec_button %}"), "connections": []}
    code = (
        'import { connect } from "/static/django_leadexec/leadexec.esm.js";'
        'connect(document.querySelector("main"));'
    )
    site.open(tag="", before=f'<main></main><script type="module">{code}</script>')
    works(site)
    assert site.page.locator(NOTE).count() == 0


LOADS = """(url) => new Promise((resolve) => {
  const script = document.createElement("script");
  script.src = url;
  script.onload = () => resolve(true);
  script.onerror = () => resolve(false);
  document.head.append(script);
})"""


PAGE = b"""HTTP/1.1 200 OK\r
Content-Type: text/html\r
Cross-Origin-Embedder-Policy: require-corp\r
Content-Length: 15\r
\r
<!doctype html>"""


def serve_page(peer: Peer) -> None:
    while peer.request():
        peer.send(PAGE)


def test_a_page_that_embeds_only_what_agrees_loads_the_sandbox(page, faults, live_server):
    faults.allow(NOT_LOADED)
    # A real server, as browsers let no page of another into this machine.
    with serving(serve_page) as server:
        page.goto(server.url)
        sandbox = f"{live_server.url}/sandbox/js/le-app-button.js"
        assert page.evaluate(LOADS, sandbox) is True
        other = f"{live_server.url}/static/django_leadexec/leadexec.min.js"
        assert page.evaluate(LOADS, other) is False
