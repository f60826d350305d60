"""The encrypted field, on the two models that have it."""

import copy
import json
import pickle
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import serializers
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.db import connection, models, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Concat, Length
from django.forms.models import model_to_dict
from django.test.utils import register_lookup
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from django_leadexec import crypto
from django_leadexec.conf import new_key
from django_leadexec.exceptions import DecryptionFailed
from django_leadexec.fields import Ciphertext, EncryptedTextField
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.secret import Secret

from .factories import make_connection, make_user, plain

pytestmark = pytest.mark.django_db

SECRET = "plain-refresh-token"


@pytest.fixture
def row() -> LeadExecConnection:
    return make_connection(SECRET)


def column(name: str = "refresh_token", table: str = "django_leadexec_leadexecconnection") -> str:
    """What the database holds, behind the ORM's back."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {name} FROM {table} ORDER BY id")  # noqa: S608 - fixed names
        [[value]] = cursor.fetchall()
    return str(value)


def decrypted(stored: str) -> str:
    return crypto.decrypt(stored).reveal()


def spoil(settings: Settings) -> None:
    """Take the key away that the rows were written with."""
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [new_key()]}


# At rest


def test_the_column_holds_no_plain_text(row: LeadExecConnection) -> None:
    for name, text in (("refresh_token", SECRET), ("access_token", f"stored-access-for-{SECRET}")):
        assert column(name).startswith("gAAAA")
        assert text not in column(name)
        assert decrypted(column(name)) == text


def test_nothing_of_a_row_holds_plain_text(row: LeadExecConnection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM django_leadexec_leadexecconnection")
        assert SECRET not in repr(cursor.fetchall())


def test_the_outbox_holds_no_plain_text(row: LeadExecConnection) -> None:
    before = column()
    LeadExecConnection.objects.all().move_to_outbox()
    assert column("refresh_token", "django_leadexec_pendingrevocation") == before
    assert plain(PendingRevocation.objects.get().refresh_token) == SECRET
    assert column() == ""


def test_the_attribute_gives_ciphertext_and_only_decrypt_and_reveal_the_plain_text(
    row: LeadExecConnection,
) -> None:
    loaded = LeadExecConnection.objects.get()
    assert loaded.refresh_token == column()
    assert isinstance(loaded.refresh_token, str)
    secret = loaded.refresh_token.decrypt()
    assert not issubclass(type(secret), str)
    assert SECRET not in f"{secret} {secret!r}"
    assert secret.reveal() == SECRET


def test_every_field_read_by_its_name_gives_ciphertext(row: LeadExecConnection) -> None:
    loaded = LeadExecConnection.objects.get()
    for field in loaded._meta.get_fields():
        assert SECRET not in repr(getattr(loaded, field.name))
        assert SECRET not in str(getattr(loaded, field.name))
    assert SECRET not in repr(model_to_dict(loaded, fields=[f.name for f in loaded._meta.fields]))


def test_a_secret_can_be_assigned(row: LeadExecConnection) -> None:
    row.refresh_token = Secret("gAAAAA-whatever-it-looks-like")
    assert plain(row.refresh_token) == "gAAAAA-whatever-it-looks-like"


def test_what_was_exported_as_text_can_be_assigned_again(row: LeadExecConnection) -> None:
    exported = str(row.refresh_token.encode().decode())
    row.refresh_token = exported
    assert row.refresh_token == exported


def test_the_plain_text_is_nowhere_in_the_instance(row: LeadExecConnection) -> None:
    loaded = LeadExecConnection.objects.get()
    _ = plain(loaded.refresh_token)
    assert SECRET not in repr(vars(loaded))
    loaded.refresh_token = "another-plain-token"
    assert "another-plain-token" not in repr(vars(loaded))
    assert plain(loaded.refresh_token) == "another-plain-token"


def test_a_text_column_is_used() -> None:
    field = LeadExecConnection._meta.get_field("refresh_token")
    assert isinstance(field, EncryptedTextField)
    assert field.db_type(connection) == models.TextField().db_type(connection)
    assert (field.column, field.attname) == ("refresh_token", "refresh_token")


def test_the_field_can_be_told_another_column() -> None:
    field = EncryptedTextField(db_column="secret")
    field.set_attributes_from_name("token")
    assert field.column == "secret"


def test_the_empty_text_stays_empty() -> None:
    row = make_connection(SECRET)
    LeadExecConnection.objects.write(access_token="")
    row.refresh_from_db()
    assert (column("access_token"), plain(row.access_token)) == ("", "")
    row.access_token = ""
    row.store(update_fields={"access_token"})
    assert column("access_token") == ""


def test_a_field_that_is_not_set_is_empty() -> None:
    assert plain(PendingRevocation().refresh_token) == ""


# Loading


def test_no_key_is_needed_to_load_list_and_pickle(
    row: LeadExecConnection, settings: Settings
) -> None:
    make_connection("another")
    spoil(settings)
    [first, _] = LeadExecConnection.objects.order_by("pk")
    first.refresh_from_db()
    first.refresh_from_db(fields=["refresh_token"])
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301 - our own
    assert copy.deepcopy(first) == first
    str(first), repr(first)
    list(LeadExecConnection.objects.values())
    list(LeadExecConnection.objects.defer("refresh_token"))
    list(LeadExecConnection.objects.only("refresh_token"))
    with pytest.raises(DecryptionFailed):
        _ = plain(first.refresh_token)


def test_a_bad_row_spoils_only_itself(row: LeadExecConnection) -> None:
    other = make_connection("another")
    LeadExecConnection.objects.filter(pk=row.pk).write(refresh_token=Ciphertext("garbage"))
    bad, good = LeadExecConnection.objects.order_by("pk")
    assert plain(good.refresh_token) == "another"
    assert good == other
    with pytest.raises(DecryptionFailed):
        _ = plain(bad.refresh_token)
    assert plain(bad.access_token) == f"stored-access-for-{SECRET}"


def test_a_missing_key_leaves_the_ciphertext_as_it_is(
    row: LeadExecConnection, settings: Settings
) -> None:
    before, keys = column(), settings.LEADEXEC["ENCRYPTION_KEYS"]
    spoil(settings)
    loaded = LeadExecConnection.objects.get()
    with pytest.raises(DecryptionFailed):
        _ = plain(loaded.refresh_token)
    loaded.save()
    loaded.store(update_fields={"refresh_token", "access_token"})
    assert column() == before
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": keys}
    assert plain(LeadExecConnection.objects.get().refresh_token) == SECRET


def test_a_deferred_token_is_loaded_when_it_is_read(
    row: LeadExecConnection, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for query in (
        LeadExecConnection.objects.defer("refresh_token"),
        LeadExecConnection.objects.only("status"),
    ):
        loaded = query.get()
        assert loaded.get_deferred_fields() >= {"refresh_token"}
        with django_assert_num_queries(1):
            assert plain(loaded.refresh_token) == SECRET
        with django_assert_num_queries(0):
            assert plain(loaded.refresh_token) == SECRET


def test_only_the_token_can_be_loaded(row: LeadExecConnection) -> None:
    loaded = LeadExecConnection.objects.only("refresh_token").get()
    assert "access_token" in loaded.get_deferred_fields()
    assert plain(loaded.refresh_token) == SECRET


def test_a_deferred_token_can_be_set(row: LeadExecConnection) -> None:
    loaded = LeadExecConnection.objects.defer("refresh_token").get()
    loaded.refresh_token = "new"
    loaded.store(update_fields={"refresh_token"})
    assert decrypted(column()) == "new"


def test_values_carry_ciphertext(row: LeadExecConnection) -> None:
    ciphertext = column()
    objects = LeadExecConnection.objects
    assert list(objects.values_list("refresh_token", flat=True)) == [ciphertext]
    assert objects.values("refresh_token").get() == {"refresh_token": ciphertext}
    assert objects.values("pk", "refresh_token").get() == {
        "pk": row.pk,
        "refresh_token": ciphertext,
    }
    [named] = objects.values_list("refresh_token", named=True)
    assert named.refresh_token == ciphertext
    assert objects.values_list(F("refresh_token"), flat=True).get() == ciphertext
    assert SECRET not in repr(objects.values().get())


def test_what_values_carry_can_be_written_back(row: LeadExecConnection) -> None:
    [ciphertext] = LeadExecConnection.objects.values_list("refresh_token", flat=True)
    LeadExecConnection.objects.write(refresh_token=ciphertext)
    assert column() == ciphertext
    assert plain(LeadExecConnection.objects.get().refresh_token) == SECRET


def test_a_pickled_row_holds_ciphertext_and_can_be_saved(row: LeadExecConnection) -> None:
    pickled = pickle.dumps(LeadExecConnection.objects.get())
    assert SECRET.encode() not in pickled
    restored = pickle.loads(pickled)  # noqa: S301 - our own
    restored.store(update_fields={"refresh_token"})
    assert decrypted(column()) == SECRET


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_has_a_token_of_its_own(row: LeadExecConnection, duplicate: Any) -> None:
    loaded = LeadExecConnection.objects.get()
    other = duplicate(loaded)
    other.refresh_token = "new"
    assert plain(loaded.refresh_token) == SECRET
    assert plain(other.refresh_token) == "new"
    duplicate(loaded).store(update_fields={"refresh_token"})
    assert decrypted(column()) == SECRET


# Writing


def test_an_update_stores_ciphertext(row: LeadExecConnection) -> None:
    LeadExecConnection.objects.write(refresh_token="plain-by-update")
    assert decrypted(column()) == "plain-by-update"


@pytest.mark.parametrize(
    "expression",
    [
        Value("plain-by-value"),
        Value("plain-by-value", output_field=EncryptedTextField()),
        Case(When(pk__gt=0, then=Value("plain-by-case")), output_field=models.TextField()),
        F("access_token"),
        Concat(Value("plain"), Value("-by-concat")),
    ],
)
def test_no_expression_can_be_stored(row: LeadExecConnection, expression: Any) -> None:
    before = column()
    base: Any = LeadExecConnection._base_manager
    everything: Any = LeadExecConnection.objects
    for rows in (base, everything.all().write, everything):
        update = getattr(rows, "update", rows)
        with pytest.raises(FieldError), transaction.atomic():
            update(refresh_token=expression)
    assert column() == before


def test_no_expression_can_be_inserted() -> None:
    entry: Any = PendingRevocation(connection_key=1, app_id="app", fingerprint="f", batch="b")
    entry.requested_at = entry.retry_after = timezone.now()
    entry.refresh_token = Value("plain-by-value")
    with pytest.raises(FieldError), transaction.atomic():
        entry.save()
    assert not PendingRevocation.objects.exists()


def test_creating_stores_ciphertext() -> None:
    objects: Any = PendingRevocation.objects
    objects.create(
        connection_key=1,
        app_id="app",
        refresh_token="plain",
        fingerprint="f",
        requested_at="2025-01-01T00:00:00Z",
        retry_after="2025-01-01T00:00:00Z",
    )
    stored = column("refresh_token", "django_leadexec_pendingrevocation")
    assert decrypted(stored) == "plain"


def test_get_or_create_stores_ciphertext_and_update_or_create_replaces_no_token() -> None:
    user = make_user()
    objects: Any = LeadExecConnection.objects
    objects.get_or_create(user=user, defaults={"refresh_token": "one"})
    assert decrypted(column()) == "one"
    with pytest.raises(FieldError, match="adopt"), transaction.atomic():
        objects.update_or_create(user=user, defaults={"refresh_token": "two"})
    assert decrypted(column()) == "one"


def test_bulk_create_stores_ciphertext_and_bulk_update_replaces_no_token() -> None:
    made: Any = LeadExecConnection
    made.objects.bulk_create([made(user=make_user(), app_id="app", refresh_token="one")])
    assert decrypted(column()) == "one"
    row = LeadExecConnection.objects.get()
    row.refresh_token = "two"
    with pytest.raises(FieldError), transaction.atomic():
        LeadExecConnection.objects.bulk_update([row], ["refresh_token"])
    assert decrypted(column()) == "one"


def test_a_row_that_is_saved_again_keeps_its_ciphertext(row: LeadExecConnection) -> None:
    before = column()
    for _ in range(3):
        loaded = LeadExecConnection.objects.get()
        loaded.store(update_fields={"refresh_token"})
    assert column() == before


def test_validating_encrypts_nothing_twice(row: LeadExecConnection) -> None:
    before = column()
    loaded = LeadExecConnection.objects.get()
    for _ in range(2):
        loaded.full_clean(exclude={"revoked_at", "rejected_at"})
    assert plain(loaded.refresh_token) == SECRET
    loaded.store(update_fields={"refresh_token"})
    assert column() == before


def test_long_and_odd_text_comes_back(row: LeadExecConnection) -> None:
    for text in ("x" * 20_000, "größe 🙂", "gAAAAABplain", "'; DROP TABLE x; --", "a\x7fb"):
        LeadExecConnection.objects.write(refresh_token=text)
        assert plain(LeadExecConnection.objects.get().refresh_token) == text


def test_a_new_first_key_is_used_for_what_is_written_from_now_on(
    row: LeadExecConnection, settings: Settings
) -> None:
    before, old = column(), settings.LEADEXEC["ENCRYPTION_KEYS"]
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [new_key(), *old]}
    loaded = LeadExecConnection.objects.get()
    loaded.store(update_fields={"refresh_token"})
    assert column() == before
    loaded.refresh_token = SECRET
    loaded.store(update_fields={"refresh_token"})
    assert crypto.is_current(column())


# Looking up

LOOKUPS: list[Any] = [
    {"refresh_token": SECRET},
    {"refresh_token": ""},
    {"refresh_token": None},
    {"refresh_token": SECRET},
    {"refresh_token__exact": SECRET},
    {"refresh_token__iexact": SECRET},
    {"refresh_token__in": [SECRET]},
    {"refresh_token__startswith": "plain"},
    {"refresh_token__contains": "plain"},
    {"refresh_token__regex": "plain"},
    {"refresh_token__isnull": True},
    {"refresh_token__gt": ""},
    {"refresh_token__lower": SECRET},
    {"refresh_token": F("access_token")},
]


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_rows_can_not_be_found_by_a_token(lookup: dict[str, Any]) -> None:
    objects: Any = LeadExecConnection.objects
    with pytest.raises(FieldError, match="fingerprint"):
        objects.filter(**lookup)
    with pytest.raises(FieldError, match="fingerprint"):
        objects.exclude(**lookup)
    with pytest.raises(FieldError, match="fingerprint"):
        objects.get(Q(**lookup) | Q(pk=1))
    with pytest.raises(FieldError, match="fingerprint"):
        make_user().leadexec_connections.filter(**lookup)


def test_rows_can_not_be_found_by_a_token_across_a_relation_or_under_another_name() -> None:
    with pytest.raises(FieldError, match="fingerprint"):
        type(make_user()).objects.filter(leadexec_connections__refresh_token=SECRET)
    with pytest.raises(FieldError, match="fingerprint"):
        LeadExecConnection.objects.annotate(alias=F("refresh_token")).filter(alias=SECRET)
    with pytest.raises(FieldError, match="fingerprint"):
        LeadExecConnection.objects.get_or_create(refresh_token=SECRET)


def test_rows_can_not_be_found_by_what_a_site_derives_from_text() -> None:
    objects: Any = LeadExecConnection.objects
    with (
        register_lookup(models.TextField, Length),
        pytest.raises(FieldError, match="fingerprint"),
    ):
        objects.filter(refresh_token__length=1)


def test_the_error_shows_no_token() -> None:
    with pytest.raises(FieldError) as caught:
        LeadExecConnection.objects.filter(refresh_token=SECRET)
    assert SECRET not in str(caught.value)
    assert "refresh_token" in str(caught.value)


def test_what_the_error_recommends_finds_the_row(row: LeadExecConnection) -> None:
    found = LeadExecConnection.objects.filter(fingerprint__in=crypto.fingerprints(SECRET))
    assert found.get() == row


def test_the_length_of_a_ciphertext_can_be_asked_for(row: LeadExecConnection) -> None:
    [length] = LeadExecConnection.objects.values_list(Length("refresh_token"), flat=True)
    assert length == len(column())


# Serializing


@pytest.fixture(params=["json", "jsonl", "xml", "python"])
def dumped(request: pytest.FixtureRequest, row: LeadExecConnection) -> tuple[str, Any]:
    return request.param, serializers.serialize(request.param, LeadExecConnection.objects.all())


def test_serializers_carry_ciphertext(dumped: tuple[str, Any]) -> None:
    _, data = dumped
    assert column() in str(data)
    assert SECRET not in str(data)


def test_what_was_serialized_can_be_restored(dumped: tuple[str, Any]) -> None:
    form, data = dumped
    before = column()
    LeadExecConnection.objects.all()._raw_delete("default")
    for item in serializers.deserialize(form, data):
        item.save()
    assert column() == before
    assert plain(LeadExecConnection.objects.get().refresh_token) == SECRET


def test_serializing_and_restoring_needs_no_key(
    row: LeadExecConnection, settings: Settings
) -> None:
    before = column()
    spoil(settings)
    data = serializers.serialize("json", LeadExecConnection.objects.all())
    for item in serializers.deserialize("json", data):
        item.save()
    assert column() == before


def test_a_fixture_makes_the_round_trip(row: LeadExecConnection, tmp_path: Path) -> None:
    LeadExecConnection.objects.all().move_to_outbox()
    make_connection("second", user=row.user)
    printed = StringIO()
    call_command("dumpdata", "django_leadexec", stdout=printed)
    assert SECRET not in printed.getvalue()
    names = {name for item in json.loads(printed.getvalue()) for name in item["fields"]}
    assert "refresh_token" in names
    fixture = tmp_path / "rows.json"
    fixture.write_text(printed.getvalue())
    PendingRevocation.objects.all().delete()
    LeadExecConnection.objects.all()._raw_delete("default")
    call_command("loaddata", str(fixture), verbosity=0)
    assert plain(PendingRevocation.objects.get().refresh_token) == SECRET
    restored = LeadExecConnection.objects.active().get()
    assert plain(restored.refresh_token) == "second"
    assert plain(restored.access_token) == "stored-access-for-second"


# Migrations


def test_the_field_is_deconstructed_without_secrets_or_extras() -> None:
    field = LeadExecConnection._meta.get_field("refresh_token")
    name, path, arguments, options = field.deconstruct()
    assert (name, path) == ("refresh_token", "django_leadexec.fields.EncryptedTextField")
    assert (arguments, options) == ([], {"editable": False})


def test_models_in_migrations_encrypt_too(row: LeadExecConnection) -> None:
    from django.db.migrations.executor import MigrationExecutor

    state = MigrationExecutor(connection).loader.project_state()
    historical: Any = state.apps.get_model("django_leadexec", "LeadExecConnection")
    assert plain(historical.objects.get().refresh_token) == SECRET
    past = historical.objects.get()
    past.refresh_token = "by-a-migration"
    past.save()
    assert decrypted(column()) == "by-a-migration"
