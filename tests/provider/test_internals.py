"""The names that nobody promises to keep are still there, in the versions that are installed."""

import inspect
import platform
import socket
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPResponse
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

import django_leadexec
from django_leadexec import session
from django_leadexec.provider import transport
from django_leadexec.provider.internals import INTERNALS, Internal

LIBRARIES = ("http.client", "http.cookiejar", "urllib3", "requests")


def answered() -> HTTPResponse:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        with closing(HTTPResponse(ours)) as response:
            response.begin()
            return response


def built() -> requests.Response:
    request = requests.Request("GET", "http://provider.test/").prepare()
    return HTTPAdapter().build_response(request, urllib3.HTTPResponse(b""))


# What an instance has, its class may lack.
INSTANCES: dict[str, Callable[[], Any]] = {
    "http.client.HTTPResponse": answered,
    "urllib3.connection.HTTPConnection": lambda: urllib3.connection.HTTPConnection("a.test"),
    "urllib3.PoolManager": urllib3.PoolManager,
    "urllib3.HTTPResponse": lambda: urllib3.HTTPResponse(b""),
    "requests.adapters.HTTPAdapter": HTTPAdapter,
    "requests.Response": built,
}


def find_problem(internal: Internal) -> str | None:
    """What is wrong with this name in the installed version of its package; None if it is fit."""
    package = internal.owner.partition(".")[0]
    installed = (
        f"http.client of Python {platform.python_version()}"
        if package == "http"
        else f"{package} {version(package)}"
    )
    owner = resolve_name(internal.owner)
    make_instance = INSTANCES.get(internal.owner)
    if not hasattr(owner, internal.name) and not (
        make_instance and hasattr(make_instance(), internal.name)
    ):
        return f"{installed} has no {internal}. django_leadexec {internal.purpose} by it."
    if internal.parameters is None:
        return None
    signature = inspect.signature(getattr(owner, internal.name))
    parameters = ", ".join(
        str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
        for parameter in signature.parameters.values()
    )
    if parameters == internal.parameters:
        return None
    return (
        f"{internal} takes ({parameters}) in {installed}, and took ({internal.parameters}) before. "
        f"django_leadexec {internal.purpose} by it."
    )


@pytest.mark.parametrize("internal", INTERNALS, ids=str)
def test_the_installed_version_has_it_with_the_same_parameters(internal: Internal) -> None:
    if problem := find_problem(internal):
        pytest.fail(problem, pytrace=False)


def test_a_name_that_is_gone_is_told_with_its_version() -> None:
    gone = Internal("urllib3.connection.HTTPConnection", "_gone", "self", "connects")
    assert find_problem(gone) == (
        f"urllib3 {version('urllib3')} has no urllib3.connection.HTTPConnection._gone. "
        "django_leadexec connects by it."
    )
    gone = Internal("http.client.HTTPResponse", "gone", None, "reads")
    assert find_problem(gone) == (
        f"http.client of Python {platform.python_version()} has no "
        "http.client.HTTPResponse.gone. django_leadexec reads by it."
    )


def test_other_parameters_are_told_with_their_version() -> None:
    changed = Internal(
        "requests.adapters.HTTPAdapter", "proxy_manager_for", "self, url", "connects"
    )
    assert find_problem(changed) == (
        "requests.adapters.HTTPAdapter.proxy_manager_for takes (self, proxy, **proxy_kwargs) in "
        f"requests {version('requests')}, and took (self, url) before. "
        "django_leadexec connects by it."
    )


def test_every_name_in_the_list_is_used() -> None:
    package = Path(django_leadexec.__file__).parent
    files = {*(package / "provider").glob("*.py"), package / "session.py"}
    text = "".join(file.read_text("utf-8") for file in files if file.name != "internals.py")
    loggers = [internal.owner for internal in INTERNALS if internal.name == "log"]
    names = [internal.name for internal in INTERNALS if internal.name != "log"]
    assert [name for name in [*loggers, *names] if name not in text] == []


def bases_of_theirs(ours: type) -> list[type]:
    return [base for base in ours.__mro__ if base.__module__.startswith(LIBRARIES)]


def subclasses() -> list[type]:
    """Our classes that have a base in one of the libraries."""
    made = [*transport._POOLS.values(), *(pool.ConnectionCls for pool in transport._POOLS.values())]
    written = [
        found
        for module in (transport, session)
        for found in vars(module).values()
        if inspect.isclass(found) and found.__module__ == module.__name__
    ]
    return [ours for ours in [*made, *written] if bases_of_theirs(ours)]


@pytest.mark.parametrize("ours", subclasses())
def test_everything_that_is_overridden_is_in_the_list(ours: type) -> None:
    theirs = bases_of_theirs(ours)
    overridden = {
        name
        for name in vars(ours)
        if any(name in vars(base) for base in theirs) and not name.startswith(("__", "_abc_"))
    }
    documented = {"send"}
    assert overridden - documented <= {internal.name for internal in INTERNALS}
