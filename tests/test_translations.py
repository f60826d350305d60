"""The catalogues are complete and compiled, and every text that people see goes through them."""

import re
import shutil
import string
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from gettext import c2py
from html import unescape
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import AnonymousUser
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.utils import translation
from django.utils.functional import Promise
from pytest_django import Settings

import django_leadexec
from django_leadexec.admin import outcomes
from django_leadexec.button import PLURAL_EXAMPLES, render_button
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.responses import ERRORS

from .factories import make_connection, make_user
from .needs import import_or_skip

polib = import_or_skip("polib")

PACKAGE = Path(django_leadexec.__file__).parent
CATALOGUES = sorted(PACKAGE.glob("locale/*/LC_MESSAGES/django.po"))
LOCALES = [path.parents[1].name for path in CATALOGUES]
# How many forms a number takes: the languages with fewer or more than two of their own.
FORMS = {"ar": 6, "ja": 1, "zh_Hans": 1, "pl": 4, "es": 3, "fr": 3, "he": 3}
# Numbers, each of which a form can say in words if no other number takes it.
NUMBERS = {"%(count)s", "%(already)s", "%(unlisted)s", "%(attempts)s", "%(seconds)s"}
# Words that end alike in some languages, and that nobody translates.
FOREIGN = {"LeadExec", "status", "active"}

each_catalogue = pytest.mark.parametrize("path", CATALOGUES, ids=LOCALES)


def names(text: str) -> Counter[str]:
    """What is put into a text, and its markup."""
    return Counter(
        re.findall(r"%\(\w+\)s|%s|</?\w+>|refresh_leadexec_tokens|LEADEXEC\[\S+\]", text)
    )


def test_there_is_a_catalogue_for_each_language_that_is_promised() -> None:
    documented = set(
        re.findall(
            r"^\| `(\w+)` \|", (PACKAGE.parent / "docs/translating.md").read_text("utf-8"), re.M
        )
    )
    assert documented == set(LOCALES)
    assert len(LOCALES) == 11


@each_catalogue
def test_a_catalogue_is_complete(path: Path) -> None:
    catalogue = polib.pofile(str(path))
    assert [entry.msgid for entry in catalogue.fuzzy_entries()] == []
    assert [entry.msgid for entry in catalogue.untranslated_entries()] == []
    assert catalogue.obsolete_entries() == []
    same = {entry.msgid for entry in catalogue if entry.msgstr == entry.msgid}
    assert same <= FOREIGN


def test_all_catalogues_have_the_same_texts() -> None:
    found = [{(one.msgctxt, one.msgid) for one in polib.pofile(str(path))} for path in CATALOGUES]
    assert all(texts == found[0] for texts in found)


@each_catalogue
def test_each_form_puts_in_what_the_text_does(path: Path) -> None:
    catalogue = polib.pofile(str(path))
    count = FORMS.get(path.parents[1].name, 2)
    rule = catalogue.metadata["Plural-Forms"]
    assert f"nplurals={count};" in rule
    form_of = c2py(rule.partition("plural=")[2].rstrip(";"))
    taken = Counter(form_of(number) for number in range(1000))
    assert set(taken) <= set(range(count))
    # Those that one number takes and no other. A language may never use a form for whole numbers.
    alone = {form for form, numbers in taken.items() if numbers == 1}
    for entry in catalogue:
        if entry.msgid_plural:
            assert sorted(entry.msgstr_plural) == list(range(count)), entry.msgid
        for form, text in (entry.msgstr_plural or {None: entry.msgstr}).items():
            missing, added = names(entry.msgid) - names(text), names(text) - names(entry.msgid)
            assert not added, text
            assert not missing or (form in alone and set(missing) <= NUMBERS), text
            assert text == text.strip()
            # The macros that a translation may be made with.
            assert not set("{}|") & set(text)


@pytest.mark.parametrize("locale", ["ar", "he"])
def test_a_text_that_is_read_leftwards_begins_so(locale: str) -> None:
    """With ``dir="auto"`` the first letter decides: a Latin name would turn the text around."""
    path = PACKAGE / "locale" / locale / "LC_MESSAGES" / "django.po"
    for entry in polib.pofile(str(path)):
        for text in entry.msgstr_plural.values() or [entry.msgstr]:
            letters = re.sub(r"%\(\w+\)s|%s|<bdi>.*?</bdi>", "", text)
            kinds = (unicodedata.bidirectional(letter) for letter in letters)
            first = next((kind for kind in kinds if kind in ("L", "R", "AL")), None)
            assert first != "L" or text == "LeadExec", text


@each_catalogue
def test_what_is_compiled_is_what_is_written(path: Path) -> None:
    def content(catalogue: Any) -> dict[tuple[str | None, str], object]:
        return {
            (entry.msgctxt, entry.msgid): (entry.msgstr, entry.msgstr_plural) for entry in catalogue
        }

    compiled = polib.mofile(str(path.with_suffix(".mo")))
    assert content(compiled) == content(polib.pofile(str(path))), "run make messages"


