"""The documentation site, built."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from django_leadexec.checks import DOCS as CHECKS_PAGE
from django_leadexec.checks import SITE

from ..needs import import_or_skip
from .snippets import DOCS, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import_or_skip("furo")
    import_or_skip("myst_parser")
    place = tmp_path_factory.mktemp("site")
    flags = ["--fail-on-warning", "--keep-going", "--quiet", "-d", f"{place}/.doctrees"]
    # A proxy that nobody listens at: the build must not need the network.
    offline = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *flags, str(DOCS), str(place)],
        env=offline | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return place


def pages(site: Path) -> list[Path]:
    return [path for path in site.rglob("*.html") if "_static" not in path.parts]


@pytest.mark.slow
def test_each_link_within_the_site_leads_somewhere(site: Path) -> None:
    ids = {page: set(re.findall(r'\bid="([^"]+)"', page.read_text())) for page in pages(site)}
    assert len(ids) > 25
    for page in ids:
        for address in re.findall(r'\bhref="([^"]+)"', page.read_text()):
            if re.match(r"[a-z]+:", address):
                continue
            name, _, anchor = address.partition("#")
            target = (page.parent / name.partition("?")[0]).resolve() if name else page
            assert target.is_file(), f"{page}: {address}"
            assert not anchor or target.suffix != ".html" or anchor in ids[target], address


@pytest.mark.slow
def test_each_id_of_a_check_and_each_link_of_the_readme_leads_to_its_place(site: Path) -> None:
    assert CHECKS_PAGE.startswith(f"{SITE}/")
    checks = (site / CHECKS_PAGE.removeprefix(f"{SITE}/")).read_text()
    anchors = re.findall(r'<a id="(.+?)">', (DOCS / "checks.md").read_text())
    assert len(anchors) > 25
    for anchor in anchors:
        assert checks.count(f'id="{anchor}"') == 1
    for link in re.findall(r"\]\((\S+?)\)", (ROOT / "README.md").read_text()):
        page, _, anchor = link.removeprefix(f"{SITE}/").partition("#")
        assert (site / page).is_file(), link
        assert not anchor or f'id="{anchor}"' in (site / page).read_text(), link


@pytest.mark.slow
def test_the_tables_are_filled_in(site: Path) -> None:
    for page in pages(site):
        assert "{{" not in re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    settings = (site / "reference" / "settings.html").read_text()
    assert "REFRESH_MARGIN" in settings
