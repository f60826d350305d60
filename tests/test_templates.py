"""A site's own templates: block by block, in Django's language and in Jinja2."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.forms.renderers import DjangoTemplates
from django.template import utils
from django.test import RequestFactory
from pytest_django import Settings

import django_leadexec
from django_leadexec import pages, pending_link
from django_leadexec.authorization import LinkWaiting
from django_leadexec.button import render_button
from django_leadexec.secret import Secret
from django_leadexec.testing import missing_from_button

from .factories import make_connection, make_user
from .needs import import_or_skip

ROOT = Path(django_leadexec.__file__).parent
BUTTON = ROOT / "templates/django_leadexec/button.html"
BLOCKS = re.findall(r"{% block (\w+) %}", BUTTON.read_text("utf-8"))
# What is told to be missing once a block holds nothing but words.
LOST = {
    "styles": ["link.leadexec[href]"],
    "action": ["button.leadexec-action[id=leAppButton]", "button.le-app-button[data-btnid]"],
    "messages": [
        "p.leadexec-status[role=status]",
        "p.leadexec-error[role=alert]",
        "p.leadexec-error[id]",
    ],
    "continue": ["button.leadexec-continue[hidden]"],
    "account": ["p.leadexec-account[tabindex=-1]"],
    "disconnect": ["button.leadexec-connected[type=submit]"],
    "reconnect": [],
    "waiting": [],
    "noscript": [],
}
# Django's cache of the folders of all apps.
template_dirs: Any = utils.get_app_template_dirs
DJANGO = {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
JINJA2 = {"BACKEND": "django.template.backends.jinja2.Jinja2", "APP_DIRS": True}


def button(state: str) -> str:
    request = RequestFactory().get("/page/")
    request.user = AnonymousUser()
    if state == "waiting":
        request.session = SessionStore()
        pending_link.keep(request, LinkWaiting(Secret("rt-1"), "acme"), "")
        request.user = make_user()
    elif state:
        request.user = make_user()
        make_connection("rt-1", user=request.user, account_id="acme", status=state)
    return render_button(request=request)


def state_of(block: str) -> str:
    """In which state of the button the block is shown."""
    return {
        "account": "active",
        "disconnect": "active",
        "reconnect": "rejected",
        "waiting": "waiting",
    }.get(block, "")


def override(block: str, name: str = "button.html") -> str:
    return (
        f'{{% extends "django_leadexec/{name}" %}}'
        f"{{% block {block} %}}Words of the site{{% endblock %}}"
    )


@pytest.fixture
def site_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An app of the site, whose templates are in the folder that is returned."""
    app = tmp_path / "own_templates"
    folder = app / "templates" / "django_leadexec"
    folder.mkdir(parents=True)
    (app / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop("own_templates", None)
    template_dirs.cache_clear()


def use_app(settings: Settings, monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any]) -> None:
    settings.INSTALLED_APPS = ["own_templates", *settings.INSTALLED_APPS]
    template_dirs.cache_clear()
    settings.TEMPLATES = [engine]
    monkeypatch.setattr(pages, "_own", DjangoTemplates())


def test_every_block_is_documented_and_known_here() -> None:
    assert sorted(BLOCKS) == sorted(LOST)
    documented = (ROOT.parent / "docs/templates.md").read_text("utf-8")
    for path in (ROOT / "templates/django_leadexec").glob("*.html"):
        row = " ".join(re.findall(rf"^\| `django_leadexec/{path.name}`.*$", documented, re.M))
        for block in re.findall(r"{% block (\w+) %}", path.read_text("utf-8")):
            assert f"`{block}`" in row or (block == "content" and path.name != "base.html"), block


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["", "active", "rejected", "waiting"])
def test_the_packages_own_button_misses_nothing(state: str) -> None:
    assert missing_from_button(button(state)) == []


# Which there are depends on the language; the one for "other" is always there.
PLURALS = r"data-text-throttled-(zero|one|two|few|many)"


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["", "active"])
def test_each_attribute_of_the_element_around_the_button_is_missed(state: str) -> None:
    html = button(state)
    names = re.findall(r'([a-z-]+)="', html.partition(">")[0])
    assert {"lang", "data-text-unexpected"} < set(names)
    for name in names:
        if name != "class" and not re.fullmatch(PLURALS, name):
            without = html.replace(f'{name}="', 'data-gone="', 1)
            assert missing_from_button(without) == [f"div.leadexec[{name}]"]


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["", "active"])
@pytest.mark.parametrize(
    ("found", "replaced", "missing"),
    [
        ("(<script.*</script>)", r"<span>\1</span>", ".leadexec > script[src]"),
        (r'(lang="[\w-]+")', r"><p \1>", "div.leadexec[lang]"),
    ],
)
def test_what_the_script_looks_for_in_its_place_is_missed_elsewhere(
    state: str, found: str, replaced: str, missing: str
) -> None:
    html = re.sub(found, replaced, button(state), count=1)
    assert missing in missing_from_button(html)


def test_what_is_no_button_misses_everything() -> None:
    assert len(missing_from_button("<p>Nothing")) > 15


