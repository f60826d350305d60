"""What reads all fields of a row, or all locals of a frame, gets ciphertext and no token.

With the real packages, and tokens shorter and longer than what they cut text off at.
"""

import csv
import io
import json
import logging
import pickle
import secrets
import sys
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import count
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.core import serializers
from django.core.signals import got_request_exception
from django.db import OperationalError
from django.db import connection as database
from django.db.models import Model
from django.forms import model_to_dict
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from django_leadexec import signals
from django_leadexec.linking import link, store
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.secret import Secret

from ..factories import make_connection, make_user, plain
from ..needs import import_or_skip
from ..processes import run_scenario
from ..provider import Provider
from ..visitor import LOGIN, post
from . import canaries
from .leak_recorder import Saboteur

pytestmark = pytest.mark.django_db(transaction=True)

LENGTHS = (20, 54, 2_000)


@pytest.fixture(params=LENGTHS)
def token(request: pytest.FixtureRequest) -> str:
    return make_token(request.param)


def make_token(length: int) -> str:
    return secrets.token_hex(length // 2)


def make_rows(token: str) -> tuple[LeadExecConnection, PendingRevocation]:
    """A connection with the token, and an outbox entry of another with nearly the same."""
    make_connection(f"{token}2").delete()
    return make_connection(token), PendingRevocation.objects.get()


def assert_only_ciphertext(text: str, token: str, *rows: Any) -> None:
    assert canaries.find(text, token) == []
    assert all(row.refresh_token in text for row in rows)


# What reads all fields of a row


def texts(values: Iterable[object]) -> list[str]:
    """Each value by its text, and not by its repr, which can hide the text."""
    return [f"{value}" for value in values]


READERS: dict[str, Callable[[Any], object]] = {
    "getattr": lambda row: texts(getattr(row, field.name) for field in row._meta.fields),
    "getattr, attname": lambda row: texts(
        getattr(row, field.attname) for field in row._meta.fields
    ),
    "value_from_object": lambda row: texts(
        field.value_from_object(row) for field in row._meta.concrete_fields
    ),
    "value_to_string": lambda row: [
        field.value_to_string(row) for field in row._meta.concrete_fields if field.name != "user"
    ],
    "__dict__": vars,
    "model_to_dict": lambda row: [model_to_dict(row), row.refresh_token],
    "values": lambda row: list(type(row).objects.values()),
    "values_list": lambda row: texts(type(row).objects.values_list().get()),
    "deferred": lambda row: texts(
        getattr(type(row).objects.only("pk").get(), field.attname) for field in row._meta.fields
    ),
    "json": lambda row: serializers.serialize("json", [row]),
    "copy": lambda row: vars(deepcopy(row)),
    "pickle": lambda row: pickle.dumps(row).decode("latin-1"),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_whatever_reads_all_fields_gets_ciphertext(
    read: Callable[[Any], object], token: str
) -> None:
    for row in make_rows(token):
        assert_only_ciphertext(str(read(row)), token, row)


def export_as_csv(model_admin: Any, request: Any, rows: Any) -> HttpResponse:
    """As many sites have it, for every model in their admin."""
    response = HttpResponse(content_type="text/csv")
    writer = csv.writer(response)
    names = [field.name for field in model_admin.model._meta.fields]
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    return response


def test_a_site_wide_admin_action_exports_ciphertext(token: str, client: Client) -> None:
    staff = make_user("staff", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="view_leadexecconnection"))
    client.force_login(staff, backend=LOGIN)
    row = make_connection(token)
    admin.site.add_action(export_as_csv)
    try:
        response = client.post(
            reverse("admin:django_leadexec_leadexecconnection_changelist"),
            {"action": "export_as_csv", "_selected_action": [row.pk]},
        )
    finally:
        admin.site.disable_action("export_as_csv")
    assert response["Content-Type"] == "text/csv"
    assert_only_ciphertext(response.content.decode(), token, row)


def rest_serializer(of_model: type[Model]) -> Any:
    rest_framework = import_or_skip("rest_framework.serializers")

    class EveryField(rest_framework.ModelSerializer):  # type: ignore[name-defined]
        class Meta:
            model = of_model
            fields = "__all__"

    return EveryField


def test_a_rest_serializer_of_all_fields_reads_ciphertext(token: str) -> None:
    for row in make_rows(token):
        data = rest_serializer(type(row))(row).data
        assert_only_ciphertext(json.dumps(data, default=str), token, row)


def test_a_rest_serializer_of_all_fields_writes_no_token(token: str) -> None:
    row, _ = make_rows(token)
    posted = {"refresh_token": "posted", "status": "revoked", "user": row.user_id}
    serializer = rest_serializer(LeadExecConnection)(row, data=posted)
    assert serializer.is_valid(), serializer.errors
    serializer.save()
    row.refresh_from_db()
    assert plain(row.refresh_token) == token
    assert row.status == "active"


def exported(model: type[Model], format: str, **options: Any) -> tuple[Any, Any, str]:
    """A resource of import-export, what it has exported as data to import, and as text."""
    resources = import_or_skip("import_export.resources")
    tablib = import_or_skip("tablib")
    resource = resources.modelresource_factory(model, meta_options=options)()
    text: str = resource.export().export(format)
    return resource, tablib.Dataset().load(text, format=format), text


@pytest.mark.parametrize("format", ["csv", "json"])
def test_a_table_is_restored_from_what_import_export_has_exported(format: str, token: str) -> None:
    for stored in make_rows(token):
        resource, data, text = exported(type(stored), format)
        assert_only_ciphertext(text, token, stored)
        type(stored)._base_manager.all()._raw_delete("default")
        resource.import_data(data, raise_errors=True)
        restored: Any = type(stored)._base_manager.get()
        assert restored.refresh_token == stored.refresh_token
        assert plain(restored.refresh_token).startswith(token)
    assert LeadExecConnection.objects.holding(token).get().status == "active"


@pytest.mark.parametrize("format", ["csv", "json"])
def test_an_import_over_the_rows_keeps_their_tokens(format: str, token: str) -> None:
    row, _ = make_rows(token)
    columns = ("id", "user", "refresh_token")
    resource, data, _ = exported(LeadExecConnection, format, fields=columns)
    resource.import_data(data, raise_errors=True)
    # All columns have the times as well, which it rounds, and save() stores no change of them.
    resource, data, _ = exported(LeadExecConnection, format)
    errors = resource.import_data(data).row_errors()
    assert "save() would lose the change of expires_at" in str(errors[0][1][0].error)
    row.refresh_from_db()
    assert plain(row.refresh_token) == token


def test_an_import_of_an_older_export_brings_no_revoked_token_back(token: str) -> None:
    row, _ = make_rows(token)
    resource, data, _ = exported(LeadExecConnection, "csv")
    LeadExecConnection.objects.all().move_to_outbox()
    errors = resource.import_data(data).row_errors()
    assert "can't be saved from outside" in str(errors[0][1][0].error)
    row.refresh_from_db()
    assert (row.status, row.refresh_token) == ("revoked", "")


# What records every change


def recorded_of(tool: str) -> list[tuple[str, dict[str, Any]]]:
    """Each token, and what the tool has recorded of its connection."""
    import_or_skip(tool)
    tokens = [make_token(length) for length in LENGTHS]
    out = run_scenario(
        "tests.security.recorded",
        LEADEXEC_TEST_TOOL=tool,
        LEADEXEC_TEST_TOKENS=json.dumps(tokens),
    )
    return list(zip(tokens, map(json.loads, out.splitlines()), strict=True))


@pytest.mark.parametrize("tool", ["auditlog", "simple_history"])
def test_a_record_of_every_change_holds_ciphertext(tool: str) -> None:
    for token, seen in recorded_of(tool):
        assert token in seen["access token"]
        for step, records in seen["steps"].items():
            text = "\n".join(records)
            assert canaries.find(text, token) == [], step
            assert seen["ciphertext"] in text, step
        kinds = {" ".join(record.split()[:2]).lower() for record in records}
        connection_kinds = {kind.split()[0] for kind in kinds if kind.endswith("connection")}
        assert connection_kinds == (
            {"create", "update", "delete"}
            if tool == "auditlog"
            else {"created", "changed", "deleted"}
        )


def test_a_historical_row_makes_an_instance_whose_token_opens() -> None:
    for token, seen in recorded_of("simple_history"):
        assert seen["instance"] == token
        assert seen["compared"] == ["user"]


def test_a_historical_row_does_not_bring_a_revoked_connection_back() -> None:
    for _, seen in recorded_of("simple_history"):
        assert "is stored already" in seen["restoring"]
        assert seen["status"] == "revoked"


# What shows the locals of every frame


def rich_report(error: BaseException, **options: Any) -> str:
    console = import_or_skip("rich.console")
    traceback = import_or_skip("rich.traceback")
    trace = traceback.Traceback.extract(
        type(error), error, error.__traceback__, show_locals=True, **options
    )
    for stack in trace.stacks:
        for frame in stack.frames:
            # The locals are shown without the source, whose colours take a second a frame.
            frame.filename = f"<{frame.filename}>"
    out = io.StringIO()
    console.Console(file=out, width=200).print(traceback.Traceback(trace, max_frames=1_000))
    return out.getvalue()


def structlog_report(error: BaseException, **options: Any) -> str:
    structlog = import_or_skip("structlog")
    transform = structlog.tracebacks.ExceptionDictTransformer(
        show_locals=True, max_frames=1_000, **options
    )
    render = structlog.processors.ExceptionRenderer(transform)
    event = render(None, "error", {"event": "failed", "exc_info": error})
    return str(structlog.processors.JSONRenderer(ensure_ascii=False)(None, "error", event))


REPORTS: dict[str, Callable[[BaseException], str]] = {
    "rich": rich_report,
    "rich, whole strings": lambda error: rich_report(error, locals_max_string=None),
    "structlog": structlog_report,
    "structlog, whole strings": lambda error: structlog_report(error, locals_max_string=10_000),
    "structlog without rich": lambda error: structlog_report(error, use_rich=False),
}
parametrize_reports = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
Report = Callable[[BaseException], str]


@parametrize_reports
def test_the_reports_show_the_locals_of_each_frame(report: Report, token: str) -> None:
    def fail(text: str) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError) as caught:
        fail(token)
    assert canaries.find(report(caught.value), token)


