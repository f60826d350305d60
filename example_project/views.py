from typing import Any

import requests
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from django_leadexec.exceptions import AuthorizationRejected, LeadExecError
from django_leadexec.models import LeadExecConnection


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """With a connection, the leads of the LeadExec account behind it."""
    return render(request, "example/home.html", fetch_leads(request.user))


@require_safe
def welcome(request: HttpRequest) -> HttpResponse:
    """The page where visitors without a password sign in."""
    if request.user.is_authenticated:
        return redirect("home")
    return render(request, "example/welcome.html")


def fetch_leads(user: AbstractBaseUser | AnonymousUser) -> dict[str, Any]:
    """What the home page shows: `leads`, or the `problem` that kept them away, or neither."""
    connection = LeadExecConnection.objects.for_user(user).active().first()
    if connection is None:
        return {}
    try:
        reply = connection.session().get(f"{settings.LEADEXEC_DATA_API}/leads")
        reply.raise_for_status()
        return {"connection": connection, "leads": reply.json()}
    except AuthorizationRejected:
        # The button tells it, and offers to connect again.
        return {}
    except (LeadExecError, requests.RequestException):
        return {
            "connection": connection,
            "problem": "LeadExec does not answer as it should. Your connection is kept; "
            "please try again in a moment.",
        }
