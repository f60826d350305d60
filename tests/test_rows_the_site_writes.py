"""Rows that somebody else than the package makes, changes, moves or deletes.

A data migration, a script, an inline in an admin, a tool that merges users: each write is either
right or an error that says so.
"""

import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import pytest
from cryptography.fernet import Fernet
from django.contrib.auth import get_user_model
from django.core import serializers
from django.core.exceptions import FieldError
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, connection, models, transaction
from django.db.migrations.executor import MigrationExecutor
from django.forms import inlineformset_factory
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from django_leadexec import crypto, rotation
from django_leadexec.exceptions import UnstorableAccount
from django_leadexec.linking import link, store
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh import Options, Refresher

from . import provider as stand_in
from .factories import make_connection, make_user, plain
from .provider import Provider, unavailable
from .visitor import LOGIN, assert_error, post

pytestmark = pytest.mark.django_db(transaction=True)

rows: Any = LeadExecConnection.objects


def authorize(user: Any, token: str, account_id: str = "") -> LeadExecConnection:
    return store(
        "default",
        lambda: link(
            user,
            "test-app",
            token,
            "access",
            timezone.now().timestamp() + 3600,
            account_id=account_id,
            using="default",
        ),
    )


def create(user: Any, token: str) -> None:
    rows.create(user=user, refresh_token=token)


def bulk_create(user: Any, token: str) -> None:
    rows.bulk_create([LeadExecConnection(user=user, refresh_token=token)])


def update_or_create(user: Any, token: str) -> None:
    rows.update_or_create(user=user, defaults={"refresh_token": token})


def save(user: Any, token: str) -> None:
    row = LeadExecConnection(user=user)
    row.refresh_token = token
    row.save()


def through_the_user(user: Any, token: str) -> None:
    user.leadexec_connections.create(refresh_token=token, app_id="test-app")


@pytest.mark.parametrize("make", [create, bulk_create, update_or_create, save, through_the_user])
def test_a_row_that_a_site_makes_is_refreshed_found_and_rotated(
    provider: Provider, make: Any
) -> None:
    make(make_user(), "t")
    row = rows.holding("t").get()
    assert row.app_id == "test-app"
    assert row.identity == crypto.identity("test-app", "user", str(row.user_id))
    assert Refresher(Options.for_all("default")).run().refreshed == 1
    assert rows.get().get_access_token() == "access-1-for-t"
    assert [tally.current for tally in rotation.rotate_keys("default")][-1] == 1


@pytest.mark.parametrize("make", [create, bulk_create, save, through_the_user])
def test_a_row_without_a_token_is_refused(make: Any) -> None:
    with pytest.raises(FieldError, match="refresh_token"):
        make(make_user(), "")
    assert not rows.exists()


def test_revoking_rows_that_a_site_made_sends_each_token_once(provider: Provider) -> None:
    for number in range(3):
        create(make_user(), f"t{number}")
    for row in rows.all():
        assert row.revoke() is True
    assert provider.revoked == {"t0", "t1", "t2"}
    assert not PendingRevocation.objects.exists()


def historical(name: str) -> Any:
    state = MigrationExecutor(connection).loader.project_state()
    return state.apps.get_model("django_leadexec", name)