def without_this_frame(error: BaseException) -> BaseException:
    """The frame of the test itself has the token, as its caller would."""
    trace = error.__traceback__
    return error.with_traceback(trace.tb_next if trace else None)


def each_failing_statement(
    prepare: Callable[[], Any], act: Callable[[Any], object]
) -> list[BaseException]:
    """What comes of ``act`` when its first statement fails, then its second, until none is left.

    It starts each time on empty tables, with what ``prepare`` returns.
    """
    errors: list[BaseException] = []
    for nth in count(1):
        for model in (LeadExecConnection, PendingRevocation):
            model._base_manager.all()._raw_delete("default")
        prepared, saboteur = prepare(), Saboteur(nth, OperationalError)
        try:
            with database.execute_wrapper(saboteur):
                act(prepared)
        except OperationalError as error:
            errors.append(without_this_frame(error))
        if not saboteur.has_struck:
            return errors
    raise AssertionError


def keep_token(user: Any, refresh_token: Secret, access_token: Secret) -> LeadExecConnection:
    return store(
        "default",
        lambda: link(user, "test-app", refresh_token, access_token, 4e9, using="default"),
    )


@parametrize_reports
def test_no_failing_statement_of_linking_shows_a_token(report: Report, token: str) -> None:
    user, access_token = make_user(), Secret(f"{token}-access")
    errors = each_failing_statement(
        lambda: Secret(token), lambda secret: keep_token(user, secret, access_token)
    )
    # Four on each database. On SQLite two more begin the transaction and take its lock.
    assert len(errors) >= (6 if database.vendor == "sqlite" else 4)
    for error in errors:
        assert canaries.find(report(error), token) == []


