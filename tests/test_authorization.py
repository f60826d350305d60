"""Who may sign in, with careless code of the site's own and users who change meanwhile.

The table of who may do what is tried in test_views.
"""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from pytest_django import Settings

from django_leadexec import accounts, authorization
from django_leadexec.exceptions import ConnectionConflict, ProviderUnavailable
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.secret import Secret
from django_leadexec.session import LeadExecSession

from . import provider as stand_in
from .factories import make_connection, make_user, plain
from .provider import Answer, Provider
from .security import plugins
from .sockets import Peer, apis_at, serving
from .visitor import (
    DISCONNECT,
    LOGIN,
    agree,
    assert_error,
    csrf_token,
    elsewhere,
    link_shown,
    post,
    send,
    user_of,
)

pytestmark = pytest.mark.django_db(transaction=True)


def deleting(user: Any) -> Answer:
    """Says yes, but somebody deletes the user before that arrives."""

    def answer(provider: Provider, token: str) -> bytes:
        elsewhere(get_user_model().objects.filter(pk=user.pk).delete)
        return stand_in.fresh(provider, token)

    return answer


def test_an_account_that_became_another_users_is_a_conflict_at_once_when_confirmed(
    provider: Provider, configure: Callable[..., None]
) -> None:
    configure(IDENTIFY="tests.security.plugins.account")
    make_connection("acme-1", account_id="acme")
    waiting = authorization.LinkWaiting(Secret("acme-2"), "bolt")
    with pytest.raises(ConnectionConflict):
        authorization.confirm(waiting, make_user(), lambda: None)
    assert LeadExecConnection.objects.count() == 1


@pytest.mark.parametrize("shown", ["aaron", "bolt", "ACME", ""])
def test_any_account_but_the_one_that_was_shown_is_shown_before_it_is_linked(
    provider: Provider, configure: Callable[..., None], shown: str
) -> None:
    configure(IDENTIFY="tests.security.plugins.account")
    waiting = authorization.LinkWaiting(Secret("acme-1"), shown)
    outcome = authorization.confirm(waiting, make_user(), lambda: None)
    assert outcome == authorization.LinkWaiting(Secret("acme-1"), "acme")
    assert not LeadExecConnection.objects.exists()


@pytest.mark.parametrize("first", ["token", "account"])
def test_a_token_and_an_account_of_two_users_are_a_conflict_before_anybody_logs_in(
    client: Client, provider: Provider, configure: Callable[..., None], first: str
) -> None:
    configure(IDENTIFY="tests.security.plugins.account")
    one, other = make_user(), make_user()
    of_token, of_account = (one, other) if first == "token" else (other, one)
    make_connection("acme-1", user=of_token)
    make_connection("another", user=of_account, account_id="acme")
    assert_error(post(client, "acme-1"), 409, "conflict")


def test_who_clicks_is_signed_in_also_where_another_user_may_return(
    client: Client, provider: Provider, configure: Callable[..., None]
) -> None:
    configure(SIGN_IN=True)
    for name in ("ada", "eve"):
        make_connection(f"of-{name}", user=make_user(name))
    post(client, "of-ada")
    client.session.flush()
    assert post(client, "of-eve").json()["status"] == "signed_in"
    assert user_of(client) == "eve"


def test_without_sign_in_a_browser_that_might_return_is_one_like_any_other(
    client: Client, provider: Provider, configure: Callable[..., None]
) -> None:
    configure(SIGN_IN=True)
    make_connection("on-file")
    post(client, "on-file")
    client.session.flush()
    configure(SIGN_IN=False)
    assert post(client, "on-file", False).json()["status"] == "ignored"
    assert provider.refreshes == {"on-file": 1}


