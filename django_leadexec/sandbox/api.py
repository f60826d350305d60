"""The two APIs, for the bearer of an access token. Every answer is JSON, the errors too."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt

from . import provider
from .leads import find_lead_type, lead_types, leads_between
from .query import BadQueryError, read_query

View = Callable[..., HttpResponse]

LIKENESS = "a likeness; LeadExec documents its answers only in part"


def _is_likeness(view: View) -> View:
    # No cookie counts here, so no other site can use a visitor's.
    @csrf_exempt
    @wraps(view)
    def marked(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        response = view(request, **kwargs)
        response["X-LeadExec-Sandbox"] = LIKENESS
        return response

    return marked


def _endpoint(*methods: str) -> Callable[[View], View]:
    """A view for these methods, which is given the bearer's ``account``."""

    def decorate(view: View) -> View:
        @_is_likeness
        @wraps(view)
        def checked(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            if request.method not in methods:
                allowed = ", ".join(methods)
                message = f"{request.method} is not allowed here, only {allowed}."
                return _error(405, message, headers={"Allow": allowed})
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                return _unauthorized(
                    "There is no access token: Authorization: Bearer ACCESS_TOKEN."
                )
            account = provider.account_of(token.strip())
            if account is None:
                return _unauthorized("The access token is unknown, has expired or was revoked.")
            return view(request, account=account, **kwargs)

        return checked

    return decorate


def _unauthorized(message: str) -> JsonResponse:
    return _error(401, message, headers={"WWW-Authenticate": "Bearer"})


def _error(
    status: int,
    message: str,
    details: Mapping[str, object] | None = None,
    *,
    headers: dict[str, str] | None = None,
) -> JsonResponse:
    return JsonResponse({"message": message, **(details or {})}, status=status, headers=headers)


@_endpoint("GET", "HEAD")
def list_lead_types(request: HttpRequest, *, account: str) -> HttpResponse:
    """The account's lead types."""
    found = [{"LeadTypeUID": it.uid, "Name": it.name} for it in lead_types(account)]
    return JsonResponse(found, safe=False)


@_endpoint("POST")
def query_leads(request: HttpRequest, *, account: str, uid: str) -> HttpResponse:
    """The leads of one type that the query in the body selects. None is from the future."""
    lead_type = find_lead_type(account, uid)
    if lead_type is None:
        known = [it.uid for it in lead_types(account)]
        return _error(404, "This account has no such lead type.", {"lead_types": known})
    try:
        query = read_query(request.body)
    except RequestDataTooBig:
        return _error(413, "The body is too big.")
    except BadQueryError as error:
        return _error(400, str(error), {"field": error.field} if error.field else None)
    until = min(query.end, datetime.now(UTC))
    leads = query.select(leads_between(lead_type, query.start, until))
    return JsonResponse({"SentCount": len(leads), "Leads": leads})


@_endpoint("GET", "HEAD")
def show_account(request: HttpRequest, *, account: str) -> HttpResponse:
    """Whose token it is. The sandbox's own: no call of LeadExec's is known to tell it."""
    return JsonResponse(
        {
            "note": "Only the sandbox has this call.",
            "accountId": account,
            "companyName": provider.company(account),
        }
    )


@_is_likeness
def unknown(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    """Any other address below the two APIs."""
    names = {"lead_types": "GET", "leads": "POST", "account": "GET"}
    arguments = {"leads": ["LEAD_TYPE_UID"]}
    routes = [
        f"{method} {reverse(f'leadexec_sandbox:{name}', args=arguments.get(name))}"
        for name, method in names.items()
    ]
    return _error(404, "The sandbox does not know this address.", {"known": routes})