@parametrize_reports
def test_no_failing_statement_of_get_access_token_shows_a_token(
    report: Report, token: str, provider: Provider
) -> None:
    user = make_user()
    errors = each_failing_statement(
        lambda: make_connection(token, user=user, expires_in=-10),
        lambda row: row.get_access_token(),
    )
    assert len(errors) > 2
    for error in errors:
        assert canaries.find(report(error), token) == []


@parametrize_reports
def test_no_failing_receiver_shows_a_token(
    report: Report, token: str, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(connection: LeadExecConnection, **arguments: Any) -> None:
        raise RuntimeError("The site's own code has failed.")

    row = make_connection(token, expires_in=-10)
    signals.connection_refreshed.connect(fail)
    try:
        with caplog.at_level(logging.ERROR):
            row.get_access_token()
    finally:
        signals.connection_refreshed.disconnect(fail)
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [type(error) for error in errors] == [RuntimeError]
    assert errors[0]
    assert canaries.find(report(errors[0]), token) == []


def identify_nobody(session: Any) -> str:
    raise RuntimeError("The site's own code has failed.")


@parametrize_reports
def test_no_failing_identify_shows_a_token(
    report: Report, token: str, provider: Provider, client: Client, settings: Settings
) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"IDENTIFY": f"{__name__}.identify_nobody"}
    client.raise_request_exception = False
    client.force_login(make_user(), backend=LOGIN)
    reports: list[str] = []

    def keep_report(**arguments: Any) -> None:
        error = sys.exc_info()[1]
        assert error
        reports.append(report(error))

    got_request_exception.connect(keep_report)
    try:
        assert post(client, token).status_code == 500
    finally:
        got_request_exception.disconnect(keep_report)
    assert len(reports) == 1
    assert canaries.find(reports[0], token) == []