@pytest.mark.django_db
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_in_the_sites_folder_replaces_only_itself(
    settings: Settings, tmp_path: Path, block: str
) -> None:
    (tmp_path / "django_leadexec").mkdir()
    (tmp_path / "django_leadexec" / "button.html").write_text(override(block))
    settings.TEMPLATES = [DJANGO | {"DIRS": [tmp_path]}]
    html = button(state_of(block))
    assert html.count("Words of the site") == 1
    assert missing_from_button(html) == LOST[block]


@pytest.mark.django_db
@pytest.mark.parametrize("block", BLOCKS)
def test_a_site_of_jinja2_alone_replaces_a_block_in_an_app(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, site_app: Path, block: str
) -> None:
    import_or_skip("jinja2")
    (site_app / "button.html").write_text(override(block))
    use_app(settings, monkeypatch, JINJA2)
    html = button(state_of(block))
    assert html.count("Words of the site") == 1
    assert missing_from_button(html) == LOST[block]


@pytest.mark.django_db
def test_a_site_of_jinja2_may_write_the_whole_button_in_it(
    settings: Settings, tmp_path: Path
) -> None:
    import_or_skip("jinja2")
    (tmp_path / "django_leadexec").mkdir()
    (tmp_path / "django_leadexec" / "button.html").write_text(
        '<div class="leadexec" data-script="{{ script_url }}">'
        "{% for row in active %}{{ row.account_id }}{% else %}"
        '<button id="leAppButton" data-btnId="{{ button_id }}">{{ label }}</button>'
        "{% endfor %}</div>"
    )
    settings.TEMPLATES = [JINJA2 | {"DIRS": [tmp_path]}]
    html = button("")
    assert 'data-btnId="test-button">Sign in with LeadExec</button>' in html
    assert "div.leadexec[data-callback]" in missing_from_button(html)
    assert "div.leadexec[data-script]" not in missing_from_button(html)


# The pages

PAGES = [
    (path.name, block)
    for path in sorted((ROOT / "templates/django_leadexec").glob("*.html"))
    if path != BUTTON
    for block in re.findall(r"{% block (\w+) %}", path.read_text("utf-8"))
]
# What the script and the views need of a page, and the block that brings it: docs/templates.md.
BROUGHT = {
    "connect.html": {"leAppButton": "button", "<h1>": "heading"},
    "confirm.html": {
        "acme": "sides",
        "visitor@site": "sides",
        'name="confirm" value="yes"': "choice",
        'name="confirm" value="no"': "choice",
        'name="csrfmiddlewaretoken"': "content",
        'name="link" value="the-link"': "content",
        'name="visitor" value="the-mark"': "content",
        'role="alert">The error': "content",
    },
    "base.html": {"leadexec.min.css": "styles"},
}


def page(name: str) -> str:
    """What the view of this template would show, without what differs each time."""
    request = RequestFactory().get("/page/")
    request.user = AnonymousUser()
    context = {
        "next_url": "/",
        "account_id": "acme",
        "site_user": get_user_model()(username="visitor@site"),
        "link": "the-link",
        "visitor": "the-mark",
        "error": "The error",
    }
    html: str = pages.find_template(f"django_leadexec/{name}").render(context, request)
    return re.sub(r'("csrfmiddlewaretoken" value=)"\w+"', r'\1""', html)


def assert_replaces_only_itself(whole: str, html: str, name: str, block: str) -> None:
    before, after = html.split("Words of the site")
    assert whole.startswith(before)
    assert whole.endswith(after)
    assert len(before) + len(after) <= len(whole)
    lost = {what for what in BROUGHT[name] if what in whole and what not in html}
    gone = {block}
    if block == "content":
        # It stands last, and the others of its page stand in it.
        source = (BUTTON.parent / name).read_text("utf-8")
        gone |= set(re.findall(r"{% block (\w+) %}", source.partition("{% block content %}")[2]))
    assert lost == {what for what, brought_by in BROUGHT[name].items() if brought_by in gone}


def test_there_are_pages_to_look_at() -> None:
    assert {name for name, _block in PAGES} == set(BROUGHT)


@pytest.mark.django_db
@pytest.mark.parametrize("name", BROUGHT)
def test_a_page_has_all_that_the_views_need(name: str) -> None:
    html = page(name)
    assert [what for what in BROUGHT[name] if what not in html] == []


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "block"), PAGES)
def test_a_block_of_a_page_replaces_only_itself(
    settings: Settings, tmp_path: Path, name: str, block: str
) -> None:
    whole = page(name)
    (tmp_path / "django_leadexec").mkdir()
    (tmp_path / "django_leadexec" / name).write_text(override(block, name))
    settings.TEMPLATES = [DJANGO | {"DIRS": [tmp_path]}]
    assert_replaces_only_itself(whole, page(name), name, block)


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "block"), PAGES)
def test_a_site_of_jinja2_alone_replaces_a_block_of_a_page_in_an_app(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, site_app: Path, name: str, block: str
) -> None:
    import_or_skip("jinja2")
    whole = page(name)
    (site_app / name).write_text(override(block, name))
    use_app(settings, monkeypatch, JINJA2)
    assert_replaces_only_itself(whole, page(name), name, block)
