from typing import Any

from django.urls import URLPattern, path, re_path

from . import api, views

app_name = "leadexec_sandbox"


def _route(route: str, view: Any, name: str, /, **kwargs: str) -> URLPattern:
    return path(route, views.sandbox_view(view), kwargs, name=name)


# <path:>, for a token may hold a slash: Django decodes %2F before it routes.
urlpatterns: list[URLPattern] = [
    _route("", views.home, "home"),
    _route(
        "js/le-app-button.js",
        views.asset,
        "script",
        name="le-app-button.js",
        content_type="application/javascript; charset=utf-8",
    ),
    _route(
        "css/le-app-button.css",
        views.asset,
        "stylesheet",
        name="le-app-button.css",
        content_type="text/css; charset=utf-8",
    ),
    _route("dialog/", views.dialog, "dialog"),
    _route("dialog/status/", views.status, "status"),
    _route("authorize/refreshaccesstoken/<path:token>", views.refresh, "refresh"),
    _route("authorize/disconnectapplicationtoken/<path:token>", views.disconnect, "disconnect"),
    _route("account-api/v1/leadtypes", api.list_lead_types, "lead_types"),
    _route("account-api/sandbox-only/account", api.show_account, "account"),
    _route("data-api/v1/leads/query/<str:uid>", api.query_leads, "leads"),
    re_path(
        r"^(?P<api>account|data)-api(?P<rest>/[\s\S]*)?\Z",
        views.sandbox_view(api.unknown),
        name="unknown",
    ),
    _route("connections/", views.connections, "connections"),
    _route("control/", views.control, "control"),
    _route("control/order/", views.order, "order"),
]
