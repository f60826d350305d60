"""leadexec.esm.d.ts: what it promises to TypeScript is what the module has."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.browser.spa_urls import example
from tests.needs import NODE_MODULES
from tests.test_button import SINGLE_PAGE, first_cells

ROOT = Path(__file__).parents[1]
FRONTEND = ROOT / "frontend"
BUILT = ROOT / "django_leadexec" / "static" / "django_leadexec"
TYPES = (FRONTEND / "leadexec.esm.d.ts").read_text("utf-8")
SCRIPTS = [(FRONTEND / name).read_text("utf-8") for name in ("leadexec.js", "module.js")]
STRICT = [
    *("--strict", "--noEmit", "--noUnusedLocals", "--exactOptionalPropertyTypes"),
    *("--module", "esnext", "--moduleResolution", "bundler"),
    *("--target", "es2022", "--lib", "es2022,dom", "--types", ""),
]

APP = """import { connect } from "leadexec";
connect(document.body, { load: "click" });
// @ts-expect-error: without types, it would be any
connect(1);
"""


def members(name: str) -> set[str]:
    """The names in an interface, and no method's."""
    [body] = re.findall(rf"interface {name}\b[^{{]*\{{\n(.*?)^\}}", TYPES, re.M | re.S)
    return set(re.findall(r"^  (?:readonly )?(\w+)\??:", body, re.M))


def union(name: str) -> set[str]:
    [body] = re.findall(rf"^export type {name} =(.*?);", TYPES, re.M | re.S)
    return set(re.findall(r'"(\w+)"', body))


def compile_with(*arguments: str | Path) -> None:
    run = subprocess.run(
        [NODE_MODULES / ".bin" / "tsc", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.node
def test_a_strict_consumer_compiles() -> None:
    compile_with(*STRICT, ROOT / "tests" / "types" / "consumer.ts")


@pytest.mark.node
def test_the_documented_alias_finds_the_types(tmp_path: Path) -> None:
    config = json.loads(example("json").replace("FOLDER", str(BUILT)))
    config["compilerOptions"] |= {"module": "esnext", "moduleResolution": "bundler", "types": []}
    config["compilerOptions"] |= {"strict": True, "noEmit": True, "target": "es2022"}
    (tmp_path / "tsconfig.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "app.ts").write_text(APP, "utf-8")
    compile_with("--project", tmp_path)


def test_each_export_has_a_type_and_no_other() -> None:
    pattern = r"^export (?:async )?(?:function|class) (\w+)"
    assert set(re.findall(pattern, TYPES, re.M)) == set(re.findall(pattern, SCRIPTS[1], re.M))


def test_each_event_has_a_type_and_no_other() -> None:
    found = set()
    for script in SCRIPTS:
        found |= {f"leadexec:{name}" for name in re.findall(r'emit\("(\w+)"', script)}
        found |= set(re.findall(r'"(leadexec:\w+)"', script))
    assert "leadexec:disconnected" in found
    assert set(re.findall(r'"(leadexec:\w+)":', TYPES)) == found


def test_each_option_has_a_type_and_no_other() -> None:
    button = SCRIPTS[1].partition("class Button")[2]
    [taken] = re.findall(r"const \{ (.+?) \} = options;", button)
    names = set(re.findall(r"(\w+) =", taken)) | set(re.findall(r"options\.(\w+)", button))
    assert members("ConnectOptions") | members("StateOptions") == names


def test_the_types_have_each_key_and_code_that_is_documented() -> None:
    options = members("ConnectOptions") | members("StateOptions")
    keys = first_cells("What it exports", SINGLE_PAGE) - {"ready", "refresh()", "remove()"}
    assert members("State") == keys - options
    of_the_site = set(re.findall(r"^\| \d{3} \| `(\w+)`", SINGLE_PAGE, re.M))
    assert union("SiteErrorCode") == of_the_site
    shown = {name for name in first_cells("Events") if ":" not in name}
    assert union("PageErrorCode") == shown - of_the_site