def test_a_data_migration_that_makes_an_incomplete_row_fails() -> None:
    user_model = historical_user()
    user = user_model.objects.create(username="of a migration")
    model = historical("LeadExecConnection")
    for make in (
        lambda: model.objects.create(user_id=user.pk, refresh_token="t", app_id="test-app"),
        lambda: model.objects.bulk_create(
            [model(user_id=user.pk, refresh_token="t", app_id="test-app", fingerprint="")]
        ),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            make()
    assert not rows.exists()


def historical_user() -> Any:
    return type(make_user())


def test_an_outbox_entry_without_a_fingerprint_is_refused() -> None:
    now = timezone.now()
    with pytest.raises(IntegrityError), transaction.atomic():
        PendingRevocation.objects.create(
            connection_key=1,
            app_id="a",
            refresh_token="t",
            fingerprint="",
            requested_at=now,
            retry_after=now,
        )


@pytest.mark.parametrize(
    "change",
    [
        {"status": "revoked"},
        {"status": "active"},
        {"refresh_token": "another"},
        {"access_token": "another"},
        {"fingerprint": "f"},
        {"identity": None},
        {"version": 9},
        {"app_id": "another"},
        {"lease_until": 0},
    ],
)
def test_a_change_that_only_the_package_may_make_is_refused_and_named(
    change: dict[str, Any],
) -> None:
    make_connection("t", status="rejected")
    [name] = change
    before = rows.values().get()
    row = rows.get()
    setattr(row, name, change[name])
    changed = getattr(row, name) != before[name]
    if changed:
        with pytest.raises(FieldError, match=name):
            row.save()
    with pytest.raises(FieldError, match=name):
        row.save(update_fields=[name])
    with pytest.raises(FieldError, match=name):
        rows.update(**change)
    with pytest.raises(FieldError, match=name):
        rows.bulk_update([row], [name])
    assert rows.values().get() == before


def test_a_change_that_save_would_lose_is_refused_and_can_be_named() -> None:
    make_connection("t")
    row = rows.get()
    row.last_error = "looked at by hand"
    with pytest.raises(FieldError, match="last_error"):
        row.save()
    row.save(update_fields=["last_error"])
    assert rows.get().last_error == "looked at by hand"
    row.save()


def test_a_row_made_again_with_the_key_of_a_stored_one_does_not_replace_it() -> None:
    row = make_connection("t")
    copy = LeadExecConnection(
        pk=row.pk, user=row.user, refresh_token="t", created_at=row.created_at
    )
    rows.filter(pk=row.pk).move_to_outbox()
    with pytest.raises(FieldError, match=f"{row.pk} is stored already"):
        copy.save()
    assert rows.get().status == "revoked"


def test_a_row_made_again_with_a_key_of_its_own_is_stored() -> None:
    LeadExecConnection(pk=17, user=make_user(), refresh_token="t").save()
    assert plain(rows.get(pk=17).refresh_token) == "t"


def put_back_by_create(row: LeadExecConnection) -> None:
    rows.create(user=make_user(), refresh_token="t")


def put_back_by_fixture(row: LeadExecConnection) -> None:
    row.user.save(force_insert=True)
    [restored] = serializers.deserialize("json", serializers.serialize("json", [row]))
    restored.save()


def put_back_behind_the_orm(row: LeadExecConnection) -> None:
    row.user.save(force_insert=True)
    LeadExecConnection._base_manager._insert(  # type: ignore[attr-defined]
        [row], [field for field in row._meta.concrete_fields if field.name != "id"], using="default"
    )


@pytest.mark.parametrize(
    "put_back", [put_back_by_create, put_back_by_fixture, put_back_behind_the_orm]
)
def test_a_deleted_row_that_is_put_back_ends_with_the_revocation_of_its_token(
    provider: Provider, put_back: Any
) -> None:
    provider.answers["disconnect t"] = unavailable
    row = rows.get(pk=make_connection("t").pk)
    type(row.user).objects.filter(pk=row.user_id).delete()
    put_back(row)
    assert rows.get().status == "active"
    del provider.answers["disconnect t"]
    PendingRevocation.objects.update(retry_after=timezone.now())
    Refresher(Options.for_all("default")).run()
    assert provider.revoked == {"t"}
    assert rows.get().status == "revoked"
    Refresher(Options.for_all("default")).run()
    assert not PendingRevocation.objects.exists()


def test_an_unchanged_row_can_be_saved_however_it_was_loaded(provider: Provider) -> None:
    made = make_connection("t", expires_in=-1)
    for row in (made, rows.get(), rows.only("pk").get(), rows.defer("refresh_token").get()):
        row.save()
    stale = rows.get()
    rows.get().get_access_token()
    stale.save()
    assert rows.get().version == 3
    stale.refresh_from_db()
    stale.save()
    stale.revoke()
    stale.save()
    assert rows.get().status == "revoked"


def test_a_row_that_was_loaded_without_its_user_writes_nothing(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    # Reading the user now, and writing it, could undo what somebody else has just assigned.
    make_connection("t")
    row = LeadExecConnection.objects.only("status").get()
    with django_assert_num_queries(0):
        row.save()


@pytest.mark.parametrize("change", [{"status": "revoked"}, {"last_error": "mine"}])
def test_a_change_of_a_column_that_was_not_loaded_is_refused_and_named(
    change: dict[str, Any],
) -> None:
    make_connection("t")
    row = rows.only("user").get()
    [(name, value)] = change.items()
    setattr(row, name, value)
    with pytest.raises(FieldError, match=name):
        row.save()
    assert getattr(rows.get(), name) != value


def test_a_row_that_was_made_in_bulk_can_be_moved() -> None:
    first, second = make_user(), make_user()
    [row] = rows.bulk_create([LeadExecConnection(user=first, refresh_token="t")])
    row.user = second
    row.save()
    assert rows.get().user == second


@pytest.mark.skipif(django.VERSION < (6, 1), reason="Django 6.1 has fetch modes")
def test_a_row_can_be_saved_that_got_a_column_together_with_others() -> None:
    make_connection("a"), make_connection("b")
    from django.db.models import FETCH_PEERS

    one, other = rows.defer("last_error").fetch_mode(FETCH_PEERS)
    assert one.last_error == ""
    for row in (one, other):
        row.save()
    other.last_error = "mine"
    with pytest.raises(FieldError, match="last_error"):
        other.save()


def test_a_revoked_row_with_a_token_is_refused() -> None:
    for tokens in ({"refresh_token": "t"}, {"access_token": "t"}):
        row: Any = LeadExecConnection(user=make_user(), status="revoked", **tokens)
        with pytest.raises(FieldError, match="holds no tokens"):
            row.save()
        with pytest.raises(FieldError, match="holds no tokens"):
            rows.bulk_create([row])
        model = historical("LeadExecConnection")
        with pytest.raises(IntegrityError), transaction.atomic():
            model.objects.create(user_id=row.user_id, status="revoked", app_id="a", **tokens)
    assert not rows.exists()


def test_a_revoked_row_without_tokens_is_stored_with_its_time() -> None:
    row = rows.create(user=make_user(), status="revoked")
    assert rows.get().revoked_at == row.revoked_at is not None


class TestAnOutboxEntry:
    @pytest.fixture
    def entry(self, provider: Provider) -> PendingRevocation:
        make_connection("t")
        LeadExecConnection.objects.all().move_to_outbox()
        return PendingRevocation.objects.get()

    @pytest.mark.parametrize("name", ["refresh_token", "fingerprint", "app_id", "batch"])
    def test_a_change_that_only_the_package_may_make_is_refused(
        self, entry: PendingRevocation, name: str
    ) -> None:
        setattr(entry, name, "another")
        for update_fields in (None, [name]):
            with pytest.raises(FieldError, match=name):
                entry.save(update_fields=update_fields)

    def test_saving_an_old_copy_does_not_undo_a_rotation_of_keys(
        self, entry: PendingRevocation, settings: Settings
    ) -> None:
        new = Fernet.generate_key().decode()
        keys = settings.LEADEXEC["ENCRYPTION_KEYS"]
        settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [new, *keys]}
        assert list(rotation.rotate_keys("default"))
        entry.last_error = "our own note"
        entry.save()
        settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [new]}
        stored = PendingRevocation.objects.get()
        assert (plain(stored.refresh_token), stored.last_error) == ("t", "our own note")

    def test_saving_an_old_copy_does_not_bring_a_confirmed_entry_back(
        self, entry: PendingRevocation
    ) -> None:
        copy = PendingRevocation.objects.get()
        assert Refresher(Options.for_all("default")).run().revoked == 1
        with pytest.raises(DatabaseError):
            copy.save()
        assert not PendingRevocation.objects.exists()

    def test_its_schedule_may_be_changed(self, entry: PendingRevocation) -> None:
        entry.retry_after = timezone.now() + timedelta(days=1)
        entry.save()
        assert PendingRevocation.objects.get().retry_after == entry.retry_after


