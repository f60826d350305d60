"""The admin, as staff with and without permissions meet it."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django import forms
from django.contrib import admin
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.messages import get_messages
from django.core import checks
from django.core.exceptions import FieldError
from django.db import connection as database
from django.db import models, transaction
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from django_leadexec.admin import LeadExecConnectionAdmin, PendingRevocationAdmin
from django_leadexec.admin.base import ActionAdmin
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.refresh import Refresher, Report, chosen

from . import provider as stand_in
from .concurrency.threads import join
from .factories import make_connection, make_due_connections, make_user, plain
from .provider import Provider

LIST = "/admin/django_leadexec/leadexecconnection/"
OUTBOX = "/admin/django_leadexec/pendingrevocation/"
REVOKE, REFRESH, DELETE = "revoke_selected", "refresh_selected", "delete_selected"
TRY, LET_GO = "try_now", "let_go"

# The provider is called after a commit, so there must be one.
pytestmark = pytest.mark.django_db(transaction=True)


def client_of(user: Any) -> Client:
    client = Client()
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    return client


def staff_with(*codenames: str) -> Client:
    user = make_user(is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    assert user.user_permissions.count() == len(codenames)
    return client_of(user)


@pytest.fixture
def root() -> Client:
    return client_of(get_user_model().objects.create_superuser("root"))


def page(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200, response
    return response.content.decode()


def rows_in(html: str) -> int:
    return html.count('class="action-select"')


def post_action(
    client: Client,
    action: str,
    rows: Iterable[LeadExecConnection | PendingRevocation] = (),
    *,
    url: str = LIST,
    across: bool = False,
    confirmed: bool = True,
) -> Any:
    """What the list's form posts, or what the confirmation page does."""
    return client.post(
        url,
        {
            "action": action,
            "select_across": "1" if across else "0",
            ACTION_CHECKBOX_NAME: [row.pk for row in rows] or ["0"],
            **({"post": "yes"} if confirmed else {"index": "0"}),
        },
    )


def hidden_fields(response: Any) -> dict[str, list[str]]:
    html = response.content.decode()
    fields: dict[str, list[str]] = {}
    for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', html):
        fields.setdefault(name, []).append(unescape(value))
    return fields


def messages_of(response: Any) -> list[str]:
    assert response.status_code == 302, response.content.decode()[:2000]
    return [str(message) for message in get_messages(response.wsgi_request)]


def statuses() -> list[str]:
    return list(LeadExecConnection.objects.order_by("pk").values_list("status", flat=True))


def make_states() -> dict[str, LeadExecConnection]:
    """A connection in each state, and an outbox entry that waits and one that is overdue."""
    rows = {
        "active": make_connection("token-active", account_id="acct-1"),
        "rejected": make_connection("token-rejected", status="rejected", last_error="Refused: not"),
        "revoked": make_connection("token-revoked"),
        "old": make_connection("token-old"),
    }
    for name in ("revoked", "old"):
        LeadExecConnection.objects.filter(pk=rows[name].pk).move_to_outbox()
    PendingRevocation.objects.filter(fingerprint=rows["old"].fingerprint).update(
        requested_at=timezone.now() - timedelta(days=31),
        attempts=40,
        last_error="Not revoked: no answer",
    )
    return rows


# What is shown


def test_the_list_shows_user_account_status_times_and_error(root: Client) -> None:
    row = make_connection(
        "t", user=make_user("alice"), account_id="acct-7", last_error="Refused: not valid"
    )
    html = page(root, LIST)
    for text in ("alice", "acct-7", "active", "Refused: not valid"):
        assert text in html
    for column in LeadExecConnectionAdmin.list_display:
        assert f"column-{column}" in html
    html = page(root, f"{LIST}{row.pk}/change/")
    assert "acct-7" in html
    assert "test-app" in html


def test_the_list_shows_the_beginning_of_an_error_and_the_page_all_of_it(root: Client) -> None:
    error = "Refused: <b>" + "x" * 200 + " end"
    row = make_connection("t", last_error=error)
    for html, is_whole in (
        (page(root, LIST), False),
        (page(root, f"{LIST}{row.pk}/change/"), True),
    ):
        assert "Refused: &lt;b&gt;xxx" in html
        assert ("xxx end" in html) is is_whole


def test_connections_are_neither_added_nor_edited(root: Client) -> None:
    row = make_connection("t")
    url = f"{LIST}{row.pk}/change/"
    assert root.get(f"{LIST}add/").status_code == 403
    assert root.post(f"{LIST}add/", {"account_id": "x"}).status_code == 403
    assert root.post(url, {"account_id": "x", "status": "revoked"}).status_code == 403
    row.refresh_from_db()
    assert (row.account_id, row.status) == ("", "active")
    html = page(root, url)
    assert 'name="_save"' not in html
    assert 'name="account_id"' not in html


def test_a_subclass_that_allows_changes_still_offers_no_field_to_edit(root: Client) -> None:
    class Editable(LeadExecConnectionAdmin):
        def has_change_permission(self, request: Any, obj: Any = None) -> bool:
            return True

    request = RequestFactory().get("/")
    request.user = make_user(is_staff=True)
    form = Editable(LeadExecConnection, admin.site).get_form(request, make_connection("t"))
    assert not form.base_fields


def test_entries_of_the_outbox_are_neither_added_nor_edited_nor_simply_deleted(
    root: Client,
) -> None:
    make_states()
    waiting = PendingRevocation.objects.get(attempts=0)
    html = page(root, OUTBOX)
    for text in ("test-app", "Not revoked: no answer", "overdue", "40"):
        assert text in html
    assert f'value="{DELETE}"' not in html
    html = page(root, f"{OUTBOX}{waiting.pk}/change/")
    assert "test-app" in html
    assert 'name="_save"' not in html
    assert 'name="app_id"' not in html
    for url in (f"{OUTBOX}add/", f"{OUTBOX}{waiting.pk}/delete/"):
        assert root.get(url).status_code == 403
        assert root.post(url, {"post": "yes"}).status_code == 403
    assert root.post(f"{OUTBOX}{waiting.pk}/change/", {"app_id": "x"}).status_code == 403
    post_action(root, DELETE, [waiting], url=OUTBOX)
    assert PendingRevocation.objects.count() == 2


def test_the_outbox_can_be_filtered_by_what_is_overdue(root: Client) -> None:
    make_states()
    for choice, is_overdue in (("yes", True), ("no", False)):
        html = page(root, f"{OUTBOX}?overdue={choice}")
        assert "1 pending revocation" in html
        assert ("Not revoked: no answer" in html) is is_overdue
        assert ('field-state">overdue<' in html) is is_overdue
        assert ('field-state">waiting<' in html) is not is_overdue


