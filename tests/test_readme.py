"""The README holds what it promises to those who follow it."""

import os
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

from django.core.management import load_command_class

from django_leadexec.conf import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def rows(header: str) -> dict[str, str]:
    """The table under this header: first cell, without its quotes, to second cell."""
    table = README.partition(f"| {header} |")[2].partition("\n\n")[0]
    lines = [line.split(" | ") for line in table.splitlines()[2:]]
    return {line[0].strip("| `"): line[1].strip("| `") for line in lines}


def test_its_table_has_each_setting_with_its_default() -> None:
    expected = {}
    for field in fields(Settings):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        shown = "required" if default is MISSING else repr(default).replace("'", '"')
        expected[field.name.upper()] = shown
    assert rows("key | default") == expected


def test_its_table_has_each_flag_of_the_command() -> None:
    command = load_command_class("django_leadexec", "refresh_leadexec_tokens")
    parser = command.create_parser("manage.py", "refresh_leadexec_tokens")
    own = {flag for action in parser._actions for flag in action.option_strings}
    djangos = {"-h", "--help", "--version", "-v", "--verbosity", "--settings", "--pythonpath"}
    djangos |= {"--traceback", "--no-color", "--force-color", "--skip-checks"}
    assert {flag.partition(" ")[0] for flag in rows("flag")} == own - djangos


class Site:
    """A site that `startproject` has just made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        self.run("-m", "django", "startproject", "mysite", ".")

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def manage(self, *arguments: str) -> str:
        """All that a command has said."""
        done = self.run("manage.py", *arguments)
        return done.stdout + done.stderr

    def paste(self, code: str) -> None:
        """Put the parts of a snippet into the files that they name."""
        code = code.replace("[...,", "[*INSTALLED_APPS,", 1).replace("[...,", "[*urlpatterns,", 1)
        for name, part in re.findall(r"# (\w+\.py)\n(.*?)(?=\n# \w+\.py|\Z)", code, re.DOTALL):
            with (self.folder / "mysite" / name).open("a") as file:
                file.write(part + "\n")


OWN_TEST = """
from django.contrib.auth.models import User
from django.test import TestCase
from django_leadexec.testing import fake_leadexec


class Tests(TestCase):
    def test_a_visitor_connects(self):
        user = User.objects.create_user("ada")
        self.client.force_login(user)
        body = {"refreshToken": "token", "gesture": True}
        with fake_leadexec() as leadexec:
            self.client.post("/leadexec/callback/", body, content_type="application/json")
            self.assertTrue(user.leadexec_connections.active().get().get_access_token())
        self.assertEqual(leadexec.refreshed, ["token"])
"""


def snippets() -> list[str]:
    """The Python that goes into files, in order: the two steps, and the sandbox."""
    found = re.findall(r"^( *)```python\n(.*?)\n *```", README, re.DOTALL | re.MULTILINE)
    codes = [re.sub(f"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]
    return [code for code in codes if code.startswith("# settings.py")]


def test_its_steps_make_a_site_with_the_sandbox(tmp_path: Path) -> None:
    apps, configuration, sandbox = snippets()
    site = Site(tmp_path)
    site.paste(apps)
    site.paste(re.sub(r".*ENCRYPTION_KEYS.*\n", "", configuration))
    key = re.search(r"A new key, ready to paste: '(.+)'", site.manage("check"))
    assert key
    site.environment["LEADEXEC_KEY"] = key[1]
    site.paste(configuration)
    site.paste(sandbox)
    assert "no issues" in site.manage("check")
    assert "leadexec_sandbox.0001_initial... OK" in site.manage("migrate")
    (tmp_path / "mysite" / "tests.py").write_text(OWN_TEST)
    assert site.manage("test").endswith("OK\nDestroying test database for alias 'default'...\n")
    assert site.manage("refresh_leadexec_tokens").startswith("0 refreshed")
    visit = (
        "from django.test import Client\n"
        "page = Client().get('/sandbox/js/le-app-button.js', headers={'host': 'localhost'})\n"
        "print(page.status_code)"
    )
    assert site.manage("shell", "-c", visit).splitlines()[-1] == "200"
