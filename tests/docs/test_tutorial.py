"""The tutorial, followed command by command, with a browser for what it does by hand."""

import re
from contextlib import suppress
from pathlib import Path

import pytest

from tests.browser.conftest import ARGUMENTS
from tests.needs import find_chromium

from .new_site import NewSite, free_port
from .snippets import DOCS, blocks_of

TUTORIAL = DOCS / "tutorial.md"
# What a test can't do: it has an environment already, and a package that is on no index.
DONE_ALREADY = {
    "mkdir leads",
    "cd leads",
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install django-leadexec",
}


@pytest.mark.slow
@pytest.mark.browser
def test_it_leads_to_a_page_of_leads(tmp_path: Path) -> None:
    site = NewSite(tmp_path, free_port())
    said: dict[str, str] = {}
    was_live = False
    for block in blocks_of(TUTORIAL):
        if block.language != "sh":
            assert block.files(), block
            site.paste(block)
            continue
        for command in block.code.splitlines():
            if command == "python manage.py runserver":
                with site.serving():
                    visit(f"http://127.0.0.1:{site.port}")
                was_live = True
            elif command not in DONE_ALREADY:
                said[command] = site.run(command)
    assert was_live
    assert "no issues" in said["python manage.py check"]
    assert said["python manage.py refresh_leadexec_tokens"].startswith("0 refreshed")
    assert re.search(r"^active +1$", said["python manage.py leadexec_status"], re.MULTILINE)


def visit(site: str) -> None:
    """Log in, connect, and read the leads, as the tutorial says."""
    from playwright.sync_api import Error, expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        page = browser.new_page()
        page.goto(f"{site}/")
        page.get_by_role("link", name="Log in").click()
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Password").fill("secret")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("Hello, ada.")).to_be_visible()
        with page.expect_popup() as opened:
            page.get_by_role("button", name="Connect LeadExec").click()
        dialog = opened.value
        # It closes itself, which may cut the click's own answer off.
        with dialog.expect_event("close"), suppress(Error):
            dialog.get_by_role("button", name="Consent").click()
        page.wait_for_url(f"{site}/leads/")
        expect(page.get_by_text("You are connected with LeadExec.")).to_have_count(1)
        expect(page.get_by_role("heading", level=2)).to_have_count(2)
        assert page.get_by_role("listitem").count() == 10
        page.get_by_role("link", name="Back").click()
        expect(page.get_by_role("button", name="Disconnect")).to_be_visible()
        expect(page.get_by_text("You are connected with LeadExec.")).to_have_count(0)
        browser.close()