def test_no_page_and_no_log_entry_shows_a_secret(root: Client, provider: Provider) -> None:
    rows = make_states()
    secrets = {"stored-access-for", "token-active", "token-rejected", "token-revoked", "token-old"}
    for row in [*rows.values(), *LeadExecConnection.objects.all()]:
        secrets |= {row.refresh_token, row.access_token}
        secrets |= {row.fingerprint or "", row.identity or ""}
    for entry in PendingRevocation.objects.all():
        secrets |= {entry.refresh_token, entry.fingerprint}
    secrets |= {"lease", "fingerprint", "gAAAA"}
    secrets.discard("")
    LeadExecConnection.objects.filter(status="active").claim(1, 60)
    active, entry = rows["active"], PendingRevocation.objects.all()[0]
    stopped = post_action(root, REVOKE, [rows["rejected"]])
    pages = {
        "list": page(root, LIST),
        "search": page(root, f"{LIST}?q=token-active"),
        **{name: page(root, f"{LIST}{row.pk}/change/") for name, row in rows.items()},
        "delete": page(root, f"{LIST}{active.pk}/delete/"),
        "history": page(root, f"{LIST}{rows['rejected'].pk}/history/"),
        "outbox": page(root, OUTBOX),
        "entry": page(root, f"{OUTBOX}{entry.pk}/change/"),
        "index": page(root, "/admin/"),
        "user": page(root, f"/admin/auth/user/{active.user_id}/delete/"),
        "messages": " ".join(messages_of(stopped)),
    }
    for action in (REVOKE, DELETE):
        asked = post_action(root, action, rows.values(), confirmed=False)
        assert asked.status_code == 200
        pages[action] = asked.content.decode()
    post_action(root, DELETE, rows.values())
    pages["log"] = repr(list(LogEntry.objects.values()))
    assert LogEntry.objects.count() == 5
    for name, text in pages.items():
        # The search box repeats what was searched for.
        shown = text.replace('value="token-active"', "").replace("q=token-active", "")
        assert not [secret for secret in secrets if secret in shown], name


@pytest.mark.parametrize(
    "lookup",
    [
        "fingerprint__startswith=a",
        "identity__startswith=a",
        "refresh_token__startswith=a",
        "access_token__isnull=0",
        "lease_id=x",
        "version__gt=1",
        "user__password__startswith=p",
    ],
)
def test_hidden_columns_can_not_be_guessed_through_the_address(root: Client, lookup: str) -> None:
    make_connection("t")
    for url in (LIST, OUTBOX):
        response = root.get(f"{url}?{lookup}")
        # 400, or, where there is no such column at all, back to the whole list.
        assert response.status_code == 400 or response.headers["Location"] == f"{url}?e=1"
    assert root.get(f"{LIST}?{lookup}").status_code == 400


def test_shown_columns_can_be_filtered_by_address(root: Client) -> None:
    rows = [make_connection(), make_connection()]
    assert rows_in(page(root, f"{LIST}?user__id__exact={rows[0].user_id}")) == 1
    assert rows_in(page(root, f"{LIST}?app_id__exact=test-app")) == 2
    assert rows_in(page(root, f"{LIST}?pk__in={rows[0].pk}")) == 1


def test_searches_user_name_email_and_account_and_no_digest(root: Client) -> None:
    row = make_connection(user=make_user("alice", email="a@corp.example"), account_id="acct-7")
    make_connection(user=make_user("bob"))
    assert row.fingerprint
    for query in ("ALICE", "corp.example", "acct-7"):
        assert rows_in(page(root, f"{LIST}?q={query}")) == 1, query
    for query in (row.fingerprint[:8], str(row.identity)[:8], "gAAAA"):
        assert rows_in(page(root, f"{LIST}?q={query}")) == 0, query


@pytest.mark.parametrize(
    ("attributes", "fields"),
    [
        ({"USERNAME_FIELD": "email", "EMAIL_FIELD": "email"}, ["user__email"]),
        ({"USERNAME_FIELD": "username", "EMAIL_FIELD": "no_such"}, ["user__username"]),
        ({"USERNAME_FIELD": "groups", "EMAIL_FIELD": "email"}, ["user__email"]),
    ],
)
def test_searches_by_what_the_user_model_has(
    monkeypatch: pytest.MonkeyPatch, attributes: dict[str, str], fields: list[str]
) -> None:
    for name, value in attributes.items():
        monkeypatch.setattr(get_user_model(), name, value)
    model_admin = LeadExecConnectionAdmin(LeadExecConnection, admin.site)
    assert model_admin.get_search_fields(RequestFactory().get("/")) == ["account_id", *fields]


class NoSuchLookup(models.EmailField):  # type: ignore[type-arg]
    """As some packages of encrypted fields have it: a column without lookups."""

    def get_lookup(self, lookup_name: str) -> None:
        return None


class RefusedLookup(models.EmailField):  # type: ignore[type-arg]
    """As others have it: to ask for the lookup is an error."""

    def get_lookup(self, lookup_name: str) -> Any:
        raise TypeError(f"{lookup_name} does not work on encrypted columns")


