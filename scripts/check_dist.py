#!/usr/bin/env python3
"""Checks the files in dist/ as somebody who downloads them would. ``make check-dist`` calls it.

The wheel holds the package and nothing else, and works where nothing else is installed. Built
again, both files are the same bytes. In the unpacked sdist all tests can be collected.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
KINDS = {".css", ".html", ".js", ".map", ".mo", ".po", ".py", ".svg", ".ts", ".txt", ".typed"}
# What a site does with the installed wheel.
USE = """
import django
from django.conf import settings

apps = ["auth", "contenttypes", "sessions", "messages", "staticfiles", "admin"]
settings.configure(
    INSTALLED_APPS=[*(f"django.contrib.{app}" for app in apps), "django_leadexec"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)
django.setup()
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.template.loader import get_template

import django_leadexec.sandbox.urls
import django_leadexec.urls

call_command("migrate", verbosity=0)
get_template("django_leadexec/button.html")
assert finders.find("django_leadexec/leadexec.min.js"), "the script is missing"
print(f"django-leadexec {django_leadexec.__version__} installs, imports and migrates on its own")
"""


def main() -> None:
    [wheel], [sdist] = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    check_files(wheel)
    with tempfile.TemporaryDirectory() as place:
        use_on_its_own(wheel, Path(place))
    with tempfile.TemporaryDirectory() as place:
        collect_tests(sdist, Path(place))
    build_again(wheel, sdist)


def check_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "django_leadexec"
    wanted = {
        path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.suffix in KINDS
    }
    wanted |= {"django_leadexec/py.typed", "django_leadexec/migrations/0001_initial.py"}
    alien = {
        name for name in names if not name.startswith(("django_leadexec/", "django_leadexec-"))
    }
    for label, found in (("missing from the wheel", wanted - names), ("alien to it", alien)):
        if found:
            sys.exit(f"{label}: {', '.join(sorted(found))}")
    print(f"{wheel.name}: {len(names)} files, all that the package has and nothing else")


def use_on_its_own(wheel: Path, place: Path) -> None:
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    constraints = ROOT / "constraints" / "py{}{}.txt".format(*sys.version_info)
    run(python, "-m", "pip", "install", "--quiet", wheel, "-c", constraints)
    # From outside the checkout, so that it is the installed package that is imported.
    run(python, "-I", "-c", USE, folder=place)


def collect_tests(sdist: Path, place: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    [folder] = place.iterdir()
    command = (sys.executable, "-m", "pytest", "--collect-only", "-qq", "--no-header")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The tests of {sdist.name} can't be collected:\n{done.stdout}{done.stderr}")
    print(f"{sdist.name}: all tests can be collected")


def build_again(*files: Path) -> None:
    before = {path.name: digest(path) for path in files}
    run(sys.executable, ROOT / "scripts" / "build.py")
    for name, was in before.items():
        if digest(DIST / name) != was:
            sys.exit(f"{name} has other bytes when it is built again")
        print(f"{was}  {name}, the same when it is built again")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*command: str | Path, folder: Path = ROOT) -> None:
    subprocess.run([str(word) for word in command], cwd=folder, check=True)


if __name__ == "__main__":
    main()
