"""The admin's pages that ask first look like part of the admin, whichever theme a site has."""

import json
from pathlib import Path

import pytest

from ..needs import import_or_skip
from ..processes import run_scenario

pytestmark = pytest.mark.browser

TITLES = {
    "revoke": "Revoke at LeadExec?",
    "delete": "Delete connections?",
    "let_go": "Let go of pending revocations?",
}


@pytest.mark.parametrize("theme", ["", "unfold", "jazzmin"])
def test_each_page_has_its_heading_and_buttons_that_can_be_read_and_hit(
    tmp_path: Path, theme: str
) -> None:
    if theme:
        import_or_skip(theme)
    database = str(tmp_path / "theme.sqlite3")
    pages = json.loads(run_scenario("tests.themes", THEME=theme, THEME_DATABASE=database))
    assert len(pages) == len(TITLES) * 3
    for name, page in pages.items():
        assert page["headings"] == [TITLES[name.split()[0]]], name
        assert page["overflow"] <= 0, name
        for button in (page["yes"], page["no"]):
            assert button["height"] >= 32, name
            assert button["width"] >= 60, name
            assert button["contrast"] >= 4.5, (name, button)
