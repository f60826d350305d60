"""How the button looks on its own, before LeadExec's stylesheet has come and when it never does."""

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import ORIGIN, Faults, Site, in_each_engine, open_firefox, open_page
from tests.browser.test_endings import rendered

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Playwright

pytestmark = pytest.mark.browser

SCHEMES = '<meta name="color-scheme" content="light dark">'
LOOK = """(element) => {
  const { color, backgroundColor, outlineColor, borderStyle, borderWidth } =
    getComputedStyle(element);
  return { color, backgroundColor, outlineColor, borderStyle, borderWidth };
}"""


def look(element: "Locator") -> dict[str, str]:
    found: dict[str, str] = element.evaluate(LOOK)
    return found


def luminance(color: str) -> float:
    """The relative luminance of an opaque ``rgb(…)``, as WCAG defines it."""
    parts = color.removeprefix("rgb(").removesuffix(")").split(",")
    assert len(parts) == 3, f"{color} is not opaque"
    shares = [int(part) / 255 for part in parts]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def box(element: "Locator") -> Any:
    found = element.bounding_box()
    assert found is not None
    return found


@pytest.fixture
def bare(site: Site) -> Site:
    """A site whose provider sends no stylesheet, and a script that does nothing."""
    site.provider = ""
    site.stylesheet = None
    return site


@pytest.mark.parametrize(
    ("engine", "scheme"),
    [
        ("chromium", "light"),
        ("chromium", "dark"),
        pytest.param("firefox", "light", marks=pytest.mark.firefox),
        pytest.param("dark_firefox", "dark", marks=pytest.mark.firefox),
    ],
)
def test_the_button_stands_out_without_the_providers_stylesheet(bare: Site, scheme: Any):
    bare.page.emulate_media(color_scheme=scheme)
    bare.open(head=SCHEMES)
    assert bare.page.evaluate("(s) => matchMedia(`(prefers-color-scheme: ${s})`).matches", scheme)
    button = bare.page.locator("#leAppButton")
    page = "rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 18, 18)"
    assert box(button)["height"] >= 44
    assert box(button)["width"] >= 44
    found = look(button)
    assert contrast(found["color"], found["backgroundColor"]) >= 4.5
    # What tells that it is a button, and that it has the focus.
    assert contrast(found["backgroundColor"], page) >= 3
    bare.page.keyboard.press("Tab")
    assert button.evaluate("(button) => button.matches(':focus-visible')")
    assert contrast(look(button)["outlineColor"], page) >= 3