class TestSessions:
    def test_a_session_that_was_planted_is_not_the_one_that_is_logged_in(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        make_connection("on-file")
        attacker = Client()
        attacker.get("/page/")
        session = attacker.session
        session["planted"] = 1
        session.save()
        client.cookies["sessionid"] = str(session.session_key)
        post(client, "on-file")
        assert user_of(client) is not None
        attacker.cookies["sessionid"] = str(session.session_key)
        assert user_of(attacker) is None

    def test_a_session_key_that_was_made_up_is_not_taken(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        make_connection("on-file")
        client.cookies["sessionid"] = "a" * 32
        post(client, "on-file")
        assert client.cookies["sessionid"].value != "a" * 32

    def test_the_csrf_token_changes_with_the_login(
        self, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        make_connection("on-file")
        client = Client(enforce_csrf_checks=True)
        before = csrf_token(client)
        assert send(client, "on-file", headers={"X-CSRFToken": before}).status_code == 200
        assert_error(send(client, "t", headers={"X-CSRFToken": before}), 403, "csrf")

    def test_a_sign_in_needs_the_backend(
        self, client: Client, provider: Provider, configure: Callable[..., None], settings: Settings
    ) -> None:
        configure(SIGN_IN=True)
        settings.AUTHENTICATION_BACKENDS = [LOGIN]
        make_connection("on-file")
        assert_error(post(client, "on-file"), 403, "not_allowed")
        assert user_of(client) is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"verified": "1"},
            {"refresh_token": "on-file"},
            {"username": "victim", "verified": "SignedIn"},
            {"username": "victim", "password": "", "connection": "1"},
            {"username": "victim", "password": "on-file"},
        ],
    )
    def test_no_login_form_gets_through_the_backend(
        self, client: Client, provider: Provider, configure: Callable[..., None],
        settings: Settings, fields: dict[str, str],
    ) -> None:  # fmt: skip
        configure(SIGN_IN=True)
        settings.AUTHENTICATION_BACKENDS = ["django_leadexec.backends.LeadExecBackend"]
        make_connection("on-file", user=make_user("victim", password="secret"))
        from django.contrib.auth import authenticate

        assert authenticate(None, **fields) is None
        client.post("/accounts/login/", {"username": "victim", "password": "secret"} | fields)
        assert user_of(client) is None

    def test_a_user_who_is_deleted_is_not_signed_in(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        row = make_connection("on-file")
        post(client, "on-file")
        row.user.delete()
        assert not client.get("/page/").wsgi_request.user.is_authenticated
        other = Client()
        assert_error(post(other, "on-file"), 409, "revoking")
        assert_error(post(other, "on-file"), 422, "rejected")
        assert user_of(other) is None

    def test_a_user_who_is_deleted_before_the_answer_is_not_signed_in(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        row = make_connection("on-file")
        provider.answers["on-file"] = deleting(row.user)
        assert post(client, "on-file").status_code in (409, 422)
        assert user_of(client) is None

    def test_a_user_who_is_deleted_before_the_answer_is_told_to_log_in(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        provider.answers["new"] = deleting(victim)
        assert_error(post(client, "new"), 403, "not_allowed")
        assert not LeadExecConnection.objects.exists()
        assert not PendingRevocation.objects.exists()
        assert not client.get("/page/").wsgi_request.user.is_authenticated

    def test_a_user_who_is_deleted_before_they_get_a_new_token_has_the_old_one_revoked(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        make_connection("old", user=victim)
        provider.answers["new"] = deleting(victim)
        assert_error(post(client, "new"), 403, "not_allowed")
        assert plain(PendingRevocation.objects.get().refresh_token) == "old"

    def test_a_user_who_is_deleted_before_their_confirmed_link_is_told_so_by_the_next_page(
        self, client: Client, victim: Any, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(SIGN_IN=True)
        assert post(client, "new", next="/page/").json()["status"] == "confirm_required"
        link = link_shown(client)
        provider.answers["new"] = deleting(victim)
        response = agree(client, link)
        assert response.headers["Location"] == "/page/"
        assert "no longer exists" in str(*get_messages(response.wsgi_request))
        assert not LeadExecConnection.objects.exists()

    @pytest.mark.parametrize("change", [{"is_active": False}, {"is_staff": True}])
    def test_a_user_who_changes_before_the_answer_is_not_signed_in(
        self, client: Client, provider: Provider, configure: Callable[..., None], change: Any
    ) -> None:
        configure(SIGN_IN=True)
        row = make_connection("on-file")

        def changes(provider: Provider, token: str) -> bytes:
            users = get_user_model().objects.filter(pk=row.user_id)
            elsewhere(lambda: users.update(**change))
            return stand_in.fresh(provider, token)

        provider.answers["on-file"] = changes
        assert post(client, "on-file").status_code in (200, 403)
        assert not client.get("/page/").wsgi_request.user.is_authenticated


NO_ACCOUNT = [
    *("blank", "empty", "none_in_words", "number", "true", "data", "octets"),
    *("control_characters", "turned_around", "half_a_pair", "unreachable", "no_json"),
    "unavailable",
]
NO_USER = [
    *("create_nobody", "create_a_name", "create_a_group", "create_unsaved", "create_inactive"),
    *("create_staff", "create_one_and_return_another", "create_by_a_save_of_the_victim"),
    "create_and_fail",
]


class TestTheSitesOwnCode:
    @pytest.fixture(autouse=True)
    def sign_in(self, configure: Callable[..., None]) -> None:
        configure(
            SIGN_IN=True,
            IDENTIFY="tests.security.plugins.account",
            CREATE_USER="tests.security.plugins.create",
        )

    @pytest.mark.parametrize("name", NO_ACCOUNT)
    def test_an_identify_that_names_no_account_connects_nothing(
        self, client: Client, provider: Provider, configure: Callable[..., None], name: str
    ) -> None:
        configure(IDENTIFY=f"tests.security.plugins.{name}")
        assert_error(post(client, "acme-1"), 502, "unavailable")
        assert not LeadExecConnection.objects.exists()
        assert not get_user_model().objects.exists()
        assert not client.session.keys()

    @pytest.mark.parametrize("name", ["broken", "elsewhere"])
    def test_an_identify_that_fails_by_its_own_fault_is_the_operators_to_see(
        self, client: Client, provider: Provider, configure: Callable[..., None], name: str
    ) -> None:
        configure(IDENTIFY=f"tests.security.plugins.{name}")
        client.raise_request_exception = False
        assert post(client, "acme-1").status_code == 500
        assert not LeadExecConnection.objects.exists()
        assert user_of(client) is None

    @pytest.mark.parametrize("name", NO_USER)
    def test_a_create_user_that_makes_no_new_ordinary_user_leaves_nothing_behind(
        self, client: Client, provider: Provider, configure: Callable[..., None], name: str
    ) -> None:
        configure(CREATE_USER=f"tests.security.plugins.{name}")
        make_user("victim")
        client.raise_request_exception = False
        assert post(client, "acme-1").status_code == 500
        assert user_of(client) is None
        assert not LeadExecConnection.objects.exists()
        assert [user.username for user in get_user_model().objects.all()] == ["victim"]

    @pytest.mark.parametrize("name", ["create_after_a_call", "create_when_unavailable"])
    def test_a_create_user_that_reaches_nobody_is_answered_as_identify_is(
        self, client: Client, provider: Provider, configure: Callable[..., None], name: str
    ) -> None:
        configure(
            CREATE_USER=f"tests.security.plugins.{name}", ACCOUNT_API_URL="http://127.0.0.1:9"
        )
        assert_error(post(client, "acme-1"), 502, "unavailable")
        assert not LeadExecConnection.objects.exists()
        assert not get_user_model().objects.exists()
        assert user_of(client) is None

    def test_a_user_name_that_is_taken_is_told_after_one_call(
        self, client: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_user("acme")
        calls = []

        def create(account_id: str, session: LeadExecSession) -> Any:
            calls.append(account_id)
            return plugins.create(account_id, session)

        monkeypatch.setattr(accounts, "import_string", {
            "tests.security.plugins.account": plugins.account,
            "tests.security.plugins.create": create,
        }.get)  # fmt: skip
        assert_error(post(client, "acme-1"), 409, "user_exists")
        assert calls == ["acme"]
        assert not LeadExecConnection.objects.exists()
        assert [user.username for user in get_user_model().objects.all()] == ["acme"]
        assert user_of(client) is None
        # Whoever has that name can log in and link it.
        client.force_login(get_user_model().objects.get(), backend=LOGIN)
        assert post(client, "acme-1").json()["status"] == "confirm_required"

    @pytest.mark.server
    def test_an_account_that_is_linked_meanwhile_is_no_taken_name(
        self, client: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []

        def create(account_id: str, session: LeadExecSession) -> Any:
            calls.append(account_id)
            elsewhere(lambda: make_connection("acme-2", user=make_user("acme"), account_id="acme"))
            return plugins.create(account_id, session)

        monkeypatch.setattr(accounts, "import_string", {
            "tests.security.plugins.account": plugins.account,
            "tests.security.plugins.create": create,
        }.get)  # fmt: skip
        assert post(client, "acme-1").json()["status"] == "signed_in"
        assert calls == ["acme"]
        assert user_of(client) == "acme"
        assert LeadExecConnection.objects.holding("acme-1").get().user.username == "acme"

    def test_a_create_user_may_make_a_proxy_of_the_user_model(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(CREATE_USER="tests.security.plugins.create_a_member")
        assert post(client, "acme-1").json()["status"] == "signed_in"
        assert user_of(client) == "acme"
        assert LeadExecConnection.objects.get().user.username == "acme"

    @pytest.mark.parametrize(
        ("first", "second"),
        [("acme", "Acme"), ("acme", "acme_"), ("acme", "ac\u00admie"), ("strasse", "straße")],
    )
    def test_accounts_that_a_collation_takes_for_one_are_two(
        self, client: Client, provider: Provider, monkeypatch: pytest.MonkeyPatch,
        configure: Callable[..., None], first: str, second: str,
    ) -> None:  # fmt: skip
        configure(CREATE_USER=None)
        owner = make_user("owner")
        make_connection(f"{first}-1", user=owner, account_id=first.replace("_", " "))
        named: list[str] = []

        def identify(path: str, access_token: str) -> str:
            named.append(second.replace("_", " "))
            return named[-1]

        monkeypatch.setattr(accounts, "identify", identify)
        assert post(client, "other-1").json()["status"] == "login_required"
        assert named
        assert user_of(client) is None
        client.force_login(make_user("other"), backend=LOGIN)
        agree(client)
        rows = LeadExecConnection.objects.order_by("pk")
        assert [row.user.username for row in rows] == ["owner", "other"]
        assert len({row.identity for row in rows}) == 2

    def test_tokens_that_a_collation_takes_for_one_are_two(
        self, client: Client, provider: Provider, configure: Callable[..., None]
    ) -> None:
        configure(IDENTIFY=None, CREATE_USER=None)
        make_connection("Token")
        for token in ("token", "TOKEN", "Token."):
            assert post(client, token).json()["status"] == "login_required"
        assert post(client, "Token").json()["status"] == "signed_in"

    @pytest.mark.mysql
    def test_a_username_that_the_collation_knows_already_makes_no_user(
        self, client: Client, provider: Provider
    ) -> None:
        assert post(client, "acme-1").json()["status"] == "signed_in"
        other = Client(raise_request_exception=False)
        answer = post(other, "Acme-1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "user_exists")
        assert user_of(other) is None
        assert LeadExecConnection.objects.get().account_id == "acme"


class TestAtomicRequests:
    @pytest.fixture(autouse=True)
    def atomic(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    def test_no_call_holds_a_transaction_open(
        self, client: Client, victim: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from django_leadexec.provider.client import Client as Calls

        inside: list[bool] = []
        for name in ("refresh", "revoke"):
            call = getattr(Calls, name)

            def watched(self: Any, *args: Any, call: Any = call, **options: Any) -> Any:
                inside.append(connection.in_atomic_block)
                return call(self, *args, **options)

            monkeypatch.setattr(Calls, name, watched)
        assert post(client, "t").json()["status"] == "connected"
        assert post(client, "t").json()["status"] == "connected"
        assert client.post(DISCONNECT).status_code == 302
        client.logout()
        post(client, "u")
        client.force_login(victim, backend=LOGIN)
        assert agree(client).status_code == 302
        assert inside == [False] * 4
        assert PendingRevocation.objects.count() == 0

    def test_an_error_keeps_what_was_written_before_it(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        row = make_connection("mine", user=victim)
        provider.answers["mine"] = stand_in.refused
        assert_error(post(client, "mine"), 422, "rejected")
        row.refresh_from_db()
        assert row.status == "rejected"


def call_the_api(*arguments: Any) -> Any:
    """An IDENTIFY and CREATE_USER of a site's, with a mistake in it."""
    session = arguments[-1]
    session.get(session.account_api)
    raise ZeroDivisionError


def name_of(length: int) -> Callable[[object], str]:
    """An IDENTIFY that names an account of ``length`` characters."""
    return lambda session: "x" * length


@pytest.mark.parametrize("length", [1, 255])
def test_an_account_has_up_to_255_characters(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(accounts, "import_string", lambda path: name_of(length))
    assert accounts.identify("site.identify", Secret("t")) == "x" * length


@pytest.mark.parametrize("length", [0, 256])
def test_a_name_of_none_or_more_characters_is_no_account(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(accounts, "import_string", lambda path: name_of(length))
    with pytest.raises(ProviderUnavailable):
        accounts.identify("site.identify", Secret("t"))


@pytest.mark.parametrize(
    "ask",
    [
        lambda path: accounts.identify(path, Secret("t")),
        lambda path: accounts.create_user(path, "acme", Secret("t")),
    ],
    ids=["IDENTIFY", "CREATE_USER"],
)
def test_the_sites_own_code_leaves_no_connection_to_the_api_open(
    ask: Any, settings: Settings
) -> None:
    hung_up = threading.Event()

    def talk(peer: Peer) -> None:
        while peer.request():
            peer.send(stand_in.http({}))
        hung_up.set()

    settings.DEBUG = True
    with serving(talk) as server:
        settings.LEADEXEC = settings.LEADEXEC | apis_at(server.url)
        # Whoever holds the error holds its frames, so that the garbage collector closes nothing.
        with pytest.raises(ZeroDivisionError) as held:
            ask(f"{__name__}.call_the_api")
        assert hung_up.wait(20)
    assert held.value.__traceback__
