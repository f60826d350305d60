import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth.decorators import login_not_required
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseBase,
    JsonResponse,
)
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from ..endpoints import outside_transactions
from ..pages import render
from . import faults, provider
from .conf import is_open
from .models import CallCount, Fault, Grant
from .wire import Payload, is_callback_name, reply

View = Callable[..., HttpResponseBase]

COOKIE = "leadexec_sandbox_account"
_STATIC = Path(__file__).parent / "static" / "leadexec_sandbox"
# Its own, as the provider's would be: a site's middleware then leaves it, and a policy that wants
# the site's nonces stops no script here. None of it depends on where the static files are.
_POLICY = "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def sandbox_view(view: View) -> View:
    """Around every view: closed outside DEBUG, never cached, asking for no log-in of the site's
    (LoginRequiredMiddleware), as servers call it, too, and in no transaction of the site's
    (ATOMIC_REQUESTS): it would begin with a read, and SQLite then refuses the write."""

    @outside_transactions
    @login_not_required
    @never_cache
    @wraps(view)
    def gated(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        if not is_open():
            raise Http404
        response = view(request, **kwargs)
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    return gated


# --- The visitor's browser ---


def _account(request: HttpRequest) -> str | None:
    account = request.get_signed_cookie(COOKIE, default=None, salt=COOKIE)
    return account if account in provider.ACCOUNTS else None


def _sign_in(response: HttpResponse, request: HttpRequest, account: str) -> None:
    response.set_signed_cookie(
        COOKIE,
        account,
        salt=COOKIE,
        max_age=365 * 24 * 3600,
        path=reverse("leadexec_sandbox:home"),
        secure=request.is_secure(),
        httponly=True,
        samesite="Lax",
    )


def _is_trusted(request: HttpRequest, origin: str) -> bool:
    """Whether tokens may go to pages of this origin: our own host, or this machine."""
    try:
        parts = urlsplit(origin)
        host = parts.hostname
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or origin != f"{parts.scheme}://{parts.netloc}":
        return False
    return "@" not in parts.netloc and (host in _LOOPBACK or parts.netloc == request.get_host())


@require_GET
def asset(request: HttpRequest, *, name: str, content_type: str) -> HttpResponse:
    """The provider's own script and stylesheet, at the provider's addresses."""
    response = HttpResponse((_STATIC / name).read_bytes(), content_type=content_type)
    # For pages with Cross-Origin-Embedder-Policy, which load nothing from elsewhere without it.
    response["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


@require_GET
def status(request: HttpRequest) -> HttpResponse:
    """What the script asks when it finds a button: has this visitor authorized it before?

    The returning visitor's token is the grant's own, the same each time.
    """
    button_id = request.GET.get("button", "")
    answer: Payload = {"result": None, "error": None}
    if not provider.knows_button(button_id):
        answer["error"] = "No application has this sign-in button."
    elif (account := _account(request)) and (grant := provider.find_grant(account, button_id)):
        answer["result"] = provider.authorization(grant)
    response = JsonResponse(answer)
    origin = request.headers.get("Origin", "")
    if _is_trusted(request, origin):
        response["Access-Control-Allow-Origin"] = origin
        response["Access-Control-Allow-Credentials"] = "true"
    response["Vary"] = "Origin, Cookie"
    return response


@csrf_protect
@require_http_methods(["GET", "POST"])
def dialog(request: HttpRequest) -> HttpResponse:
    """The popup: consent or cancel. Its answer page hands the result to the opener."""
    asked = request.POST if request.method == "POST" else request.GET
    button_id, origin = asked.get("button", ""), asked.get("origin", "")
    error = ""
    if not provider.knows_button(button_id):
        error = "No application has this sign-in button."
    elif not _is_trusted(request, origin):
        error = "The page that opened this window is neither on this server nor on this machine."
    account = asked.get("account", "")
    context: Payload = {"button_id": button_id, "origin": origin, "error": error}
    if error:
        response = render(request, "leadexec_sandbox/dialog.html", context, status=400)
    elif request.method == "GET":
        context |= {
            "app_id": provider.app_of(button_id),
            "accounts": provider.ACCOUNTS.items(),
            "current": _account(request) or next(iter(provider.ACCOUNTS)),
        }
        response = render(request, "leadexec_sandbox/dialog.html", context)
    elif asked.get("answer") != "consent":
        result: Payload = {"valid": False, "error": "The visitor declined the authorization."}
        response = _hand_over(request, context, result)
    elif account not in provider.ACCOUNTS:
        response = HttpResponseBadRequest("No such demo account.")
    else:
        result = provider.authorization(provider.authorize(account, button_id))
        response = _hand_over(request, context, result)
        _sign_in(response, request, account)
    # Django's default, same-origin, would cut the popup off from a page of another origin.
    response["Cross-Origin-Opener-Policy"] = "unsafe-none"
    return response


def _hand_over(request: HttpRequest, context: Payload, result: Payload) -> HttpResponse:
    context = context | {"result": result, "result_json": json.dumps(result)}
    return render(request, "leadexec_sandbox/answer.html", context)


# --- Calls from a server ---


@require_GET
def refresh(request: HttpRequest, token: str) -> HttpResponse:
    """A fresh access token for a refresh token."""
    app_id = request.GET.get("appid", "")
    return _answer("refresh", token, lambda: provider.refresh(token, app_id))


@require_GET
def disconnect(request: HttpRequest, token: str) -> HttpResponse:
    """End a grant; JSONP when a callback is named."""
    callback = request.GET.get("callback", "")
    if callback and not is_callback_name(callback):
        return HttpResponseBadRequest("The callback is not a function's name.")
    return _answer("disconnect", token, lambda: provider.disconnect(token), callback)


def _answer(
    call: str, token: str, decide: Callable[[], Payload], callback: str = ""
) -> HttpResponse:
    fault = faults.current_fault(token, call)
    if fault and (response := faults.misbehave(fault)):
        faults.count(call, fault.kind)
        return response
    if fault and fault.kind == Fault.Kind.REFUSE:
        payload = provider.refusal(token, "Refused, as the sandbox was told to.")
    else:
        payload = decide()
    faults.count(call, "ok" if payload["valid"] else "refused")
    return reply(payload, callback)


# --- The provider's site ---


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """What this is, and where to go."""
    return render(request, "leadexec_sandbox/home.html")


@csrf_protect
@require_http_methods(["GET", "POST"])
def connections(request: HttpRequest) -> HttpResponse:
    """What the visitor granted, as on the provider's own site; POST revokes, signs in or out."""
    account = _account(request)
    if request.method == "GET":
        grants = Grant.objects.live().filter(account=account).order_by("-pk") if account else []
        context = {
            "account": account,
            "company": provider.company(account) if account else "",
            "accounts": provider.ACCOUNTS.items(),
            "grants": grants,
        }
        return render(request, "leadexec_sandbox/connections.html", context)
    response = redirect("leadexec_sandbox:connections")
    if request.POST.get("account") in provider.ACCOUNTS:
        _sign_in(response, request, request.POST["account"])
    elif "sign_out" in request.POST:
        response.delete_cookie(COOKIE, path=reverse("leadexec_sandbox:home"), samesite="Lax")
    elif account and (grant := request.POST.get("grant", "")).isdecimal() and len(grant) < 19:
        Grant.objects.filter(account=account, pk=grant).revoke()
    return response


@require_GET
def control(request: HttpRequest) -> HttpResponse:
    """Counters and faults."""
    labels = {faults.EVERYTHING: "Every token"}
    grants = list(Grant.objects.live().order_by("-pk")[:50])
    labels |= {grant.digest: f"{provider.company(grant.account)}, #{grant.pk}" for grant in grants}
    active = [
        (labels.get(fault.scope, "One token"), fault) for fault in Fault.objects.order_by("pk")[:50]
    ]
    context = {
        "counts": CallCount.objects.order_by("name"),
        "faults": active,
        "fault_total": Fault.objects.count(),
        "live_tokens": provider.live_access_tokens().count(),
        "scopes": labels.items(),
        "kinds": Fault.Kind.choices,
        "calls": Fault.Call.choices,
    }
    return render(request, "leadexec_sandbox/control.html", context)


@csrf_protect
@require_POST
def order(request: HttpRequest) -> HttpResponse:
    """Carry out one of the control page's buttons."""
    match request.POST.get("order"):
        case "clear":
            faults.clear_faults()
        case "reset":
            faults.reset_counts()
        case "expire":
            faults.expire_access_tokens()
        case "fault":
            try:
                seconds = float(request.POST.get("seconds") or 0)
                faults.set_fault_scopes(
                    request.POST.get("kind", ""),
                    [request.POST.get("scope", "")[:64]],
                    seconds=min(max(0, seconds), 300),
                    call=request.POST.get("call", ""),
                )
            except ValueError:
                return HttpResponseBadRequest("No such fault.")
    return redirect("leadexec_sandbox:control")
