"""A look at a site's own template of the button."""

from html.parser import HTMLParser


def missing_from_button(html: str) -> list[str]:
    """What leadexec.js or the views need and ``html``, the button as rendered, does not have.

    For a site with a ``django_leadexec/button.html`` of its own: see docs/templates.md. Empty, if
    nothing is missing.
    """
    elements = _Elements(html).found
    is_connected = any("leadexec-connected" in classes for _tag, _attributes, classes in elements)
    return [
        selector
        for selector in (_NEEDED_CONNECTED if is_connected else _NEEDED)
        if not any(_fits(selector, element) for element in elements)
    ]


# Tag, attributes, and the classes of the element and all around it.
_Element = tuple[str, dict[str, str | None], frozenset[str]]
_DATA = ("callback", "csrf-header", "csrf-token", "state", "load", "next", "script", "stylesheet")
# Each is `tag.class[attribute=value]`, in this order; the class may be that of an element around.
_NEEDED = (
    *(f"div.leadexec[data-{name}]" for name in (*_DATA, "visitor", "text-busy")),
    "link.leadexec[href]",
    "button.leadexec-action[id=leAppButton]",
    "button.le-app-button[data-btnid]",
    "p.leadexec-status[role=status]",
    "p.leadexec-error[role=alert]",
    "p.leadexec-error[id]",
    "button.leadexec-continue[hidden]",
    "script.leadexec[src]",
)
_NEEDED_CONNECTED = (
    "div.leadexec[data-text-disconnecting]",
    "link.leadexec[href]",
    "form.leadexec-connected[method=post]",
    "form.leadexec-connected[action]",
    "input.leadexec-connected[name=csrfmiddlewaretoken]",
    "input.leadexec-connected[name=connection]",
    "p.leadexec-account[tabindex=-1]",
    "button.leadexec-connected[type=submit]",
    "p.leadexec-status[role=status]",
    "script.leadexec[src]",
)
# Any element will do for these, as long as its class and its role are there.
_ANY_TAG = ("div", "p")
_VOID = {"input", "link", "img", "br", "hr", "meta"}


def _fits(selector: str, element: _Element) -> bool:
    tag, attributes, classes = element
    wanted_tag, _, rest = selector.partition(".")
    wanted_class, _, condition = rest.removesuffix("]").partition("[")
    name, _, value = condition.partition("=")
    return (
        (wanted_tag in _ANY_TAG or tag == wanted_tag)
        and wanted_class in classes
        and name in attributes
        and value in ("", attributes[name])
    )


class _Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[_Element] = []
        self._around: list[tuple[str, frozenset[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        around = self._around[-1][1] if self._around else frozenset()
        classes = around | set((attributes.get("class") or "").split())
        self.found.append((tag, attributes, classes))
        if tag not in _VOID:
            self._around.append((tag, classes))

    def handle_endtag(self, tag: str) -> None:
        while self._around:
            if self._around.pop()[0] == tag:
                break
