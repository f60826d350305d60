"""A site of single pages: the examples of docs/single-page.md, as they stand there."""

import re
from pathlib import Path
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.browser import urls

ROOT = Path(__file__).parents[2]
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "single-page.md").read_text("utf-8"), re.M | re.S
)


def example(language: str) -> str:
    """The longest block of this language."""
    return max((text for name, text in BLOCKS if name == language), key=len)


def block(language: str, word: str) -> str:
    """The only block of this language that has this word."""
    [found] = [text for name, text in BLOCKS if name == language and word in text]
    return found


api: dict[str, Any] = {"__name__": "api"}
exec(compile(example("python"), "docs/single-page.md", "exec"), api)  # noqa: S102 - our own page


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(example("html"))


urlpatterns = [
    path("leads/", page),
    *api["urlpatterns"],
    *urls.urlpatterns,
]
