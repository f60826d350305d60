"""Browsers, and what a web worker is sent by one: arguments for a worker's work."""

import uuid
from collections.abc import Iterable
from typing import Any

from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from django_leadexec.models import LeadExecConnection
from django_leadexec.session import LeadExecSession

from ..visitor import callback_body, post

Work = tuple[Any, ...]
ADMIN = "/admin/django_leadexec/leadexecconnection/"


def browser_of(user: Any) -> Client:
    client = Client()
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    return client


def calling_back(browser: Client, token: str) -> Work:
    body, kind = callback_body(browser, token), "application/json"
    return ("post", _cookies(browser), reverse("leadexec:callback"), body, kind)


def status_of(browser: Client, token: str) -> str:
    """What the callback answers to a click with this token."""
    status: str = post(browser, token).json().get("status")
    return status


def submitting(browser: Client, path: str, form: dict[str, Any]) -> Work:
    return ("post", _cookies(browser), path, form)


def acting_on(browser: Client, action: str, connections: Iterable[LeadExecConnection]) -> Work:
    """A confirmed action of the admin."""
    keys = [row.pk for row in connections]
    return submitting(browser, ADMIN, {"action": action, ACTION_CHECKBOX_NAME: keys, "post": "yes"})


def _cookies(browser: Client) -> dict[str, str]:
    return {name: morsel.value for name, morsel in browser.cookies.items()}


def create_user(account_id: str, session: LeadExecSession) -> Any:
    """``CREATE_USER``, also for an account that has had a user before."""
    return get_user_model().objects.create_user(f"user of {account_id} {uuid.uuid4()}")