def test_a_form_of_a_row_offers_nothing_to_change() -> None:
    user = make_user()
    make_connection("t", user=user)
    formset = inlineformset_factory(type(user), LeadExecConnection, fields="__all__")(instance=user)
    names = {name for form in formset.forms for name in form.fields}
    assert names <= {"id", "user", "DELETE"}


# Rows that change hands


def move_by_save(row: LeadExecConnection, user: Any) -> None:
    row.user = user
    row.save()


def move_by_update(row: LeadExecConnection, user: Any) -> None:
    rows.filter(pk=row.pk).update(user=user)


def move_behind_the_orm(row: LeadExecConnection, user: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_leadexec_leadexecconnection SET user_id = %s WHERE id = %s",
            [user.pk, row.pk],
        )


MOVES = [move_by_save, move_by_update, move_behind_the_orm]


@pytest.mark.parametrize("move", MOVES)
def test_who_gave_a_row_away_can_connect_again(move: Any) -> None:
    first, second = make_user(), make_user()
    move(make_connection("t", user=first), second)
    row = authorize(first, "new")
    assert row.user == first
    assert plain(second.leadexec_connections.get().refresh_token) == "t"


@pytest.mark.parametrize("move", MOVES)
def test_who_got_a_row_has_one_after_connecting_again(move: Any) -> None:
    first, second = make_user(), make_user()
    given = make_connection("t", user=first)
    move(given, second)
    assert authorize(second, "newer") == given
    assert authorize(first, "of the first") != given
    held = {plain(row.refresh_token): row.user for row in rows.live()}
    assert held == {"newer": second, "of the first": first}