def test_no_text_is_one_of_djangos() -> None:
    """A language that we lack would get Django's words for this one, among English ones."""
    ours = {entry.msgid for entry in polib.pofile(str(CATALOGUES[0])) if not entry.msgctxt}
    root = Path(django.__file__).parent
    theirs: set[str] = set()
    for path in root.glob("**/locale/de/LC_MESSAGES/django.mo"):
        theirs |= {entry.msgid for entry in polib.mofile(str(path)) if not entry.msgctxt}
    assert len(theirs) > 500
    assert ours & theirs == set()


def test_every_text_of_the_code_is_in_the_catalogues() -> None:
    """Adding one without ``make messages`` is noticed here, without gettext's tools."""
    known = {entry.msgid for entry in polib.pofile(str(CATALOGUES[0]))}
    with translation.override("en"):
        texts = [str(error.message) for error in ERRORS.values()]
        texts += [
            value % {"count": 1} for value in vars(outcomes).values() if isinstance(value, Promise)
        ]
        html = render_button(request=RequestFactory().get("/page/"))
    texts += re.findall(r'data-text-[\w-]+="([^"]+)"', html)
    assert len(texts) > 35
    known = {text.replace("%(seconds)s", "%s") for text in known}
    plain = {text % {"count": 1} if "%(count)s" in text else text for text in known}
    plural = {
        entry.msgid_plural.replace("%(seconds)s", "%s")
        for entry in polib.pofile(str(CATALOGUES[0]))
    }
    for text in texts:
        assert text.replace("&#x27;", "'") in plain | plural, text


TEMPLATES = [
    path
    for path in PACKAGE.glob("templates/**/*.html")
    # For developers, in English.
    if path.name != "debug.html"
]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_text_of_a_template_is_left_out(path: Path) -> None:
    text = path.read_text("utf-8")
    text = re.sub(r"{% block bodyclass %}.*?{% endblock %}", "", text)
    text = re.sub(r"{% comment.*?endcomment %}|{#.*?#}", "", text, flags=re.S)
    text = re.sub(r"{% blocktranslate.*?{% endblocktranslate %}", "", text, flags=re.S)
    text = re.sub(r"{%.*?%}|{{.*?}}", "", text, flags=re.S)
    text = re.sub(r"<[^>]*>|&\w+;", "", text).replace("LeadExec", "")
    assert not set(text) & set(string.ascii_letters), text.strip()


@pytest.mark.parametrize("locale", LOCALES)
def test_the_button_speaks_each_language(locale: str) -> None:
    english = set(re.findall(r'data-text-[\w-]+="([^"]+)"', button("en")))
    html = button(translation.to_language(locale))
    texts = set(re.findall(r'data-text-[\w-]+="([^"]+)"', html))
    assert not texts & english
    assert f'lang="{translation.to_language(locale)}"' in html


def button(language: str) -> str:
    with translation.override(language):
        return render_button(request=RequestFactory().get("/page/"))


def test_the_script_gets_each_form_of_a_number_once() -> None:
    def forms(language: str) -> set[str]:
        return set(re.findall(r"data-text-throttled-(\w+)=", button(language))) - {"a"}

    assert forms("en") == {"one", "other"}
    assert forms("ja") == {"other"}
    assert forms("pl") >= {"one", "few", "other"}
    assert forms("ar") >= {"two", "few", "other"}
    assert set(PLURAL_EXAMPLES) == {"zero", "one", "two", "few", "many", "other"}


@pytest.mark.django_db
def test_the_admins_log_is_in_the_sites_language(settings: Settings, admin_client: Client) -> None:
    settings.LANGUAGE_CODE = "de"
    connection = make_connection("rt-1")
    data = {"action": "revoke_selected", "_selected_action": [connection.pk], "post": "yes"}
    with translation.override("fr"):
        response = admin_client.post("/admin/django_leadexec/leadexecconnection/", data)
    assert response.status_code == 302
    assert LogEntry.objects.get().change_message == "Bei LeadExec widerrufen."


def nodes(html: str) -> set[str]:
    """The pieces of text of a page: between tags, and in the attributes that people read."""
    html = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)
    found = re.findall(r'(?:value|title|aria-label|placeholder|data-text-[\w-]+)="([^"]*)"', html)
    found += re.sub(r"<[^>]*>", "\0", html).split("\0")
    texts = {re.sub(r"\s+", " ", unescape(text)).strip(" :()") for text in found}
    return {text for text in texts if set(text) & set(string.ascii_letters)}


@pytest.fixture
def visitors_pages(db: None) -> Callable[[str], str]:
    """All that the templates for visitors can say, on one page, in a language."""
    active, rejected, nameless = (make_user(f"{name}-user") for name in ("ann", "bob", "cy"))
    make_connection("rt-1", user=active, account_id="acc-1")
    make_connection("rt-2", user=rejected, status=LeadExecConnection.Status.REJECTED)
    make_connection("rt-3", user=nameless)
    users = (AnonymousUser(), active, rejected, nameless, make_user("dee-user"))

    def request(user: Any) -> Any:
        made = RequestFactory().get("/page/")
        made.user = user
        return made

    def pages(locale: str) -> str:
        with translation.override(translation.to_language(locale)):
            html = "".join(render_button(request=request(user)) for user in users)
            template = "django_leadexec/connect.html"
            html += render_to_string(template, {"next_url": "/after/"}, request(users[0]))
            for account in ("acc-1", ""):
                context = {"account_id": account, "site_user": active, "link": "", "visitor": ""}
                html += render_to_string("django_leadexec/confirm.html", context, request(active))
        return html

    return pages