class FailingLookup(models.lookups.IContains):
    def as_sql(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("encrypted columns can't be looked up")


class LookupThatFailsLate(models.EmailField):  # type: ignore[type-arg]
    """As still others have it: there is a lookup, which fails when the query is built."""

    def get_lookup(self, lookup_name: str) -> type[FailingLookup]:
        return FailingLookup


@pytest.mark.parametrize("kind", [NoSuchLookup, RefusedLookup, LookupThatFailsLate])
def test_an_encrypted_email_column_is_left_out_of_the_search(
    root: Client, monkeypatch: pytest.MonkeyPatch, kind: "type[models.Field[Any, Any]]"
) -> None:
    make_connection(user=make_user("alice", email="a@corp.example"), account_id="acct-7")
    monkeypatch.setattr(get_user_model()._meta.get_field("email"), "__class__", kind)
    for query, count in (("ALICE", 1), ("acct-7", 1), ("corp.example", 0)):
        assert rows_in(page(root, f"{LIST}?q={query}")) == count, query


def test_filters_by_status_trouble_and_last_refresh(root: Client) -> None:
    rows = make_states()
    LeadExecConnection.objects.filter(pk=rows["rejected"].pk).update(
        refreshed_at=timezone.now() - timedelta(days=40)
    )
    week = re.search(r'href="\?(refreshed_at[^"]+)"[^>]*>Past 7 days', page(root, LIST))
    assert week
    for query, count in (
        ("status__exact=active", 1),
        ("status__exact=revoked", 2),
        ("trouble=yes", 1),
        ("trouble=no", 3),
        (unescape(week[1]), 3),
    ):
        assert rows_in(page(root, f"{LIST}?{query}")) == count, query


@pytest.mark.usefixtures("utc")
def test_the_list_can_be_walked_by_date(root: Client) -> None:
    old = make_connection()
    LeadExecConnection.objects.filter(pk=old.pk).update(
        created_at=timezone.now() - timedelta(days=800)
    )
    make_connection()
    year = timezone.now().year
    assert f'href="?created_at__year={year}"' in page(root, LIST)
    assert rows_in(page(root, f"{LIST}?created_at__year={year}")) == 1


def test_a_database_that_knows_no_time_zones_gets_a_list_without_dates_to_walk_by(
    root: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_connection()
    settings.TIME_ZONE = "Asia/Kathmandu"
    monkeypatch.setattr(database.features, "has_zoneinfo_database", False)
    html = page(root, LIST)
    assert rows_in(html) == 1
    assert "created_at__" not in html


def test_the_admin_is_free_of_faults_that_django_checks_for() -> None:
    assert not checks.run_checks(tags=["admin"])


# The number of queries

LIST_QUERIES = {LIST: 6, f"{LIST}?q=user": 6, f"{LIST}?status__exact=active&trouble=no": 6}


@pytest.fixture
def utc(settings: Settings) -> None:
    """MariaDB shows the date hierarchy only then, unless its time zone tables are loaded."""
    settings.TIME_ZONE = "UTC"


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize("count", [2, 60])
def test_pages_take_the_same_number_of_queries_however_many_rows(
    root: Client, django_assert_num_queries: DjangoAssertNumQueries, count: int
) -> None:
    rows = make_due_connections(count)
    page(root, f"{LIST}{rows[0].pk}/change/")  # content types are read once a process
    for url, queries in LIST_QUERIES.items():
        with django_assert_num_queries(queries):
            assert rows_in(page(root, url)) == count
    with django_assert_num_queries(4):
        page(root, f"{LIST}{rows[0].pk}/change/")
    root_pk = get_user_model().objects.get(username="root").pk
    LogEntry.objects.log_actions(root_pk, rows[:1] * count, CHANGE, "Looked at.")
    with django_assert_num_queries(5):
        html = page(root, f"{LIST}{rows[0].pk}/history/")
    assert html.count("Looked at.") == count
    with django_assert_num_queries(6):
        assert post_action(root, REVOKE, rows, confirmed=False).status_code == 200
    with django_assert_num_queries(6):
        assert post_action(root, REVOKE, across=True, confirmed=False).status_code == 200
    LeadExecConnection.objects.all().move_to_outbox()
    with django_assert_num_queries(4):
        assert f"{count} pending revocations" in page(root, OUTBOX)


@pytest.mark.usefixtures("utc")
@pytest.mark.slow
def test_pages_take_the_same_number_of_queries_with_100_000_rows(
    root: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    make_due_connections(100)
    for row in LeadExecConnection.objects.all():
        digest = f"{DOUBLINGS}{row.pk}"
        LeadExecConnection.objects.filter(pk=row.pk).write(identity=digest, fingerprint=digest)
    _double_connections()
    page(root, LIST)
    for url, queries in {**LIST_QUERIES, f"{LIST}?p=2": 6, f"{LIST}?p=1024": 6}.items():
        with django_assert_num_queries(queries):
            html = page(root, url)
        assert "102400 LeadExec connections" in html
        assert rows_in(html) == 100
    with django_assert_num_queries(6):
        asked = post_action(root, REVOKE, url=f"{LIST}?q=user", across=True, confirmed=False)
    assert "102400" in asked.content.decode()
    assert len(asked.content) < 20_000


# A letter for each time that the rows are doubled.
DOUBLINGS = "klmnopqrst"


def _double_connections() -> None:
    """Copy all rows inside the database, which is far quicker than sending them.

    Each copy of a row has another set of letters left in its digests, which have to be unique.
    """
    quote = database.ops.quote_name
    fields = LeadExecConnection._meta.concrete_fields
    columns = [quote(str(field.column)) for field in fields if not field.primary_key]
    digests = (quote("identity"), quote("fingerprint"))
    table = quote(LeadExecConnection._meta.db_table)
    with database.cursor() as cursor:
        for letter in DOUBLINGS:
            values = [
                f"REPLACE({name}, '{letter}', '')" if name in digests else name for name in columns
            ]
            rows = f"SELECT {', '.join(values)} FROM {table}"  # noqa: S608
            cursor.execute(f"INSERT INTO {table} ({', '.join(columns)}) {rows}")


# Who may do what

PERMISSIONS = {
    REVOKE: "revoke_leadexecconnection",
    REFRESH: "change_leadexecconnection",
    DELETE: "delete_leadexecconnection",
}


@pytest.mark.parametrize("allowed", ["", *PERMISSIONS])
def test_each_action_takes_its_own_permission(provider: Provider, allowed: str) -> None:
    granted = [PERMISSIONS[allowed]] if allowed else []
    client = staff_with("view_leadexecconnection", *granted)
    row = make_connection("t")
    html = page(client, LIST)
    offered = {action for action in PERMISSIONS if f'value="{action}"' in html}
    assert offered == ({allowed} if allowed else set())
    for action in PERMISSIONS:
        for confirmed in (True, False):
            if action != allowed:
                post_action(client, action, [row], confirmed=confirmed)
                post_action(client, action, across=True, confirmed=confirmed)
    assert statuses() == ["active"]
    assert not provider.calls
    assert not LogEntry.objects.exists()
    assert client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == (
        302 if allowed == DELETE else 403
    )


def test_the_outbox_takes_its_own_permission_to_be_seen() -> None:
    make_states()
    assert staff_with("view_leadexecconnection").get(OUTBOX).status_code == 403
    assert "overdue" in page(staff_with("view_pendingrevocation"), OUTBOX)


def test_strangers_and_ordinary_users_only_get_the_login_page(provider: Provider) -> None:
    row = make_connection("t")
    for client in (Client(), client_of(row.user)):
        for action in PERMISSIONS:
            response = post_action(client, action, [row])
            assert response.headers["Location"].startswith("/admin/login/")
    assert statuses() == ["active"]
    assert not provider.calls


def test_a_get_changes_nothing(root: Client, provider: Provider) -> None:
    row = make_connection("t")
    for action in PERMISSIONS:
        for confirmed in ("post=yes", "index=0"):
            root.get(f"{LIST}?action={action}&{ACTION_CHECKBOX_NAME}={row.pk}&{confirmed}")
    root.get(f"{LIST}{row.pk}/delete/", {"post": "yes"})
    assert statuses() == ["active"]
    assert not provider.calls


def test_the_actions_are_protected_against_forged_requests(provider: Provider) -> None:
    row = make_connection("t")
    client = Client(enforce_csrf_checks=True)
    user = get_user_model().objects.create_superuser("root")
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    for action in PERMISSIONS:
        assert post_action(client, action, [row]).status_code == 403
    assert statuses() == ["active"]


def test_deleting_in_bulk_can_be_disabled_for_the_whole_site(root: Client) -> None:
    row = make_connection("t")
    admin.site.disable_action("delete_selected")
    try:
        assert f'value="{DELETE}"' not in page(root, LIST)
        post_action(root, DELETE, [row])
    finally:
        admin.site.add_action(delete_selected)
    assert statuses() == ["active"]


# Revoking


def test_revoking_asks_first(root: Client, provider: Provider) -> None:
    rows = make_due_connections(3)
    response = post_action(root, REVOKE, rows[:2], confirmed=False)
    html = response.content.decode()
    assert "2 connections will stop working" in html
    assert "token-user-1" in html
    assert "token-user-2" not in html
    assert hidden_fields(response)[ACTION_CHECKBOX_NAME] == [str(row.pk) for row in rows[:2]]
    assert not re.search(r"<script(?![^>]*src=)|<style|style=|onclick=", html)
    assert statuses() == ["active"] * 3
    assert not provider.calls


def crumbs(response: Any) -> str:
    """Without the classes that are for other themes than Django's own."""
    html = re.sub(r' breadcrumb"| class="breadcrumb-item( active)?"', "", response.content.decode())
    found = re.search(r'<(\w+) class="breadcrumbs"?>.*?</\1>', html, re.DOTALL)
    assert found
    return found[0].replace('class="breadcrumbs>', 'class="breadcrumbs">')


@pytest.mark.parametrize("action", [REVOKE, DELETE])
def test_the_page_that_asks_has_the_breadcrumbs_of_djangos_own(root: Client, action: str) -> None:
    response = post_action(root, action, [make_connection()], confirmed=False)
    fields = {"action": DELETE, ACTION_CHECKBOX_NAME: Group.objects.create(name="sales").pk}
    djangos = crumbs(root.post("/admin/auth/group/", fields))
    for theirs, ours in (
        ("/admin/auth/group/", LIST),
        ("/admin/auth/", "/admin/django_leadexec/"),
        ("Authentication and Authorization", "LeadExec"),
        ("Groups", "LeadExec connections"),
        ("Delete multiple objects", response.context["title"]),
    ):
        assert theirs in djangos
        djangos = djangos.replace(theirs, ours)
    assert crumbs(response) == djangos


def test_what_was_confirmed_is_revoked_logged_sent_and_counted_in_one_message(
    root: Client, provider: Provider
) -> None:
    rows = [make_connection(f"t{number}") for number in range(4)]
    LeadExecConnection.objects.filter(pk=rows[2].pk).move_to_outbox()
    PendingRevocation.objects.all().delete()
    provider.answers["disconnect t1"] = provider.answers["t1"] = stand_in.unavailable
    asked = post_action(root, REVOKE, rows[:3], confirmed=False)
    assert "1 connection of the selection is revoked already" in asked.content.decode()
    response = root.post(LIST, hidden_fields(asked))
    assert messages_of(response) == [
        (
            "LeadExec has confirmed 1 revocation. 1 revocation holds on this site and is queued: "
            "refresh_leadexec_tokens goes on sending it to LeadExec. "
            "1 connection was revoked already."
        )
    ]
    assert statuses() == ["revoked", "revoked", "revoked", "active"]
    assert provider.revoked == {"t0"}
    assert PendingRevocation.objects.get().fingerprint == rows[1].fingerprint
    entries = LogEntry.objects.order_by("object_id")
    assert [entry.object_id for entry in entries] == [str(rows[0].pk), str(rows[1].pk)]
    assert {entry.action_flag for entry in entries} == {CHANGE}
    assert "Revoked at LeadExec." in page(root, f"{LIST}{rows[0].pk}/history/")


def test_selecting_across_pages_carries_the_query_and_not_the_keys(
    root: Client, provider: Provider
) -> None:
    make_due_connections(30, "in")
    make_due_connections(3, "out")
    url = f"{LIST}?q=in-user&status__exact=active"
    asked = post_action(root, REVOKE, url=url, across=True, confirmed=False)
    html = asked.content.decode()
    assert "30 connections will stop working" in html
    assert "and 20 more" in html
    assert hidden_fields(asked)[ACTION_CHECKBOX_NAME] == ["0"]
    response = root.post(url, hidden_fields(asked))
    assert messages_of(response) == ["LeadExec has confirmed 30 revocations."]
    assert response.headers["Location"] == url
    assert LeadExecConnection.objects.active().count() == 3
    assert {token.partition("-")[0] for token in provider.revoked} == {"in"}
    assert LogEntry.objects.count() == 30


def test_the_message_says_so_when_the_selection_has_changed_since_it_was_confirmed(
    root: Client, provider: Provider
) -> None:
    make_due_connections(2)
    asked = post_action(root, REVOKE, across=True, confirmed=False)
    make_connection("late")
    response = root.post(LIST, hidden_fields(asked))
    assert messages_of(response) == [
        (
            "LeadExec has confirmed 3 revocations. "
            "The selection has changed since it was confirmed: 2 then, 3 now."
        )
    ]


@pytest.mark.parametrize("shown", ["", "x", "²", "9" * 5000, "1"])
def test_a_count_that_was_tampered_with_does_no_harm(
    root: Client, provider: Provider, shown: str
) -> None:
    make_connection("t")
    asked = post_action(root, REVOKE, across=True, confirmed=False)
    response = root.post(LIST, hidden_fields(asked) | {"shown": [shown]})
    assert messages_of(response) == ["LeadExec has confirmed 1 revocation."]


def test_a_ticked_connection_that_left_the_filter_meanwhile_is_still_dealt_with(
    root: Client, provider: Provider
) -> None:
    rows = make_due_connections(2)
    url = f"{LIST}?status__exact=active"
    asked = post_action(root, REVOKE, rows, url=url, confirmed=False)
    LeadExecConnection.objects.filter(pk=rows[0].pk).write(status="rejected")
    LeadExecConnection.objects.filter(pk=rows[1].pk).move_to_outbox()
    response = root.post(url, hidden_fields(asked))
    assert messages_of(response) == [
        "LeadExec has confirmed 1 revocation. 1 connection was revoked already."
    ]
    assert statuses() == ["revoked", "revoked"]


def change_once_logged(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Have others change rows between the log's entries and what they are about."""
    log = ActionAdmin.log

    def log_and_change(self: Any, *args: Any) -> int:
        count = log(self, *args)
        change()
        return count

    monkeypatch.setattr(ActionAdmin, "log", log_and_change)


def logged() -> set[str | None]:
    return set(LogEntry.objects.values_list("object_id", flat=True))


def test_exactly_what_is_logged_is_deleted(
    root: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = make_connection("in"), make_connection("out", status="rejected")

    def swap() -> None:
        for row, status in ((inside, "rejected"), (outside, "active")):
            LeadExecConnection.objects.filter(pk=row.pk).write(status=status)

    change_once_logged(monkeypatch, swap)
    response = post_action(root, DELETE, url=f"{LIST}?status__exact=active", across=True)
    assert "1 connection is deleted." in messages_of(response)
    assert logged() == {str(inside.pk)}
    assert LeadExecConnection.objects.get() == outside


def test_more_connections_are_deleted_than_one_statement_can_name(
    root: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_leadexec.admin.connections.MOST_KEYS", 2)
    rows = make_due_connections(5)
    response = post_action(root, DELETE, across=True)
    assert "5 connections are deleted." in messages_of(response)
    assert logged() == {str(row.pk) for row in rows}
    assert not LeadExecConnection.objects.exists()
    assert not PendingRevocation.objects.exists()
    assert len(provider.revoked) == 5


def test_exactly_the_revocations_that_are_logged_are_sent(
    root: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("in", "out"):
        make_connection(token).user.delete()
    inside, outside = PendingRevocation.objects.order_by("pk")
    old = timezone.now() - timedelta(days=31)
    PendingRevocation.objects.filter(pk=inside.pk).update(requested_at=old)

    def swap() -> None:
        PendingRevocation.objects.filter(pk=inside.pk).update(requested_at=timezone.now())
        PendingRevocation.objects.filter(pk=outside.pk).update(requested_at=old)

    change_once_logged(monkeypatch, swap)
    response = post_action(root, TRY, url=f"{OUTBOX}?overdue=yes", across=True)
    assert messages_of(response) == ["LeadExec has confirmed 1 revocation."]
    assert logged() == {str(inside.pk)}
    assert provider.revoked == {"in"}


def test_nothing_is_asked_where_nothing_is_left_to_revoke(root: Client) -> None:
    row = make_connection("t")
    LeadExecConnection.objects.filter(pk=row.pk).move_to_outbox()
    response = post_action(root, REVOKE, [row], confirmed=False)
    assert messages_of(response) == ["1 connection was revoked already."]
    root.get(LIST)
    response = post_action(root, REVOKE, url=f"{LIST}?q=nobody", across=True, confirmed=False)
    assert messages_of(response) == ["Nothing to do."]


def test_an_unreachable_provider_leaves_the_rest_to_the_command_in_time(
    root: Client,
    provider: Provider,
    configure: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LeadExecConnectionAdmin, "seconds", 0.5)
    rows = make_due_connections(40)
    provider.held.set()
    # Whoever waited for the answers would see confirmations.
    configure(TIMEOUT=60)
    late = threading.Timer(30, provider.held.clear)
    late.start()
    response = post_action(root, REVOKE, rows)
    late.cancel()
    join(late)
    assert messages_of(response)[0].startswith("40 revocations hold on this site and are queued")
    assert statuses() == ["revoked"] * 40
    assert PendingRevocation.objects.count() == 40


def test_an_action_waits_ten_seconds_at_most() -> None:
    assert LeadExecConnectionAdmin.seconds == 10


def test_what_another_process_sent_meanwhile_counts_as_confirmed(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Overtaken:
        def __init__(self, options: Any) -> None:
            self.options = options

        def run(self) -> None:
            self.options.revocations.delete()

    monkeypatch.setattr(chosen, "Refresher", Overtaken)
    response = post_action(root, REVOKE, make_due_connections(2))
    assert messages_of(response) == ["LeadExec has confirmed 2 revocations."]


def test_a_failing_log_undoes_everything_and_calls_nobody(
    root: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_due_connections(2)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("the log is full")

    monkeypatch.setattr(type(LogEntry.objects), "log_actions", fail)
    for action in (REVOKE, DELETE):
        with pytest.raises(OSError, match="the log is full"):
            post_action(root, action, rows)
    assert statuses() == ["active"] * 2
    assert not PendingRevocation.objects.exists()
    assert not provider.calls


@contextmanager
def atomic_requests() -> Iterator[None]:
    before = database.settings_dict["ATOMIC_REQUESTS"]
    database.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        yield
    finally:
        database.settings_dict["ATOMIC_REQUESTS"] = before


def test_with_atomic_requests_the_provider_is_called_after_the_commit(
    root: Client, provider: Provider
) -> None:
    rows = [make_connection(f"t{number}", expires_in=-1) for number in range(3)]
    with atomic_requests():
        refreshed = post_action(root, REFRESH, rows)
        root.get(LIST)
        revoked = post_action(root, REVOKE, rows[:1])
        root.get(LIST)
        deleted = post_action(root, DELETE, rows[1:2])
        root.get(LIST)
        one = root.post(f"{LIST}{rows[2].pk}/delete/", {"post": "yes"})
    assert messages_of(refreshed) == ["3 connections are refreshed."]
    assert messages_of(revoked) == ["LeadExec has confirmed 1 revocation."]
    assert messages_of(deleted) == [
        "1 connection is deleted.",
        "LeadExec has confirmed 1 revocation.",
    ]
    assert messages_of(one)[-1] == "LeadExec has confirmed 1 revocation."
    assert provider.revoked == {"t0", "t1", "t2"}


def test_the_provider_is_never_called_inside_a_transaction(
    root: Client, provider: Provider
) -> None:
    """Even where the whole request is inside one: then it is called once that has committed."""
    row = make_connection("t")
    with transaction.atomic():
        post_action(root, REVOKE, [row])
        assert not provider.calls
    assert provider.revoked == {"t"}


def test_a_faulty_configuration_is_a_message_and_stops_no_revocation(
    root: Client, settings: Settings
) -> None:
    rows = [make_connection("t"), make_connection("u")]
    settings.LEADEXEC = {"APP_ID": "secret-app", "BUTTON_ID": "b", "ENCRYPTION_KEYS": []}
    (text,) = messages_of(post_action(root, REFRESH, rows))
    assert text.startswith("LeadExec was not asked. LEADEXEC['ENCRYPTION_KEYS'] is not valid.")
    assert "secret-app" not in text
    root.get(LIST)
    (text,) = messages_of(post_action(root, REVOKE, rows[:1]))
    assert text.startswith("1 revocation holds on this site and is queued")
    assert "LEADEXEC['ENCRYPTION_KEYS'] is not valid." in text
    assert statuses() == ["revoked", "active"]
    root.get(LIST)
    texts = messages_of(root.post(f"{LIST}{rows[1].pk}/delete/", {"post": "yes"}))
    assert texts[-1].startswith("1 revocation holds on this site and is queued")
    assert PendingRevocation.objects.count() == 2


def test_an_unexpected_error_is_a_message_without_what_it_said(
    root: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Any) -> None:
        raise ValueError("secret-token")

    monkeypatch.setattr(Refresher, "run", fail)
    row = make_connection("t")
    assert messages_of(post_action(root, REFRESH, [row])) == [
        "LeadExec could not be asked: ValueError."
    ]
    root.get(LIST)
    (text,) = messages_of(post_action(root, REVOKE, [row]))
    assert text.startswith("1 revocation holds")
    assert text.endswith("LeadExec could not be asked: ValueError.")
    assert statuses() == ["revoked"]
    assert "secret-token" not in caplog.text
    assert "ValueError" in caplog.text


def test_tokens_that_no_key_opens_are_revoked_and_queued(
    root: Client, provider: Provider, settings: Settings
) -> None:
    rows = [make_connection("t"), make_connection("u")]
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [Fernet.generate_key().decode()]}
    (text,) = messages_of(post_action(root, REFRESH, rows))
    assert text.startswith("2 connections could not be refreshed")
    root.get(LIST)
    (text,) = messages_of(post_action(root, REVOKE, rows))
    assert text.startswith("2 revocations hold on this site and are queued")
    assert not provider.calls


@pytest.mark.slow
def test_many_connections_are_revoked_in_few_queries(
    root: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refresher, "run", lambda self: Report())
    make_due_connections(1200)
    with CaptureQueriesContext(database) as queries:
        response = post_action(root, REVOKE, across=True)
    assert messages_of(response)[0].startswith("1200 revocations hold")
    assert LogEntry.objects.count() == PendingRevocation.objects.count() == 1200
    assert len(queries) < 60


# Refreshing


def test_refreshing_counts_what_became_of_each(root: Client, provider: Provider) -> None:
    rows = [make_connection(f"t{number}") for number in range(5)]
    provider.answers["t2"] = stand_in.refused
    provider.answers["t3"] = stand_in.unavailable
    LeadExecConnection.objects.filter(pk=rows[4].pk).move_to_outbox()
    make_connection("other")
    assert messages_of(post_action(root, REFRESH, rows)) == [
        (
            "2 connections are refreshed. LeadExec refused 1 connection. 1 connection could not be "
            "refreshed; its last error says why. 1 connection is revoked and can't be refreshed."
        )
    ]
    assert statuses() == ["active", "active", "rejected", "active", "revoked", "active"]
    assert set(provider.refreshes) == {"t0", "t1", "t2", "t3"}
    assert not provider.calls["disconnectapplicationtoken"]


def test_refreshing_across_pages_follows_search_filter_and_order(
    root: Client, provider: Provider
) -> None:
    make_due_connections(3, "in")
    make_due_connections(3, "out")
    url = f"{LIST}?q=in-user&o=-1.3&trouble=no"
    assert messages_of(post_action(root, REFRESH, url=url, across=True)) == [
        "3 connections are refreshed."
    ]
    assert set(provider.refreshes) == {"in-0", "in-1", "in-2"}


def test_refreshing_leaves_out_connections_of_another_application(
    root: Client, provider: Provider
) -> None:
    rows = [make_connection("t"), make_connection("u", app_id="another")]
    assert messages_of(post_action(root, REFRESH, rows)) == [
        "1 connection is refreshed. 1 connection belongs to another application ID."
    ]
    assert set(provider.refreshes) == {"t"}


def test_refreshing_stops_in_time_and_says_what_was_left(
    root: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LeadExecConnectionAdmin, "seconds", 0.6)
    provider.latency = 0.25
    rows = make_due_connections(100)
    (text,) = messages_of(post_action(root, REFRESH, rows))
    counts = [int(count) for count in re.findall(r"\d+", text)]
    assert sum(counts) == 100
    assert re.search(r"\d+ connections were not reached", text)


def test_a_connection_that_another_process_refreshes_is_left_to_it(
    root: Client, provider: Provider
) -> None:
    rows = make_due_connections(2)
    LeadExecConnection.objects.filter(pk=rows[0].pk).claim(1, 60)
    (text,) = messages_of(post_action(root, REFRESH, rows))
    assert text.startswith("1 connection is refreshed. 1 connection was not reached")
    assert set(provider.refreshes) == {"token-1"}


def test_everybody_refused_points_at_the_application_id(root: Client, provider: Provider) -> None:
    provider.default = stand_in.refused
    rows = make_due_connections(45)
    (text,) = messages_of(post_action(root, REFRESH, rows))
    assert "Is LEADEXEC['APP_ID'] right?" in text
    assert set(statuses()) == {"active"}


# Deleting


def test_deleting_one_sends_the_revocation_after_the_commit(
    root: Client, provider: Provider
) -> None:
    row = make_connection("t")
    response = root.post(f"{LIST}{row.pk}/delete/", {"post": "yes"})
    assert messages_of(response)[-1] == "LeadExec has confirmed 1 revocation."
    assert provider.revoked == {"t"}
    assert not LeadExecConnection.objects.exists()
    assert not PendingRevocation.objects.exists()
    assert LogEntry.objects.get().action_flag == DELETION


def test_deleting_one_leads_back_to_the_list_as_it_was_filtered(
    root: Client, provider: Provider
) -> None:
    filters = "_changelist_filters=status__exact%3Dactive"
    url = f"{LIST}{make_connection().pk}/delete/?{filters}"
    assert root.post(url, {"post": "yes"})["Location"] == f"{LIST}?status__exact=active"
    deleter = staff_with("delete_leadexecconnection")
    response = deleter.post(f"{LIST}{make_connection().pk}/delete/", {"post": "yes"})
    assert response["Location"] == "/admin/"


def test_deleting_many_asks_first_and_sends_the_revocations(
    root: Client, provider: Provider
) -> None:
    make_due_connections(12, "in")
    revoked = make_connection("gone", user=make_user("in-user-gone"))
    LeadExecConnection.objects.filter(pk=revoked.pk).move_to_outbox()
    PendingRevocation.objects.all().delete()
    kept = make_connection("kept")
    url = f"{LIST}?q=in-user"
    asked = post_action(root, DELETE, url=url, across=True, confirmed=False)
    assert "13 connections will be deleted" in asked.content.decode()
    assert hidden_fields(asked)[ACTION_CHECKBOX_NAME] == ["0"]
    assert LeadExecConnection.objects.count() == 14
    response = root.post(url, hidden_fields(asked))
    assert messages_of(response) == [
        "13 connections are deleted.",
        "LeadExec has confirmed 12 revocations.",
    ]
    assert LeadExecConnection.objects.get() == kept
    assert len(provider.revoked) == 12
    assert LogEntry.objects.filter(action_flag=DELETION).count() == 13


def test_deleting_by_a_filter_on_the_status_deletes_what_it_revokes(
    root: Client, provider: Provider
) -> None:
    make_due_connections(3)
    post_action(root, DELETE, url=f"{LIST}?status__exact=active", across=True)
    assert not LeadExecConnection.objects.exists()
    assert len(provider.revoked) == 3


def test_deleting_what_is_revoked_already_sends_nothing(root: Client, provider: Provider) -> None:
    row = make_connection("t")
    LeadExecConnection.objects.filter(pk=row.pk).move_to_outbox()
    assert messages_of(post_action(root, DELETE, [row])) == ["1 connection is deleted."]
    assert not provider.calls
    assert PendingRevocation.objects.count() == 1


def test_deleting_while_the_provider_is_down_queues_the_revocation(
    root: Client, provider: Provider
) -> None:
    rows = [make_connection("t")]
    provider.answers["disconnect t"] = provider.answers["t"] = stand_in.unavailable
    texts = messages_of(post_action(root, DELETE, rows))
    assert texts[0] == "1 connection is deleted."
    assert texts[1].startswith("1 revocation holds on this site and is queued")
    assert plain(PendingRevocation.objects.get().refresh_token) == "t"


def test_deleting_a_user_in_the_admin_queues_the_revocation(root: Client) -> None:
    row = make_connection("t")
    root.post(f"/admin/auth/user/{row.user_id}/delete/", {"post": "yes"})
    assert not LeadExecConnection.objects.exists()
    assert plain(PendingRevocation.objects.get().refresh_token) == "t"


def test_what_others_protect_is_not_deleted(
    root: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_connection("t")
    monkeypatch.setattr(
        LeadExecConnectionAdmin,
        "get_deleted_objects",
        lambda self, rows, request: ([], {}, set(), ["invoice 7"]),
    )
    for confirmed in (False, True):
        response = post_action(root, DELETE, [row], confirmed=confirmed)
        assert "invoice 7" in response.content.decode()
    assert statuses() == ["active"]


# The outbox


OUTBOX_PERMISSIONS = {TRY: "change_pendingrevocation", LET_GO: "release_pendingrevocation"}


def make_entries(*tokens: str) -> list[PendingRevocation]:
    """Outbox entries, tried once and not due before tomorrow."""
    for token in tokens:
        make_connection(token)
    LeadExecConnection.objects.all().move_to_outbox()
    tomorrow = timezone.now() + timedelta(days=1)
    PendingRevocation.objects.update(retry_after=tomorrow, attempts=1)
    return list(PendingRevocation.objects.order_by("pk"))


@pytest.mark.parametrize("allowed", ["", *OUTBOX_PERMISSIONS])
def test_each_action_on_the_outbox_takes_its_own_permission(
    provider: Provider, allowed: str
) -> None:
    granted = [OUTBOX_PERMISSIONS[allowed]] if allowed else []
    client = staff_with("view_pendingrevocation", "delete_pendingrevocation", *granted)
    entries = make_entries("t")
    html = page(client, OUTBOX)
    offered = {action for action in (*OUTBOX_PERMISSIONS, DELETE) if f'value="{action}"' in html}
    assert offered == ({allowed} if allowed else set())
    for action in (*OUTBOX_PERMISSIONS, DELETE):
        for confirmed in (True, False):
            if action != allowed:
                post_action(client, action, entries, url=OUTBOX, confirmed=confirmed)
                post_action(client, action, url=OUTBOX, across=True, confirmed=confirmed)
    assert PendingRevocation.objects.count() == 1
    assert not provider.calls
    assert not LogEntry.objects.exists()


def test_a_get_does_nothing_to_the_outbox(root: Client, provider: Provider) -> None:
    (entry,) = make_entries("t")
    for action in OUTBOX_PERMISSIONS:
        root.get(f"{OUTBOX}?action={action}&{ACTION_CHECKBOX_NAME}={entry.pk}&post=yes")
    assert PendingRevocation.objects.count() == 1
    assert not provider.calls


def test_trying_now_sends_the_selected_revocations_due_or_not(
    root: Client, provider: Provider
) -> None:
    entries = make_entries("t", "u", "v")
    provider.answers["disconnect u"] = provider.answers["u"] = stand_in.unavailable
    response = post_action(root, TRY, entries[:2], url=OUTBOX)
    assert messages_of(response) == [
        (
            "LeadExec has confirmed 1 revocation. 1 revocation holds on this site and is queued: "
            "refresh_leadexec_tokens goes on sending it to LeadExec."
        )
    ]
    assert provider.revoked == {"t"}
    assert set(PendingRevocation.objects.all()) == set(entries[1:])
    assert PendingRevocation.objects.get(pk=entries[1].pk).attempts == 2
    assert PendingRevocation.objects.get(pk=entries[2].pk).attempts == 1
    logged = LogEntry.objects.order_by("pk")
    assert [entry.object_id for entry in logged] == [str(entry.pk) for entry in entries[:2]]
    assert {entry.action_flag for entry in logged} == {CHANGE}
    assert {entry.change_message for entry in logged} == {"Sent to LeadExec by hand."}
    assert "Sent to LeadExec by hand." in page(root, f"{OUTBOX}{entries[1].pk}/history/")


def test_trying_now_without_a_log_sends_nothing(
    root: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("The log is full.")

    entries = make_entries("t")
    monkeypatch.setattr(type(LogEntry.objects), "log_actions", fail)
    with pytest.raises(RuntimeError):
        post_action(root, TRY, entries, url=OUTBOX)
    assert not provider.calls


def test_trying_now_across_pages_follows_the_filter(root: Client, provider: Provider) -> None:
    entries = make_entries("t", "u", "v")
    PendingRevocation.objects.filter(pk=entries[0].pk).update(
        requested_at=timezone.now() - timedelta(days=31)
    )
    response = post_action(root, TRY, url=f"{OUTBOX}?overdue=yes", across=True)
    assert messages_of(response) == ["LeadExec has confirmed 1 revocation."]
    assert provider.revoked == {"t"}


def test_trying_now_stops_in_time_and_leaves_the_rest_due(
    root: Client,
    provider: Provider,
    configure: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PendingRevocationAdmin, "seconds", 0.5)
    make_entries("t", "u")
    provider.held.set()
    configure(TIMEOUT=60)
    late = threading.Timer(30, provider.held.clear)
    late.start()
    response = post_action(root, TRY, url=OUTBOX, across=True)
    late.cancel()
    join(late)
    assert messages_of(response)[0].startswith("2 revocations hold on this site and are queued")
    assert PendingRevocation.objects.due(timezone.now() + timedelta(hours=1)).count() == 2


def test_trying_nothing_now_is_a_message(root: Client, provider: Provider) -> None:
    response = post_action(root, TRY, url=OUTBOX, across=True)
    assert messages_of(response) == ["Nothing to do."]
    assert not provider.calls


def test_trying_now_with_a_faulty_configuration_is_a_message(
    root: Client, settings: Settings
) -> None:
    entries = make_entries("t")
    settings.LEADEXEC = {}
    (text,) = messages_of(post_action(root, TRY, entries, url=OUTBOX))
    assert text.startswith("LeadExec was not asked. LEADEXEC['APP_ID'] is missing.")
    assert PendingRevocation.objects.count() == 1


def test_with_atomic_requests_revocations_are_tried_after_the_commit(
    root: Client, provider: Provider
) -> None:
    entries = make_entries("t")
    with atomic_requests():
        response = post_action(root, TRY, entries, url=OUTBOX)
    assert messages_of(response) == ["LeadExec has confirmed 1 revocation."]


def test_letting_go_asks_first_and_says_that_the_token_may_go_on_working(
    root: Client, provider: Provider
) -> None:
    entries = make_entries(*(f"t{number}" for number in range(12)))
    asked = post_action(root, LET_GO, entries, url=OUTBOX, confirmed=False)
    html = asked.content.decode()
    assert "12 pending revocations will be deleted" in html
    assert "may go on working at LeadExec" in html
    assert f"number {entries[-1].pk}, application <bdi>test-app</bdi>" in html
    assert "and 2 more" in html
    assert hidden_fields(asked)[ACTION_CHECKBOX_NAME] == [str(entry.pk) for entry in entries]
    for entry in entries:
        assert entry.fingerprint not in html
        assert entry.refresh_token not in html
    assert PendingRevocation.objects.count() == 12
    assert not LogEntry.objects.exists()
    assert not provider.calls


def test_letting_go_deletes_logs_and_warns_without_a_call(
    root: Client, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    entries = make_entries("t", "u", "v")
    asked = post_action(root, LET_GO, entries[:2], url=OUTBOX, confirmed=False)
    response = root.post(OUTBOX, hidden_fields(asked))
    assert messages_of(response) == [
        "2 pending revocations are deleted without LeadExec's confirmation."
    ]
    assert PendingRevocation.objects.get() == entries[2]
    assert not provider.calls
    logged = LogEntry.objects.order_by("pk")
    assert [entry.object_id for entry in logged] == [str(entry.pk) for entry in entries[:2]]
    assert {entry.action_flag for entry in logged} == {DELETION}
    assert {entry.change_message for entry in logged} == {"Let go without LeadExec's confirmation."}
    root_pk = get_user_model().objects.get(username="root").pk
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"The pending revocation {entry.pk} of application test-app was let go by user {root_pk}: "
        "its token may go on working at LeadExec."
        for entry in entries[:2]
    ]


def test_letting_go_across_pages_follows_the_filter_and_notes_a_change(root: Client) -> None:
    entries = make_entries("t", "u", "v")
    old = timezone.now() - timedelta(days=31)
    PendingRevocation.objects.filter(pk=entries[0].pk).update(requested_at=old)
    url = f"{OUTBOX}?overdue=yes"
    asked = post_action(root, LET_GO, url=url, across=True, confirmed=False)
    assert "1 pending revocation will be deleted" in asked.content.decode()
    PendingRevocation.objects.filter(pk=entries[1].pk).update(requested_at=old)
    response = root.post(url, hidden_fields(asked))
    (text,) = messages_of(response)
    assert text == (
        "2 pending revocations are deleted without LeadExec's confirmation. "
        "The selection has changed since it was confirmed: 1 then, 2 now."
    )
    assert PendingRevocation.objects.get() == entries[2]


def test_a_failing_log_keeps_the_entries_and_warns_of_nothing(
    root: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = make_entries("t")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("the log is full")

    monkeypatch.setattr(type(LogEntry.objects), "log_actions", fail)
    with pytest.raises(OSError, match="the log is full"):
        post_action(root, LET_GO, entries, url=OUTBOX)
    assert PendingRevocation.objects.count() == 1
    assert "was let go" not in caplog.text


def test_letting_go_of_what_has_gone_meanwhile_is_a_message(root: Client) -> None:
    entries = make_entries("t")
    asked = post_action(root, LET_GO, entries, url=OUTBOX, confirmed=False)
    PendingRevocation.objects.all().delete()
    assert messages_of(root.post(OUTBOX, hidden_fields(asked))) == [
        "The selection has changed since it was confirmed: 1 then, 0 now."
    ]
    root.get(OUTBOX)
    response = post_action(root, LET_GO, entries, url=OUTBOX, confirmed=False)
    assert messages_of(response) == ["Nothing to do."]


# A site's own admin of its users, with their connections on the same page


class ConnectionInline(admin.TabularInline):  # type: ignore[type-arg]
    model = LeadExecConnection


class StatusForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form that a site has written to set what can't be saved."""

    new_status = forms.CharField(required=False)

    class Meta:
        model = LeadExecConnection
        fields = ()

    def save(self, commit: bool = True) -> LeadExecConnection:
        self.instance.status = self.cleaned_data["new_status"]
        saved: LeadExecConnection = super().save(commit)
        return saved


class FormInline(ConnectionInline):
    form = StatusForm


@contextmanager
def users_with(inline: type[ConnectionInline]) -> Iterator[None]:
    """The users' admin, with an inline of this class."""
    with pytest.MonkeyPatch.context() as patch:
        users = admin.site.get_model_admin(get_user_model())
        patch.setattr(users, "inlines", [inline])
        yield


def change_user(root: Client, row: LeadExecConnection, **fields: str) -> Any:
    """Post the page of the row's user, with a new first name and these fields of the inline."""
    prefix = "leadexec_connections"
    return root.post(
        f"/admin/auth/user/{row.user_id}/change/",
        {
            "username": row.user.get_username(),
            "first_name": "Alice",
            "date_joined_0": "2026-01-01",
            "date_joined_1": "12:00:00",
            f"{prefix}-TOTAL_FORMS": "1",
            f"{prefix}-INITIAL_FORMS": "1",
            f"{prefix}-0-id": row.pk,
            f"{prefix}-0-user": row.user_id,
            **{f"{prefix}-0-{name}": value for name, value in fields.items()},
        },
    )


def test_an_inline_of_connections_shows_no_field_to_edit(root: Client) -> None:
    row = make_connection("t")
    with users_with(ConnectionInline):
        html = page(root, f"/admin/auth/user/{row.user_id}/change/")
    named = set(re.findall(r'name="leadexec_connections-0-(\w+)"', html))
    assert named == {"id", "user", "DELETE"}


def test_an_inline_of_connections_reports_no_change_that_it_did_not_make(root: Client) -> None:
    row = make_connection("t")
    with users_with(ConnectionInline):
        response = change_user(root, row, status="revoked", account_id="x", app_id="x")
    assert response.status_code == 302
    assert statuses() == ["active"]
    row.refresh_from_db()
    assert (row.account_id, row.app_id) == ("", "test-app")
    changes = LogEntry.objects.get().get_change_message()
    assert "irst name" in changes
    assert "connection" not in changes.lower()


def test_a_change_of_an_inline_that_can_not_be_saved_is_an_error(root: Client) -> None:
    row = make_connection("t")
    with users_with(FormInline), pytest.raises(FieldError, match="status"):
        change_user(root, row, new_status="revoked")
    assert statuses() == ["active"]
    assert get_user_model().objects.get(pk=row.user_id).first_name == ""
    assert not LogEntry.objects.exists()


def test_an_inline_revokes_the_connections_that_it_deletes(root: Client) -> None:
    row = make_connection("t")
    with users_with(ConnectionInline):
        change_user(root, row, DELETE="on")
    assert not LeadExecConnection.objects.exists()
    assert plain(PendingRevocation.objects.get().refresh_token) == "t"