def assert_bordered(bare: Site) -> None:
    bare.open(head=SCHEMES)
    assert bare.page.evaluate("matchMedia('(forced-colors: active)').matches")
    found = look(bare.page.locator("#leAppButton"))
    assert found["borderStyle"] == "solid"
    assert float(found["borderWidth"].removesuffix("px")) >= 1
    assert contrast(found["color"], found["backgroundColor"]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_forced_colours_leave_it_a_border(bare: Site, scheme: Any):
    bare.page.emulate_media(forced_colors="active", color_scheme=scheme)
    assert_bordered(bare)


@pytest.mark.firefox
def test_forced_colours_leave_it_a_border_in_firefox(playwright: "Playwright", faults: Faults):
    forced = {"browser.display.document_color_use": 2}
    with open_firefox(playwright, **forced) as firefox, open_page(firefox, faults) as page:
        site = Site(page, faults)
        site.provider, site.stylesheet = "", None
        assert_bordered(site)


@pytest.mark.parametrize("rule", ["all: unset", "all: initial", "display: none", "opacity: 0"])
@pytest.mark.parametrize("whose", ["provider", "site"])
def test_a_bare_rule_for_buttons_leaves_it_as_it_is(bare: Site, rule, whose):
    style = f"button {{ {rule} }} :focus {{ outline: none }}"
    if whose == "provider":
        bare.stylesheet = style
    bare.open(head="" if whose == "provider" else f"<style>{style}</style>")
    button = bare.page.locator("#leAppButton")
    bare.wait_for(lambda: whose == "site" or bare.has_providers_stylesheet())
    assert box(button)["height"] >= 44
    found = look(button)
    assert contrast(found["color"], found["backgroundColor"]) >= 4.5
    assert button.evaluate("(button) => getComputedStyle(button).opacity") == "1"


def test_the_providers_stylesheet_wins_once_it_has_come(bare: Site):
    bare.stylesheet = ".le-app-button { background: #fff0d0; color: #402000; border-radius: 0 }"
    bare.open()
    bare.wait_for(bare.has_providers_stylesheet)
    found = look(bare.page.locator("#leAppButton"))
    assert found["backgroundColor"] == "rgb(255, 240, 208)"
    assert found["color"] == "rgb(64, 32, 0)"


def test_an_error_page_in_place_of_the_stylesheet_changes_nothing(bare: Site):
    bare.open()
    before = look(bare.page.locator("#leAppButton"))
    bare.stylesheet = "<h1>Down for maintenance</h1>"
    bare.page.reload()
    bare.wait_for(bare.has_providers_stylesheet)
    assert look(bare.page.locator("#leAppButton")) == before


# What a site may set, and what it gets

CUSTOM = """<style>:root {
  --leadexec-accent: rgb(90, 30, 110);
  --leadexec-on-accent: rgb(255, 250, 240);
  --leadexec-radius: 17px;
  --leadexec-space: 11px;
  --leadexec-font: monospace;
  --leadexec-error: rgb(160, 0, 0);
}</style>"""


def style(element: "Locator", name: str) -> str:
    found: str = element.evaluate("(element, name) => getComputedStyle(element)[name]", name)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_site_sets_colours_radius_spacing_and_font(site: Site, scheme: Any):
    site.stylesheet = None
    site.answer({"error": {"code": "unavailable", "message": "Down."}}, status=502)
    site.page.emulate_media(color_scheme=scheme)
    site.open(head=SCHEMES + CUSTOM)
    site.click()
    site.says("alert", "Down.")
    button = site.page.locator("#leAppButton")
    again = site.page.get_by_role("button", name="Try again")
    assert look(button)["backgroundColor"] == "rgb(90, 30, 110)"
    assert look(button)["color"] == "rgb(255, 250, 240)"
    for each in (button, again):
        assert style(each, "borderTopLeftRadius") == "17px"
        assert style(each, "paddingTop") == "11px"
        assert style(each, "paddingLeft") == "22px"
        assert style(each, "fontFamily") == "monospace"
    alert = site.page.locator(".leadexec [role=alert]")
    assert style(alert, "borderLeftColor") == "rgb(160, 0, 0)"
    assert style(alert, "marginTop") == "11px"
    assert style(alert, "fontFamily") == "monospace"


def test_a_site_may_set_them_for_one_button_alone(bare: Site):
    bare.open(
        head="<style>.ours { --leadexec-accent: rgb(90, 30, 110) }</style>",
        tag='{% leadexec_button css_class="ours" %}',
    )
    assert look(bare.page.locator("#leAppButton"))["backgroundColor"] == "rgb(90, 30, 110)"


LONG = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 2


@in_each_engine
def test_long_words_wrap_on_a_narrow_screen(site: Site):
    site.stylesheet = None
    site.answer({"error": {"code": "unavailable", "message": LONG}}, status=502)
    site.page.set_viewport_size({"width": 320, "height": 640})
    site.open(
        tag=f'{{% leadexec_button label="{LONG}" %}}',
        head='<meta name="viewport" content="width=device-width">',
    )
    site.click()
    site.says("alert", LONG)
    assert site.page.evaluate("document.documentElement.scrollWidth") == 320


@pytest.mark.parametrize("account", ["acme", LONG])
def test_a_connected_state_wraps_too(site: Site, monkeypatch, account):
    site.page.set_viewport_size({"width": 320, "height": 640})
    site.html = rendered(site, monkeypatch, account_id=account)
    site.page.goto(f"{ORIGIN}/page/")
    assert site.page.evaluate("document.documentElement.scrollWidth") == 320
    text = site.page.locator(".leadexec").inner_text()
    assert f"Connected with LeadExec as {account}" in text
    assert "since" in text
    assert box(site.page.get_by_role("button", name="Disconnect"))["height"] >= 44
