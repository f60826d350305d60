"""Makes, uses, disconnects and deletes connections on a site that records every change.

Prints one JSON object for each token of LEADEXEC_TEST_TOKENS: what the tool's tables hold after
each step, and what can be made of the records.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

from .settings import TOOL


def main() -> None:
    django.setup()
    from django.core.management import call_command
    from django.test.utils import setup_test_environment

    from tests.provider import Provider

    setup_test_environment()
    call_command("migrate", run_syncdb=True, verbosity=0)
    with Provider() as provider:
        settings.DEBUG = True
        settings.LEADEXEC |= {"BASE_URL": provider.url}
        for token in json.loads(os.environ["LEADEXEC_TEST_TOKENS"]):
            sys.stdout.write(f"{json.dumps(live(token))}\n")


def live(token: str) -> dict[str, Any]:
    """The records after each step in the life of a connection with this token."""
    from django_leadexec.models import LeadExecConnection
    from tests.factories import make_connection, make_user

    read: Callable[[], list[str]]
    read = read_history if TOOL == "simple_history" else read_audit_log
    row = make_connection(token)
    seen: dict[str, Any] = {"ciphertext": str(row.refresh_token)}
    steps: dict[str, list[str]] = {"created": read()}
    row.user = make_user()
    row.save()
    steps["changed by the site"] = read()
    LeadExecConnection.objects.filter(pk=row.pk).write(expires_at=None)
    seen["access token"] = row.get_access_token()
    steps["refreshed"] = read()
    row.revoke()
    steps["disconnected"] = read()
    if TOOL == "simple_history":
        seen |= look_back(row.pk)
    row.delete()
    make_connection(f"{token}d").delete()
    steps["deleted"] = read()
    return seen | {"steps": steps}


def read_audit_log() -> list[str]:
    """Each entry, by all that its model offers to read."""
    from auditlog.models import LogEntry

    offered = ("changes", "changes_dict", "changes_display_dict", "changes_str", "object_repr")
    return [
        f"{entry.get_action_display()} {entry.content_type.model} "
        + " ".join(str(getattr(entry, name)) for name in (*offered, "serialized_data"))
        for entry in LogEntry.objects.all()
    ]


def read_history() -> list[str]:
    """Each historical row of the connections and the outbox, by all its fields."""
    from django_leadexec.models import LeadExecConnection, PendingRevocation

    models: tuple[Any, ...] = (LeadExecConnection, PendingRevocation)
    return [
        f"{record.get_history_type_display()} {model._meta.model_name} "
        + " ".join(str(getattr(record, field.name)) for field in record._meta.fields)
        for model in models
        for record in model.history.all()
    ]


def look_back(pk: int) -> dict[str, Any]:
    """What a site does with historical rows: reads, compares and restores them."""
    from django.core.exceptions import FieldError

    from django_leadexec.models import LeadExecConnection

    records = LeadExecConnection.history.filter(id=pk)  # type: ignore[attr-defined]
    first, last = records.earliest(), records.latest()
    seen = {
        "instance": first.instance.refresh_token.decrypt().reveal(),
        "compared": [str(change.field) for change in last.diff_against(first).changes],
    }
    try:
        first.instance.save()
    except FieldError as error:
        seen["restoring"] = str(error)
    seen["status"] = LeadExecConnection.objects.get(pk=pk).status
    return seen


if __name__ == "__main__":
    main()
