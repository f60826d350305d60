"""The scripts and styles that browsers get: built of frontend/, small, fit for hashed names."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import call_command
from pytest_django import Settings

ROOT = Path(__file__).parents[1]
FRONTEND = ROOT / "frontend"
BUILT = ROOT / "django_leadexec" / "static" / "django_leadexec"
# Only with DEBUG, and as they are.
NOT_BUILT = {"leadexec-debug.css", "leadexec-debug.js"}
# Copied as they are: for compilers, and no browser.
COPIED = {"leadexec.esm.d.ts"}
MAPS = sorted(BUILT.glob("*.map"))
NODE = shutil.which("node") or "node"
# Bytes of script and style together, as a web server sends them to a page with the tag.
BUDGET = 4096
COMPRESS = """
const { brotliCompressSync } = require("node:zlib");
const { readFileSync } = require("node:fs");
const sizes = process.argv.slice(1).map((name) => brotliCompressSync(readFileSync(name)).length);
console.log(sizes.reduce((total, size) => total + size));
"""


def test_there_is_a_source_map_for_each_built_file() -> None:
    files = {path.name for path in BUILT.iterdir() if path not in MAPS} - NOT_BUILT - COPIED
    assert files == {"leadexec.esm.js", "leadexec.min.css", "leadexec.min.js"}
    assert {path.name.removesuffix(".map") for path in MAPS} == files


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.name)
def test_they_are_built_from_the_sources_as_they_stand(path: Path) -> None:
    found = json.loads(path.read_text("utf-8"))
    assert found["sources"]
    for name, text in zip(found["sources"], found["sourcesContent"], strict=True):
        assert text == (FRONTEND / name).read_text("utf-8"), "run make assets"


@pytest.mark.parametrize("name", sorted(COPIED))
def test_they_are_copied_from_the_sources_as_they_stand(name: str) -> None:
    assert (BUILT / name).read_bytes() == (FRONTEND / name).read_bytes(), "run make assets"


@pytest.mark.node
def test_building_again_gives_the_same(tmp_path: Path) -> None:
    subprocess.run([NODE, "build.mjs", tmp_path], cwd=FRONTEND, check=True, timeout=60)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in BUILT.iterdir() if path.name not in NOT_BUILT
    }


def collected(settings: Settings, folder: Path, backend: str) -> Any:
    """What collectstatic has put into ``folder``, as the storage names it."""
    settings.STATIC_ROOT = folder
    settings.STORAGES = settings.STORAGES | {"staticfiles": {"BACKEND": backend}}
    call_command("collectstatic", interactive=False, verbosity=0)
    return storages["staticfiles"]


STORAGES = {
    "django": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage",
    "whitenoise": "whitenoise.storage.CompressedManifestStaticFilesStorage",
}


@pytest.mark.node
def test_a_page_with_the_tag_costs_less_than_four_kilobytes(
    settings: Settings, tmp_path: Path
) -> None:
    files = collected(settings, tmp_path, STORAGES["django"])
    # With hashed names, as they are served: those make the comments that name the maps longer.
    names = [
        tmp_path / files.stored_name(f"django_leadexec/{name}")
        for name in ("leadexec.min.js", "leadexec.min.css")
    ]
    run = subprocess.run(
        [NODE, "--eval", COMPRESS, *names], capture_output=True, check=True, timeout=60
    )
    assert int(run.stdout) < BUDGET


@pytest.mark.parametrize("backend", STORAGES.values(), ids=STORAGES)
@pytest.mark.parametrize("only_hashed", [False, True])
def test_hashed_names_hold_together(
    settings: Settings, tmp_path: Path, backend: str, only_hashed: bool
) -> None:
    settings.WHITENOISE_KEEP_ONLY_HASHED_FILES = only_hashed
    files = collected(settings, tmp_path, backend)
    for name in ("leadexec.min.js", "leadexec.min.css", "leadexec.esm.js"):
        hashed = tmp_path / files.stored_name(f"django_leadexec/{name}")
        assert hashed.name != name
        text = hashed.read_text("utf-8")
        [source_map] = re.findall(r"# sourceMappingURL=(\S+)", text)
        expected = Path(files.stored_name(f"django_leadexec/{name}.map")).name
        assert source_map == expected != f"{name}.map"
        assert (hashed.parent / source_map).exists()
        # What a script imports would have a hashed name of its own, or none that is kept.
        assert not re.search(r"\bimport\b|url\(", text.partition("# sourceMappingURL")[0])


def test_the_tag_uses_the_hashed_names(settings: Settings, tmp_path: Path, client: Any) -> None:
    files = collected(settings, tmp_path, STORAGES["django"])
    page = client.get("/page/").content.decode()
    for name in ("leadexec.min.js", "leadexec.min.css"):
        assert files.url(f"django_leadexec/{name}") in page