@pytest.fixture
def admin_pages(admin_client: Client) -> Callable[[str], str]:
    """The lists of the admin, a row's page, and the pages that ask first, in a language."""
    connection = make_connection("rt-1", last_error="Connection refused")
    make_connection("rt-2", status=LeadExecConnection.Status.REJECTED)
    gone = make_connection("rt-3")
    LeadExecConnection.objects.filter(pk=gone.pk).move_to_outbox()
    entry = PendingRevocation.objects.get()

    def pages(locale: str) -> str:
        html = ""
        headers = {"Accept-Language": translation.to_language(locale)}
        for name, key, actions in (
            ("leadexecconnection", connection.pk, ["revoke_selected", "delete_selected"]),
            ("pendingrevocation", entry.pk, ["let_go"]),
        ):
            place = f"/admin/django_leadexec/{name}/"
            answers = [
                admin_client.get(place, headers=headers),
                admin_client.get(f"{place}{key}/change/", headers=headers),
            ]
            for action in actions:
                data = {"action": action, "_selected_action": [key]}
                answers.append(admin_client.post(place, data, headers=headers))
            assert {answer.status_code for answer in answers} == {200}
            html += "".join(answer.content.decode() for answer in answers)
        return html

    return pages


@pytest.mark.parametrize("locale", LOCALES)
def test_no_page_for_visitors_shows_english(
    locale: str, visitors_pages: Callable[[str], str]
) -> None:
    english = nodes(visitors_pages("en"))
    assert len(english) > 40
    left = nodes(visitors_pages(locale)) & english
    # What no template has written: names, and the values of hidden fields.
    data = {"LeadExec", "acc-1", "ann-user", "yes", "no", "/after/"}
    assert {text for text in left - data if " " in text or text.isalpha()} == set()


@pytest.mark.django_db
@pytest.mark.parametrize("path", CATALOGUES, ids=LOCALES)
def test_no_page_of_the_admin_shows_english_of_ours(
    path: Path, settings: Settings, admin_pages: Callable[[str], str]
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    ours = {
        form[0].upper() + form[1:]
        for entry in polib.pofile(str(path))
        if entry.msgstr.lower() != entry.msgid.lower()
        for form in (entry.msgid, entry.msgid_plural)
        if form
    }

    def shown(locale: str) -> set[str]:
        texts = nodes(admin_pages(locale))
        # With its number put in, no text is the one of the catalogue.
        texts = {re.sub(r"^\d+ (?=connection|pending)", "%(count)s ", text) for text in texts}
        return {text[:1].upper() + text[1:] for text in texts} & ours

    # What the middleware activates would stay for the next test.
    with translation.override("en"):
        assert len(shown("en")) > 20
        assert shown(path.parents[1].name) == set()


def test_rows_are_named_in_the_language_of_the_page() -> None:
    connection = LeadExecConnection(pk=7, status=LeadExecConnection.Status.REVOKED)
    assert str(connection) == "LeadExec connection 7 (revoked)"
    assert str(PendingRevocation(pk=8)) == "pending revocation 8"
    with translation.override("de"):
        assert str(connection) == "LeadExec-Verbindung 7 (widerrufen)"
        assert str(PendingRevocation(pk=8)) == "ausstehender Widerruf 8"


def test_what_developers_and_operators_read_is_not_translated() -> None:
    paths = [*PACKAGE.glob("management/**/*.py"), *PACKAGE.glob("refresh/*.py")]
    paths += [PACKAGE / name for name in ("checks.py", "conf.py", "exceptions.py", "status.py")]
    assert len(paths) > 12
    assert [path.name for path in paths if "translation" in path.read_text("utf-8")] == []


@pytest.mark.gettext
def test_the_catalogues_and_their_table_are_what_make_messages_writes(tmp_path: Path) -> None:
    """No text of the code is missing, and none is in a catalogue that the code no longer has."""
    root = PACKAGE.parent
    unneeded = shutil.ignore_patterns("__pycache__", "static", "sandbox")
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=unneeded)
    for name in ("scripts/messages.py", "docs/translating.md"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(root / name, tmp_path / name)
    subprocess.run(
        [sys.executable, "scripts/messages.py"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=120,
    )

    def content(path: Path) -> list[object]:
        return [
            (entry.msgctxt, entry.msgid, entry.msgid_plural, entry.msgstr, entry.msgstr_plural)
            for entry in polib.pofile(str(path))
        ]

    for path in CATALOGUES:
        made = tmp_path / path.relative_to(root)
        assert content(made) == content(path), f"{made.parents[1].name}: run make messages"
    page = "docs/translating.md"
    assert (tmp_path / page).read_text("utf-8") == (root / page).read_text("utf-8")