@pytest.mark.parametrize("move", MOVES)
def test_who_got_a_row_may_connect_again_with_its_own_token(move: Any) -> None:
    first, second = make_user(), make_user()
    given = make_connection("t", user=first)
    move(given, second)
    assert authorize(second, "t") == given
    assert authorize(first, "of the first") != given
    assert rows.live().count() == 2


@pytest.mark.parametrize("move", MOVES)
def test_a_row_of_a_known_account_is_no_row_of_the_user_alone(move: Any) -> None:
    first, second = make_user(), make_user()
    given = make_connection("t", user=first, account_id="acme")
    move(given, second)
    assert authorize(second, "unknown account") != given


@pytest.mark.parametrize("move", MOVES)
def test_who_got_a_row_beside_their_own_replaces_their_own(move: Any) -> None:
    first, second = make_user(), make_user()
    given = make_connection("given", user=first)
    make_connection("own", user=second)
    move(given, second)
    authorize(second, "newer")
    authorize(first, "of the first")
    held = {plain(row.refresh_token): row.user for row in rows.live()}
    assert held == {"given": second, "newer": second, "of the first": first}


@pytest.mark.parametrize("move", MOVES)
def test_an_account_goes_with_its_row(move: Any) -> None:
    from django_leadexec.exceptions import ConnectionConflict

    first, second = make_user(), make_user()
    move(make_connection("t", user=first, account_id="acme"), second)
    with pytest.raises(ConnectionConflict):
        authorize(first, "another", account_id="acme")
    assert authorize(second, "another", account_id="acme").user == second


# Deletions


class ProxyOfAConnection(LeadExecConnection):
    class Meta:
        proxy = True
        app_label = "tests"


DELETIONS: dict[str, Any] = {
    "a query set": lambda: rows.all().delete(),
    "an instance": lambda: rows.get().delete(),
    "the base manager": lambda: LeadExecConnection._base_manager.all().delete(),
    "a proxy's query set": lambda: ProxyOfAConnection.objects.all().delete(),
    "a proxy's instance": lambda: ProxyOfAConnection.objects.get().delete(),
    "a proxy's base manager": lambda: ProxyOfAConnection._base_manager.all().delete(),
    "a plain query set": lambda: models.QuerySet(LeadExecConnection).delete(),
    "a plain query set of a proxy": lambda: models.QuerySet(ProxyOfAConnection).delete(),
    "the user": lambda: rows.get().user.delete(),
    "all users": lambda: type(make_user())._base_manager.all().delete(),
}


@pytest.mark.parametrize("what", DELETIONS)
def test_every_deletion_that_django_sees_moves_the_token_to_the_outbox(what: str) -> None:
    make_connection("t")
    DELETIONS[what]()
    assert not rows.exists()
    assert plain(PendingRevocation.objects.get().refresh_token) == "t"


def test_watching_deletions_leaves_the_sites_own_models_fast_to_delete() -> None:
    from django.contrib.auth.models import Group
    from django.db.models.signals import pre_delete

    assert not pre_delete.has_listeners(Group)


# What the provider says


@pytest.mark.parametrize("words", ["größe ✓", "\x00\x01", "日本語" * 200, "🙂" * 300, "a" * 1000])
def test_nothing_that_the_provider_says_makes_a_write_fail(words: str) -> None:
    row = make_connection("t")
    row.record_refusal(words)
    row.store(update_fields=["last_error"])
    row.record_failure(words)
    row.store(update_fields=["last_error"])
    stored = rows.get().last_error
    assert stored.isascii()
    assert stored.isprintable()
    assert len(stored) <= 255


