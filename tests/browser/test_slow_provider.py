"""A page whose provider hangs, both on real sockets: nothing of the page waits for it."""

import mimetypes
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from django.contrib.staticfiles import finders

from tests.browser.conftest import NOT_LOADED, ON_CLICK, Site, in_each_engine
from tests.sockets import Peer, SocketServer, serving

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Page</title><script>
window.happened = [];
document.addEventListener("DOMContentLoaded", () => happened.push("DOMContentLoaded"));
window.addEventListener("load", () => happened.push("load"));
</script></head><body>{% leadexec_button %}<p id="below">Below the button</p></body></html>"""
# A frame with text in it has been painted.
PAINTED = "performance.getEntriesByName('first-contentful-paint').length > 0"


def reply(body: str, name: str) -> bytes:
    kind = mimetypes.guess_type(name)[0] or "text/html"
    data = body.encode()
    head = f"Content-Type: {kind}; charset=utf-8\r\nContent-Length: {len(data)}\r\n"
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + data


class SlowProvider:
    """Takes every request and answers none before ``release``."""

    def __init__(self) -> None:
        self.release = Event()
        self.server: SocketServer

    def talk(self, peer: Peer) -> None:
        while request := peer.request():
            while not (self.release.wait(0.05) or peer.server.stopping.is_set()):
                pass
            script = ON_CLICK % '{valid: false, error: "No."}'
            is_script = request.target.endswith(".js")
            peer.send(reply(script if is_script else ".le-app-button {}", request.target))

    def asked(self) -> set[str]:
        return {request.target.rpartition("/")[2] for request in self.server.requests}


@pytest.fixture
def slow(settings) -> Iterator[SlowProvider]:
    provider = SlowProvider()
    with serving(provider.talk) as provider.server:
        settings.DEBUG = True  # it speaks http
        settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": provider.server.url}
        yield provider


@pytest.fixture
def slow_page(site: Site, slow: SlowProvider) -> Iterator[Site]:
    """Served from this machine, too: browsers ask before a public page may reach into it."""
    html = site.render(PAGE)

    def talk(peer: Peer) -> None:
        while request := peer.request():
            _, is_static, name = request.target.partition("/static/")
            body = Path(finders.find(name)).read_text("utf-8") if is_static else html  # type: ignore[arg-type]
            peer.send(reply(body, request.target))

    with serving(talk) as server:
        site.real = "http://127.0.0.1:"
        # The provider goes before the page, in the middle of its answers.
        site.faults.allow(NOT_LOADED)
        site.page.goto(server.url, wait_until="commit")
        yield site


@in_each_engine
def test_a_provider_that_hangs_holds_up_nothing_of_the_page(slow_page: Site, slow: SlowProvider):
    page = slow_page.page
    page.wait_for_function("window.happened?.length === 2")
    slow_page.wait_for(lambda: slow.asked() == {"le-app-button.js", "le-app-button.css"})
    page.wait_for_function(PAINTED)
    assert page.locator("#below").is_visible()
    assert page.evaluate("typeof AuthorizeResult") == "function"
    height = page.locator("#leAppButton").bounding_box()["height"]  # type: ignore[index]
    assert height >= 44
    assert not slow.release.is_set()
