"""Code of a site, for type checkers alone: ``scripts/check_types`` runs them on it.

It holds with django-stubs, with django-types and without any stubs of Django, and needs no plugin.
"""

from datetime import datetime
from typing import assert_type

import requests
from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest, HttpResponse

from django_leadexec import signals
from django_leadexec.decorators import LeadExecRequest, leadexec_required
from django_leadexec.exceptions import (
    AuthorizationRejected,
    ConnectionConflict,
    DecryptionFailed,
    LeadExecError,
    ProviderUnavailable,
)
from django_leadexec.models import ConnectionQuerySet, LeadExecConnection
from django_leadexec.session import LeadExecSession
from django_leadexec.testing import Call, FakeLeadExec, connect, fake_leadexec

# Views


@leadexec_required
def lead_types(request: LeadExecRequest, page: int = 1) -> HttpResponse:
    connection = assert_type(request.leadexec_connection, LeadExecConnection)
    session = assert_type(connection.session(), LeadExecSession)
    response = session.get(f"{session.account_api}/v1/leadtypes", params={"page": page})
    assert_type(response, requests.Response)
    return HttpResponse(response.content, status=response.status_code)


@leadexec_required
async def lead_types_async(request: LeadExecRequest, /) -> HttpResponse:
    token = await request.leadexec_connection.aget_access_token(min_ttl=120)
    return HttpResponse(status=200 if token else 503)


@leadexec_required
def with_djangos_own_request(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=204)


# Connections


def find(user: AbstractBaseUser) -> LeadExecConnection | None:
    connections = LeadExecConnection.objects.active().for_user(user)
    assert_type(connections, ConnectionQuerySet)
    assert_type(
        LeadExecConnection.objects.filter(status="active").expiring(600), ConnectionQuerySet
    )
    assert_type(LeadExecConnection.objects.using("other").live(), ConnectionQuerySet)
    for connection in connections:
        assert_type(connection, LeadExecConnection)
    assert_type(connections.count(), int)
    return assert_type(connections.first(), LeadExecConnection | None)


def describe(connection: LeadExecConnection) -> str:
    assert_type(connection.account_id, str)
    assert_type(connection.status, str)
    assert_type(connection.expires_at, datetime | None)
    assert_type(connection.created_at, datetime)
    assert_type(connection.attempts, int)
    return f"{connection.account_id} of {connection.user}: {connection.status == 'active'}"


def use(connection: LeadExecConnection) -> str | None:
    try:
        return assert_type(connection.get_access_token(), str)
    except ProviderUnavailable as error:
        assert_type(error.retry_after, float | None)
    except (AuthorizationRejected, DecryptionFailed):
        assert_type(connection.revoke(), bool)
    return None


async def use_async(user: AbstractBaseUser, token: str) -> bool:
    connection = await LeadExecConnection.objects.aadopt(user, token)
    return await connection.arevoke()


def adopt(user: AbstractBaseUser, token: str) -> LeadExecConnection:
    try:
        return LeadExecConnection.objects.adopt(user, token, account_id="7", verify=False)
    except ConnectionConflict as error:
        raise LeadExecError("It belongs to somebody else.") from error


def identify(session: LeadExecSession) -> str:
    return str(session.get(f"{session.data_api}/v1/account").json()["Id"])


# Signals


def on_revoked(
    sender: type[LeadExecConnection], connection: LeadExecConnection, **_: object
) -> None:
    describe(connection)


def listen() -> None:
    signals.connection_revoked.connect(on_revoked)


# Tests


def answer(call: Call) -> object:
    return {"method": call.method, "query": call.query}


def test_something(user: AbstractBaseUser) -> None:
    connect(user, "rejected", account_id="7")
    with fake_leadexec() as leadexec:
        assert_type(leadexec, FakeLeadExec)
        connection = assert_type(leadexec.connect(user, "expired"), LeadExecConnection)
        leadexec.answer("GET", "/v1/leadtypes", answer, times=1)
        leadexec.answer("GET", "/v1/leadtypes", [], status=429, headers={"Retry-After": "5"})
        leadexec.refuse(connection)
        leadexec.assert_called("GET", "/v1/leadtypes", connection=connection)