# A MySQL table of another character set

WORDS = "größe ✓ 日本語 🙂"


@pytest.fixture(params=["latin1", "utf8mb3"])
def old_charset(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Gives a text column of a model an older character set, until the test is over."""
    changed: list[tuple[type[models.Model], str, int]] = []

    def change(model: type[models.Model], name: str, length: int, charset: str) -> None:
        column = f"{name} VARCHAR({length}) CHARACTER SET {charset} NOT NULL"
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {model._meta.db_table} MODIFY {column}")

    def age(model: type[models.Model], name: str, length: int = 255) -> None:
        changed.append((model, name, length))
        change(model, name, length, request.param)

    yield age
    for model, name, length in changed:
        model._base_manager.all().delete()
        change(model, name, length, "utf8mb4")


@pytest.mark.mysql
class TestOldCharacterSets:
    def test_every_refusal_is_stored(
        self, provider: Provider, old_charset: Callable[..., None]
    ) -> None:
        old_charset(LeadExecConnection, "last_error")
        old_charset(PendingRevocation, "last_error")
        provider.default = lambda provider, token: stand_in.http(
            {"valid": False, "refreshToken": token, "errorMessage": WORDS}
        )
        make_connection("t", expires_in=-1)
        report = Refresher(Options.for_all("default", everything=True)).run()
        assert report.rejected == 1
        assert rows.get().last_error.startswith("Refused: ")
        rows.all().delete()
        (claim,) = PendingRevocation.objects.order_by("pk").claim(1, 60)
        claim.row.record_failure(WORDS)
        assert PendingRevocation.objects.all().write_claimed(claim, confirmed=False)
        assert PendingRevocation.objects.get().last_error.startswith("Not revoked: ")

    def test_an_account_that_it_lacks_is_explained_to_who_adopts(
        self, old_charset: Callable[..., None]
    ) -> None:
        old_charset(LeadExecConnection, "account_id")
        user = make_user()
        with pytest.raises(UnstorableAccount, match="character set"):
            rows.adopt(user, "t", verify=False, account_id=WORDS)
        with transaction.atomic():
            with pytest.raises(UnstorableAccount):
                rows.adopt(user, "t", verify=False, account_id=WORDS)
            rows.adopt(user, "t", verify=False, account_id="größe")
        assert rows.get().account_id == "größe"

    def test_an_account_that_it_lacks_is_explained_at_the_callback(
        self,
        provider: Provider,
        configure: Callable[..., None],
        client: Client,
        old_charset: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        configure(IDENTIFY="tests.site.answer_in_polish")
        old_charset(LeadExecConnection, "account_id")
        client.force_login(make_user(), backend=LOGIN)
        assert_error(post(client, "t"), 502, "unavailable")
        assert "character set" in caplog.text
        assert "Łódź" not in caplog.text

    def test_an_account_that_it_lacks_costs_an_import_no_other_row(
        self, provider: Provider, tmp_path: Path, old_charset: Callable[..., None]
    ) -> None:
        old_charset(LeadExecConnection, "account_id")
        make_user("ada"), make_user("eve")
        said = self.import_rows(tmp_path, f"ada,one,{WORDS}", "eve,two,acme")
        assert "Line 2: the database can not hold its account" in said
        assert plain(rows.get().refresh_token) == "two"

    def test_a_user_whom_it_can_not_hold_is_not_found(
        self, provider: Provider, tmp_path: Path, old_charset: Callable[..., None]
    ) -> None:
        old_charset(get_user_model(), "username", 150)
        make_user("eve")
        said = self.import_rows(tmp_path, f"{WORDS},one,", "eve,two,")
        assert "Line 2: no users have its username" in said
        assert plain(rows.get().refresh_token) == "two"

    def import_rows(self, folder: Path, *lines: str) -> str:
        path, err = folder / "tokens", io.StringIO()
        path.write_text("\n".join(["user,token,account", *lines, ""]), "utf-8")
        with pytest.raises(CommandError) as caught:
            call_command("import_leadexec_tokens", str(path), stdout=io.StringIO(), stderr=err)
        assert caught.value.returncode == 1
        return err.getvalue()


def test_an_account_that_is_too_long_for_its_column_is_explained() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite's columns have no length")
    with pytest.raises(UnstorableAccount):
        rows.adopt(make_user(), "t", verify=False, account_id="a" * 256)
    assert not rows.exists()
