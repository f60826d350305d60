"""Django's less common ways to write, copy and read rows: right, or an error, and never a token."""

import copy
import pickle
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import FieldError
from django.db import IntegrityError, connection, models, transaction
from django.db.models import Case, F, OuterRef, Subquery, TextField, Value, When
from django.db.models.functions import Cast, Concat
from django.utils import timezone
from django.utils.functional import lazystr

from django_leadexec.fields import Ciphertext
from django_leadexec.models import LeadExecConnection, PendingRevocation

from .factories import make_connection, make_user, plain

pytestmark = pytest.mark.django_db(transaction=True)

rows: Any = LeadExecConnection.objects
TOKEN = "canary-0123456789"


# Reading

READS: dict[str, Callable[[], object]] = {
    "an annotation": lambda: rows.annotate(x=F("refresh_token")).get().x,
    "a function": lambda: (
        rows.annotate(x=Concat("refresh_token", Value("!"), output_field=TextField())).get().x
    ),
    "a cast": lambda: rows.annotate(x=Cast("refresh_token", TextField())).get().x,
    "a subquery": lambda: (
        rows.annotate(x=Subquery(rows.filter(pk=OuterRef("pk")).values("refresh_token")[:1]))
        .get()
        .x
    ),
    "a case": lambda: rows.annotate(x=Case(When(pk__gt=0, then=F("refresh_token")))).get().x,
    "an aggregate": lambda: rows.aggregate(x=models.Max("refresh_token")),
    "named values": lambda: (
        repr(rows.values_list(named=True)) + str(rows.values_list(named=True)[0])
    ),
    "from the user": lambda: list(
        type(make_user()).objects.values_list("leadexec_connections__refresh_token", flat=True)
    ),
    "in bulk": lambda: [vars(row) for row in rows.in_bulk().values()],
    "raw": lambda: [vars(row) for row in rows.raw(f"SELECT * FROM {rows.model._meta.db_table}")],  # noqa: S608
    "a union": lambda: list(rows.values("refresh_token").union(rows.values("access_token"))),
    "a copy": lambda: vars(copy.copy(rows.get())),
    "its SQL": lambda: str(rows.filter(fingerprint__in=["x"]).query),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_whichever_way_it_is_read_it_is_ciphertext(read: Callable[[], object]) -> None:
    make_connection(TOKEN)
    assert "canary" not in str(read())


def test_a_cached_row_holds_ciphertext_that_opens() -> None:
    cache = LocMemCache("rows", {})
    cache.set("row", make_connection(TOKEN))
    assert b"canary" not in pickle.dumps(cache._cache)  # type: ignore[attr-defined]
    row = cache.get("row")
    assert plain(row.refresh_token) == TOKEN
    row.status = "revoked"
    with pytest.raises(FieldError, match="status"):
        row.save()


# Writing


def change(**values: object) -> Callable[[], object]:
    return lambda: rows.update(**values)


WRITES: dict[str, Callable[[], object]] = {
    "F": change(refresh_token=F("access_token")),
    "Value": change(refresh_token=Value(TOKEN)),
    "Case": change(refresh_token=Case(When(pk__gt=0, then=Value(TOKEN)))),
    "Subquery": change(refresh_token=Subquery(rows.values("access_token")[:1])),
    "the account, on which the identity depends": change(account_id="other"),
    "a locked query": lambda: rows.select_for_update().update(status="revoked"),
    "from the user": lambda: rows.get().user.leadexec_connections.update(status="revoked"),
    "update_or_create": lambda: rows.update_or_create(
        user=rows.get().user, defaults={"refresh_token": TOKEN}
    ),
    "bulk_update": lambda: rows.bulk_update(rows.all(), ["last_error", "refresh_token"]),
    "aupdate": lambda: async_to_sync(rows.all().aupdate)(status="revoked"),
    "upsert": lambda: rows.bulk_create(
        [LeadExecConnection(user=make_user(), refresh_token="t")],
        update_conflicts=True,
        update_fields=["user", "status"],
        **upsert_by("fingerprint"),
    ),
    "upsert, by position": lambda: rows.bulk_create(
        [LeadExecConnection(user=make_user(), refresh_token="t")],
        None,
        False,
        True,
        ["access_token"],
        *upsert_by("fingerprint").values(),
    ),
    "upsert in the outbox": lambda: PendingRevocation.objects.bulk_create(
        [], update_conflicts=True, update_fields=["refresh_token"], **upsert_by("id")
    ),
}


def upsert_by(name: str) -> dict[str, Any]:
    """MySQL and MariaDB take no names of unique columns."""
    return {} if connection.vendor == "mysql" else {"unique_fields": [name]}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_whichever_way_a_column_of_the_package_is_written_it_is_refused(
    write: Callable[[], object],
) -> None:
    make_connection("t")
    before = rows.values().get()
    with pytest.raises(FieldError):
        write()
    assert rows.values().get() == before


@pytest.mark.parametrize(
    "value", [uuid.uuid4(), b"canary-bytes", 1234567890123456, lazystr("canary-lazy"), ["canary"]]
)
def test_what_is_no_text_is_never_stored_as_it_is(value: object) -> None:
    now = timezone.now()
    entry = PendingRevocation(
        connection_key=1,
        app_id="a",
        refresh_token=value,
        fingerprint="f",
        requested_at=now,
        retry_after=now,
    )
    with pytest.raises(TypeError, match="refresh_token takes a str or a Secret"):
        entry.save()
    row = make_connection("t")
    row.access_token = value  # type: ignore[assignment]
    with pytest.raises(TypeError, match="access_token takes a str or a Secret"):
        row.store(update_fields=["access_token"])
    assert not PendingRevocation.objects.exists()
    assert plain(rows.get().access_token) == "stored-access-for-t"


def test_a_row_that_is_copied_in_djangos_way_is_refused() -> None:
    make_connection("t")
    row = rows.get()
    row.pk, row._state.adding = None, True
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()
    assert rows.count() == 1


def test_get_or_create_makes_a_whole_row() -> None:
    user = make_user()
    row, _made = rows.get_or_create(user=user, defaults={"refresh_token": TOKEN})
    assert rows.holding(TOKEN).get() == row == rows.get_or_create(user=user)[0]


def load_a_deferred_column(row: LeadExecConnection) -> None:
    assert row.last_error == ""


def refresh_another_column(row: LeadExecConnection) -> None:
    row.refresh_from_db(fields=["user", "last_error"])


def refresh_another_column_later(row: LeadExecConnection) -> None:
    async_to_sync(row.arefresh_from_db)(fields=["expires_at"])


@pytest.mark.parametrize(
    "look", [load_a_deferred_column, refresh_another_column, refresh_another_column_later]
)
def test_reading_another_column_hides_no_change_that_save_would_lose(look: Any) -> None:
    make_connection("t")
    row = rows.defer("last_error").get()
    row.status = "revoked"
    look(row)
    with pytest.raises(FieldError, match="status"):
        row.save()
    row.refresh_from_db(fields=["status"])
    row.save()


# Deleting


class Child(LeadExecConnection):
    note = models.CharField(max_length=10, default="")

    class Meta:
        app_label = "tests"


@pytest.fixture
def child() -> Iterator[Any]:
    with connection.schema_editor() as editor:
        editor.create_model(Child)
    try:
        yield Child._default_manager.create(user=make_user(), refresh_token=TOKEN)
    finally:
        Child.objects.all().delete()
        with connection.schema_editor() as editor:
            editor.delete_model(Child)


def test_a_model_that_inherits_is_a_connection_in_all_ways(child: Any) -> None:
    parent = rows.holding(TOKEN).get()
    assert (parent.pk, parent.status) == (child.pk, "active")
    stored = Child.objects.get()
    assert isinstance(stored.refresh_token, Ciphertext)
    stored.status = "revoked"
    with pytest.raises(FieldError, match="status"):
        stored.save()
    with pytest.raises(FieldError, match="refresh_token"):
        Child.objects.update(refresh_token=Value(TOKEN))


DELETIONS: dict[str, Callable[[], object]] = {
    "its query set": lambda: Child.objects.all().delete(),
    "its instance": lambda: Child.objects.get().delete(),
    "its base manager": lambda: Child._base_manager.all().delete(),
}


@pytest.mark.parametrize("what", DELETIONS)
def test_a_deleted_row_of_a_model_that_inherits_is_revoked(child: Any, what: str) -> None:
    DELETIONS[what]()
    assert not rows.exists()
    assert plain(PendingRevocation.objects.get().refresh_token) == TOKEN
