"""Brings the catalogues in ``django_leadexec/locale`` up to date with the code: ``make messages``.

Collects the texts, merges them into each catalogue, compiles it, says what is left to translate,
and writes the table of languages in ``docs/translating.md``. ``make messages ARGS=sv`` begins a
catalogue for Swedish. Needs GNU gettext.
"""

import os
import re
import sys
from pathlib import Path

import django
import polib
from django.core.management import call_command
from django.utils.translation import get_language_info, to_language

PACKAGE = Path(__file__).resolve().parents[1] / "django_leadexec"
LOCALE = PACKAGE / "locale"
PAGE = PACKAGE.parent / "docs" / "translating.md"
# The admin's own words, on pages of the admin: Django has them in more languages.
LEFT_TO_DJANGO = {"Delete selected %(verbose_name_plural)s", "Home", "No, take me back"}
# They change with every run, and would make every run a change.
VOLATILE = ("POT-Creation-Date", "PO-Revision-Date", "Report-Msgid-Bugs-To", "Last-Translator")


def main(new: list[str]) -> None:
    django.setup(set_prefix=False)
    os.chdir(PACKAGE)
    LOCALE.mkdir(exist_ok=True)
    locales = sorted({*new, *(path.name for path in LOCALE.iterdir() if path.is_dir())})
    call_command(
        "makemessages",
        locale=locales,
        extensions=["html", "py"],
        # The sandbox is for developers.
        ignore_patterns=["sandbox/*", "sandbox"],
        add_location="file",
        no_obsolete=True,
        verbosity=0,
    )
    rows = []
    for locale in locales:
        path = LOCALE / locale / "LC_MESSAGES" / "django.po"
        catalogue = polib.pofile(str(path), wrapwidth=0)
        tidy(catalogue, locale)
        catalogue.save()
        catalogue.save_as_mofile(str(path.with_suffix(".mo")))
        left = len(catalogue.untranslated_entries()) + len(catalogue.fuzzy_entries())
        sys.stdout.write(f"{locale:8} {catalogue.percent_translated():3} %, {left} left\n")
        rows.append((locale, catalogue.percent_translated()))
    PAGE.write_text(with_table(PAGE.read_text("utf-8"), rows), "utf-8")


def with_table(page: str, rows: list[tuple[str, int]]) -> str:
    """The page with these languages in its table, each with its percentage."""
    lines = "".join(
        f"| `{locale}` | {get_language_info(to_language(locale))['name']} | {percent} % |\n"
        for locale, percent in rows
    )
    return re.sub(r"(?:^\| `\w+` \|.*\n)+", lines, page, flags=re.MULTILINE)


def tidy(catalogue: polib.POFile, locale: str) -> None:
    for entry in list(catalogue):
        if entry.msgid in LEFT_TO_DJANGO and not entry.msgctxt:
            catalogue.remove(entry)
    catalogue.header = ""
    catalogue.metadata_is_fuzzy = False
    for key in VOLATILE:
        catalogue.metadata.pop(key, None)
    catalogue.metadata["Project-Id-Version"] = "django-leadexec"
    catalogue.metadata["Language-Team"] = "none"
    catalogue.metadata["Language"] = locale


if __name__ == "__main__":
    from django.conf import settings

    settings.configure(USE_I18N=True)
    main(sys.argv[1:])
