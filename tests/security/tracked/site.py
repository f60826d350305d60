"""The site that an error tracker looks at: its middleware and its ``IDENTIFY``."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from django_leadexec.session import LeadExecSession

# What goes wrong at the next request.
faults: set[str] = set()


def identify(session: LeadExecSession) -> Any:
    if "identify" in faults:
        raise RuntimeError("The site's own code has failed.")
    return "acme"


def middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    def call(request: HttpRequest) -> HttpResponse:
        if "reads the body" in faults:
            assert request.body
        if "asks for the user" in faults:
            assert request.user.is_authenticated
        return get_response(request)

    return call
