from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from django_leadexec.exceptions import AuthorizationRejected
from django_leadexec.models import LeadExecConnection
from django_leadexec.session import LeadExecSession

from .forms import LeadsForm
from .leads import LeadsUnavailable, fetch_lead_types, fetch_page

LAST_PAGE = 10_000


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """With a connection, the leads of the LeadExec account behind it."""
    return render(request, "example/home.html", show_leads(request.user, request.GET))


@require_safe
def welcome(request: HttpRequest) -> HttpResponse:
    """The page where visitors without a password sign in."""
    if request.user.is_authenticated:
        return redirect("home")
    return render(request, "example/welcome.html")


def show_leads(user: AbstractBaseUser | AnonymousUser, asked: QueryDict) -> dict[str, Any]:
    """What the home page shows to this user: a ``form``, a ``page`` of leads, a ``problem``."""
    connection = LeadExecConnection.objects.for_user(user).active().first()
    if connection is None:
        return {}
    shown: dict[str, Any] = {"connection": connection}
    try:
        with connection.session() as session:
            _fetch(session, asked, shown)
    except AuthorizationRejected:
        # The button says so, and offers to connect again.
        return {}
    except LeadsUnavailable as error:
        shown["problem"] = str(error)
    return shown


def _fetch(session: LeadExecSession, asked: QueryDict, shown: dict[str, Any]) -> None:
    lead_types = fetch_lead_types(session)
    if not lead_types:
        return
    form = shown["form"] = LeadsForm(asked, lead_types)
    if not form.is_valid():
        return
    chosen = form.cleaned_data
    lead_type = next(it for it in lead_types if it.uid == chosen["lead_type"])
    number = _page_number(asked.get("page", ""))
    page = fetch_page(session, lead_type, chosen["first"], chosen["last"], number)
    shown |= {
        "page": page,
        "lead_type": lead_type,
        "newer": _link(form, number - 1) if number > 1 else "",
        "older": _link(form, number + 1) if page.has_next else "",
    }


def _page_number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 1
    return min(max(number, 1), LAST_PAGE)


def _link(form: LeadsForm, number: int) -> str:
    query = QueryDict(mutable=True)
    query.update({**form.data, "page": str(number)})
    return f"?{query.urlencode()}"
