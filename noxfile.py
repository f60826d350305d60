"""The matrix: Python, Django and database. CONTRIBUTING.md tells how to use it.

Each session installs the newest of all else that the package and its tests need, but for
``lowest``, which takes the oldest that ``setup.cfg`` allows of what a site installs. Warnings are
errors, as ever.
"""

from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
# Locally, a Python that is not there is no failure.
nox.options.error_on_missing_interpreters = False

DATABASES = {
    "sqlite": "",
    "postgres": "postgres://postgres@127.0.0.1:5432/leadexec_nox",
    "mariadb": "mysql://root@127.0.0.1:3306/leadexec_nox",
}
# Each Django, and the Pythons that it supports.
PYTHONS = {
    "5.2": ["3.11", "3.12", "3.13", "3.14"],
    "6.0": ["3.12", "3.13", "3.14"],
    "6.1": ["3.12", "3.13", "3.14"],
}
# As `make test-fast` does. What needs a browser or a server of its own is no matter of versions.
QUICK = "not slow and not browser and not cluster and not redis and not rabbitmq and not node"
MATRIX = [(python, django) for django, pythons in PYTHONS.items() for python in pythons]


def run_tests(session: nox.Session, database: str) -> None:
    """What the call names behind ``--``, or else all that is quick."""
    chosen = QUICK if database == "sqlite" else f"{QUICK} and not one_database"
    arguments = session.posargs or ["-q", "--numprocesses=2", "--dist=worksteal", "-m", chosen]
    environment = {"PYTHONDEVMODE": "1", "DATABASE_URL": DATABASES[database] or None}
    session.run("python", "-m", "pytest", *arguments, env=environment)


def extras(database: str) -> str:
    return "test,mysql" if database == "mariadb" else "test"


@nox.session
@nox.parametrize("database", list(DATABASES))
@nox.parametrize("python,django", MATRIX)
def tests(session: nox.Session, django: str, database: str) -> None:
    """The tests with the newest of everything, on one Django and one database."""
    session.install("-e", f".[{extras(database)}]", f"Django~={django}.0")
    run_tests(session, database)


@nox.session(python="3.11")
@nox.parametrize("database", list(DATABASES))
def lowest(session: nox.Session, database: str) -> None:
    """The tests with the oldest versions of what a site installs, as setup.cfg allows them."""
    locked = str(Path(session.create_tmp()) / "lowest.txt")
    compiling = ["uv", "pip", "compile", "setup.cfg", "--resolution", "lowest-direct"]
    compiling += ["--python-version", session.python, "--quiet", "--no-annotate", "-o", locked]
    for extra in ("jinja2", "postgres", "mysql", "celery"):
        compiling += ["--extra", extra]
    session.run(*compiling, external=True)
    session.install("-e", f".[{extras(database)}]", "-c", locked)
    run_tests(session, database)
