"""The README holds what it promises to those who follow it."""

import re
from pathlib import Path

import pytest

from django_leadexec.checks import SITE

from .docs.new_site import NewSite, free_port
from .docs.snippets import DOCS, ROOT, blocks_of
from .test_documents import anchors

README = ROOT / "README.md"
TEXT = README.read_text("utf-8")


def test_it_is_short() -> None:
    assert len(TEXT.split()) <= 700


def test_its_links_work_wherever_it_is_shown() -> None:
    """PyPI shows it, too, and has none of the repository's files."""
    links = re.findall(r"\]\(([^)\s]+)\)", TEXT)
    assert len(links) > 5
    for link in links:
        assert link.startswith(f"{SITE}/")
        page, _, anchor = link.removeprefix(f"{SITE}/").partition("#")
        if page.startswith("_images/"):
            # Sphinx puts the pictures of all pages there.
            name = Path(page).name
            # In the sources: a built site has a copy.
            assert (DOCS / "pictures" / name).is_file()
            assert f"/{name})" in (DOCS / "index.md").read_text("utf-8")
        else:
            document = DOCS / page.replace(".html", ".md")
            assert document.is_file(), link
            assert not anchor or anchor in anchors(document), link


def test_it_claims_no_more_than_the_benchmarks_show() -> None:
    claimed = set(re.findall(r"\b(\w+) million\b", TEXT))
    played = (DOCS / "benchmarks.md").read_text("utf-8")
    assert claimed == {"a"}
    assert "| connections that the day stands for | 1,000,000 " in played


CALL = """
from django.contrib.auth.models import User
from django.test import Client
from django_leadexec.sandbox import provider

client = Client(headers={"host": "127.0.0.1"})
client.force_login(User.objects.create_user("ada"))
first = client.get("/lead-types/").url
[token] = provider.create_grants("your-app-id")
visitor = client.get("/leadexec/state/").json()["visitor"]
body = {"token": token, "gesture": True, "visitor": visitor}
client.post("/leadexec/callback/", body, content_type="application/json")
print(first, [sorted(it) for it in client.get("/lead-types/").json()])
"""

BUTTON = """
from django.contrib.auth.models import AnonymousUser
from django.template import engines
from django.test import RequestFactory

request = RequestFactory().get("/page/")
request.user = AnonymousUser()
print(engines["django"].from_string('''%s''').render({}, request))
"""


@pytest.mark.slow
def test_its_steps_make_a_site_with_the_sandbox(tmp_path: Path) -> None:
    blocks = [block for block in blocks_of(README) if block.code.strip()]
    demo, install, settings, urls, sandbox, commands, button, views = blocks
    assert re.findall(r"^make ([\w-]+)", demo.code, re.MULTILINE) == ["demo", "demo-watch"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {"demo", "demo-watch"} <= set(targets)

    site = NewSite(tmp_path, free_port())
    site.run("django-admin startproject mysite .")
    pip, export = install.code.splitlines()
    assert pip == "pip install django-leadexec"
    site.run(export)
    site.paste(settings, "mysite")
    site.paste(urls, "mysite")
    # Before the sandbox is there, the samples are what is wrong.
    assert site.run("python manage.py check").count("leadexec.W009") == 2
    site.paste(sandbox, "mysite")
    check, migrate, collect = map(site.run, commands.code.splitlines())
    assert "no issues" in check
    assert "leadexec_sandbox.0001_initial... OK" in migrate
    assert "static files copied" in collect
    (tmp_path / "button.py").write_text(BUTTON % button.code)
    assert 'id="leAppButton"' in site.run("python manage.py shell -v 0 < button.py")
    site.paste(views, "mysite")
    (tmp_path / "call.py").write_text(CALL)
    with site.serving():
        said = site.run("python manage.py shell -v 0 < call.py")
    assert "/leadexec/connect/?next=%2Flead-types%2F" in said
    assert "[['LeadTypeUID', 'Name'], ['LeadTypeUID', 'Name']]" in said
    production = re.findall(r"`python (manage\.py refresh[^`]*)`", TEXT)
    assert site.run(f"python {production[0]}").startswith("0 refreshed")
