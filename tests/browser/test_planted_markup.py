"""Markup that a sanitizer may let a visitor put on a page: classes and data, no script."""

import pytest

from tests.browser.conftest import CONNECTED, ORIGIN, Site

pytestmark = pytest.mark.browser

PLANTED = """<div class="leadexec" data-callback="{other}/take" data-csrf-header="X-CSRFToken"
  data-csrf-token="x" data-script="{other}/script.js"><p role="status"></p><p role="alert"></p>
  <div class="leadexec-action"></div></div>"""


@pytest.mark.parametrize("other", ["https://evil.test", "/elsewhere"])
def test_what_looks_like_the_tag_names_neither_script_nor_callback(site: Site, other):
    planted = PLANTED.format(other=other)
    nonce = "bm9uY2U="
    # Whatever has the nonce may run, so the policy alone would not stop it.
    policy = f"default-src 'none'; connect-src *; script-src 'nonce-{nonce}'"
    site.headers = {"Content-Security-Policy": policy}
    asked = []
    site.page.context.on("request", lambda request: asked.append(request.url))
    site.html = site.render(
        "<title>Page</title>" + planted + "{% leadexec_button %}" + planted, csp_nonce=nonce
    )
    site.answer(CONNECTED)
    site.page.goto(f"{ORIGIN}/page/")
    site.click()
    assert site.posted()[0]["refreshToken"] == "rt-1"
    assert [url for url in asked if "evil.test" in url or "elsewhere" in url] == []
