"""The examples of docs/testing.md are run, as the tests of a site."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "testing.md").read_text("utf-8")

FILES = {
    "mysite/__init__.py": "",
    "mysite/settings.py": """
from cryptography.fernet import Fernet

DEBUG = True
SECRET_KEY = "only-for-tests"
ROOT_URLCONF = "mysite.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = [f"django.contrib.{app}" for app in ("auth", "contenttypes", "sessions")]
INSTALLED_APPS += ["django_leadexec"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
LEADEXEC = {"APP_ID": "a", "BUTTON_ID": "b"}
LEADEXEC["ENCRYPTION_KEYS"] = [Fernet.generate_key().decode()]
LEADEXEC["IDENTIFY"] = "mysite.identify"
# Addresses of the sandbox, as README.md has them.
LEADEXEC |= {
    "BASE_URL": "http://127.0.0.1:8000/sandbox",
    "ACCOUNT_API_URL": "http://127.0.0.1:8000/sandbox/account-api",
    "DATA_API_URL": "http://127.0.0.1:8000/sandbox/data-api",
}
""",
    "mysite/urls.py": """
from django.urls import include, path

from . import views

urlpatterns = [
    path("leadexec/", include("django_leadexec.urls")),
    path("lead-types/", views.lead_types),
    path("leave/", views.leave),
]
""",
    "pytest.ini": """
[pytest]
DJANGO_SETTINGS_MODULE = mysite.settings
pythonpath = .
filterwarnings = error
""",
}


def snippets() -> dict[str, str]:
    """The guide's blocks of Python, by the file that each names in its first line."""
    blocks = re.findall(r"^```python\n# ([\w/.]+)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == GUIDE.count("```python")
    return dict(blocks)


@pytest.mark.slow
def test_its_examples_pass(tmp_path: Path) -> None:
    examples = snippets()
    files = FILES | examples
    files["mysite/__init__.py"] = 'def identify(session): return "account"'
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    # A proxy that refuses everything: nothing may leave the process.
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    environment |= {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    tests = sum(text.count("def test_") for text in examples.values())
    # One is run for two values.
    assert f"{tests + 1} passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]


def test_it_names_each_fixture_and_state() -> None:
    from typing import get_args

    from django_leadexec import pytest_plugin
    from django_leadexec.testing import State

    fixtures = {name for name in vars(pytest_plugin) if name.startswith("leadexec")}
    assert set(re.findall(r"^\| `(leadexec\w*)` \|", GUIDE, re.MULTILINE)) == fixtures
    assert re.findall(r'^\| `"(\w+)"` \|', GUIDE, re.MULTILINE) == list(get_args(State))
