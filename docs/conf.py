"""The documentation site: `make docs`. Building it needs no network."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import django
from cryptography.fernet import Fernet
from django.conf import settings

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

# What autodoc imports needs settings. None of them shows in the site.
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_leadexec"],
    LEADEXEC={
        "APP_ID": "docs",
        "BUTTON_ID": "docs",
        "ENCRYPTION_KEYS": [Fernet.generate_key().decode()],
    },
)
django.setup()

import tables  # noqa: E402 - it needs the settings

import django_leadexec  # noqa: E402

project = "django-leadexec"
author = "the django-leadexec contributors"
copyright = author
version = release = django_leadexec.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["substitution"]
myst_heading_anchors = 4
myst_substitutions = tables.all_tables() | {"guides": tables.other_guides(DOCS)}

autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"django-leadexec {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_sourcelink = html_copy_source = False
# Read the Docs names the address of the version that it builds.
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
pygments_style = "default"
pygments_dark_style = "github-dark"

# The documents beside the code, and the page of the site that shows each.
SHOWN_AS = {
    "README.md": "index.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
INCLUDE = re.compile(r"```\{include\} (?:\.\./)+(\w+\.md)\n```\s*")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
HEADING_WITH_ID = re.compile(r'^(#+ )<a id="([^"]+)"></a>', re.MULTILINE)


def adapt(app: "Sphinx", docname: str, source: list[str]) -> None:
    """Let the same text be right on GitHub and in the site.

    A page that only includes a document of the root becomes that document. Links to documents of
    the root lead to their pages. An id inside a heading becomes one that Sphinx knows.
    """
    page = Path(app.srcdir) / f"{docname}.md"
    written = page
    if included := INCLUDE.fullmatch(source[0]):
        written = ROOT / included[1]
        source[0] = written.read_text("utf-8")
        app.env.note_dependency(str(written))

    def lead_to_page(link: re.Match[str]) -> str:
        target = (written.parent / link[1]).resolve()
        if target.parent == ROOT and target.name in SHOWN_AS:
            target = DOCS / SHOWN_AS[target.name]
        return os.path.relpath(target, page.parent)

    source[0] = LINK.sub(lead_to_page, source[0])
    source[0] = HEADING_WITH_ID.sub(r"(\2)=\n\1", source[0])


def setup(app: "Sphinx") -> None:
    app.connect("source-read", adapt)
