"""A look at a site's own template of the button."""

import re
from html.parser import HTMLParser
from typing import NamedTuple

from ..button import PLURAL_EXAMPLES, button_texts, connected_texts


def missing_from_button(html: str) -> list[str]:
    """What leadexec.js or the views need and ``html``, the button as rendered, does not have.

    For a site with a ``django_leadexec/button.html`` of its own: see docs/templates.md. Empty, if
    nothing is missing.
    """
    elements = _Elements(html).found
    is_connected = any("leadexec-connected" in element.around for element in elements)
    return [
        selector
        for selector in (_needed_connected() if is_connected else _needed())
        if not any(_fits(selector, element) for element in elements)
    ]


class _Element(NamedTuple):
    tag: str
    attributes: dict[str, str | None]
    classes: frozenset[str]
    # The classes of the element and all around it, and those of the one directly around it.
    around: frozenset[str]
    of_parent: frozenset[str]


_DATA = ("callback", "csrf-header", "csrf-token", "state", "load", "next", "script", "stylesheet")
# Of the forms of a number a page has those of its language, and in any language this one.
_PLURAL_FORMS = {f"throttled-{form}" for form in PLURAL_EXAMPLES} - {"throttled-other"}


def _needed() -> list[str]:
    """Each is ``tag.class[attribute=value]``; of a ``div`` and a ``p`` any tag will do, of others
    the class may be that of an element around."""
    texts = [f"text-{name}" for name in button_texts() if name not in _PLURAL_FORMS]
    return [
        "div.leadexec[lang]",
        *(f"div.leadexec[data-{name}]" for name in (*_DATA, "visitor", *texts)),
        "link.leadexec[href]",
        "button.leadexec-action[id=leAppButton]",
        "button.le-app-button[data-btnid]",
        "p.leadexec-status[role=status]",
        "p.leadexec-error[role=alert]",
        "p.leadexec-error[id]",
        "button.leadexec-continue[hidden]",
        ".leadexec > script[src]",
    ]


def _needed_connected() -> list[str]:
    return [
        "div.leadexec[lang]",
        *(f"div.leadexec[data-text-{name}]" for name in connected_texts()),
        "link.leadexec[href]",
        "form.leadexec-connected[method=post]",
        "form.leadexec-connected[action]",
        "input.leadexec-connected[name=csrfmiddlewaretoken]",
        "input.leadexec-connected[name=connection]",
        "p.leadexec-account[tabindex=-1]",
        "button.leadexec-connected[type=submit]",
        "p.leadexec-status[role=status]",
        ".leadexec > script[src]",
    ]


_SELECTOR = re.compile(
    r"(?:\.(?P<parent>[\w-]+) > )?(?P<tag>\w+)(?:\.(?P<class>[\w-]+))?"
    r"\[(?P<name>[\w-]+)(?:=(?P<value>[\w-]+))?\]"
)
_ANY_TAG = ("div", "p")
_VOID = {"input", "link", "img", "br", "hr", "meta"}


def _fits(selector: str, element: _Element) -> bool:
    [(parent, tag, one_class, name, value)] = _SELECTOR.findall(selector)
    is_any_tag = tag in _ANY_TAG
    return (
        (is_any_tag or element.tag == tag)
        and one_class in ("", *(element.classes if is_any_tag else element.around))
        and parent in ("", *element.of_parent)
        and name in element.attributes
        and value in ("", element.attributes[name])
    )


class _Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[_Element] = []
        self._around: list[_Element] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        classes = frozenset((attributes.get("class") or "").split())
        outer = self._around[-1] if self._around else _Element("", {}, *[frozenset[str]()] * 3)
        element = _Element(tag, attributes, classes, outer.around | classes, outer.classes)
        self.found.append(element)
        if tag not in _VOID:
            self._around.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._around:
            if self._around.pop().tag == tag:
                break
