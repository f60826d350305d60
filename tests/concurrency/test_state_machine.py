"""All that can happen to connections, in orders that Hypothesis chooses, against a small model.

Every thread stops before each statement and each transaction of the package, after it, and when a
signal is heard; and each of its calls stops at the provider; which of them goes on, and what the
provider then says, is for the rules to choose. What is drawn never depends on what has happened,
so that threads that run into each other's locks can't make an example differ from itself.

LEADEXEC_EXAMPLES asks for that many examples, other ones each time.
"""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any, ClassVar

import pytest
from asgiref.sync import async_to_sync
from cryptography.fernet import Fernet
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import IntegrityError, OperationalError, connections, transaction
from django.db import connection as database
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pytest_django import Settings

from django_leadexec import clock as clock_module
from django_leadexec import (
    leases,
    lifecycle,
    linking,
    models,
    refresh,
    revocation,
    rotation,
    shared_answers,
    signals,
    throttle,
)
from django_leadexec.admin import LeadExecConnectionAdmin
from django_leadexec.claims import Claim
from django_leadexec.clock import from_timestamp
from django_leadexec.conf import DAY
from django_leadexec.conflicts import retry_on_deadlock
from django_leadexec.exceptions import AuthorizationRejected, DecryptionFailed, LeadExecError
from django_leadexec.leases import CLOCK_SKEW, LeasedQuerySet, writing
from django_leadexec.lifecycle import REFUSED_TOKEN_KEPT_FOR
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.provider import client as provider_client
from django_leadexec.refresh import (
    Options,
    Refresher,
    gate,
    turn,
)
from django_leadexec.refresh import run as run_module
from django_leadexec.refresh.jobs import RefreshJob, RevocationJob
from django_leadexec.secret import Secret
from django_leadexec.session import LeadExecSession

from .. import site
from ..factories import make_connection, make_user, plain
from ..urls import urlpatterns as common
from ..visitor import callback_body, confirmed
from . import stepped_threads
from .observers import DISCONNECT_ANSWERS, REFRESH_ANSWERS, Call, CallLog, Ears, PausedProvider
from .stepped_threads import PATIENCE, SteppedThread, changed, clock, handlers, pause
from .stored_rows import Row, snapshot
from .threads import Work

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = os.environ.get("LEADEXEC_EXAMPLES")
ACCOUNTS = ("red", "blue")
AT_ONCE = 4
# Seconds; together they stay below what the leases tolerate.
CLOCK_ERRORS = (0.0, 2.0, -2.0)
# Of waiting only: for who may stand before a lock of a thread that has stopped.
GRACE = 0.02
# Seconds in which nothing times out, however slow the machine.
LONG = 120

rows = LeadExecConnection.objects


def identify(session: LeadExecSession) -> Any:
    pause()
    return site.identify(session)


def create_user(account_id: str, session: LeadExecSession) -> Any:
    return make_user()


@transaction.atomic
def page(request: HttpRequest) -> HttpResponse:
    """Needs an access token, inside its own transaction."""
    with writing(
        LeadExecConnection, "default"
    ):  # SQLite can't wait for its one writer once a transaction has read
        row = lifecycle.usable_connection(request.user)
    if row is None:
        return HttpResponse(status=404)
    try:
        token = row.get_access_token(float(request.GET["ttl"]))
    except LeadExecError as error:
        token = type(error).__name__
    pause()
    if request.GET["undo"] == "True":
        transaction.set_rollback(True)
    return HttpResponse(token)


urlpatterns = [*common, path("needs-token/", page)]


class Machine(RuleBasedStateMachine):
    provider: ClassVar[PausedProvider]
    site: ClassVar[Settings]
    first_key: ClassVar[str]
    kind_of_thread = SteppedThread
    log: ClassVar[CallLog]
    ears: ClassVar[Ears]
    # Tokens in the order in which they were linked to a row, also if that was then undone.
    links: ClassVar[defaultdict[int, list[str]]]

    @initialize(kind=st.sampled_from(["of users", "of accounts", "signing in"]))
    def begin_again(self, kind: str) -> None:
        self.signs_in = kind == "signing in"
        self.identifies = identifies = kind != "of users"
        self.site.LEADEXEC = self.site.LEADEXEC | {
            "ENCRYPTION_KEYS": self.first_keys(),
            "SIGN_IN": self.signs_in,
            "IDENTIFY": f"{__name__}.identify" if identifies else None,
            "CREATE_USER": f"{__name__}.create_user" if self.signs_in else None,
        }
        self.provider.start_over()
        self.log.__init__()  # type: ignore[misc]
        self.ears.__init__()  # type: ignore[misc]
        clock.passed.value = 0
        self.links.clear()
        self.threads: list[SteppedThread] = []
        self.broken = False
        self.posted: defaultdict[int, set[str]] = defaultdict(set)
        # By visitors who weren't logged in; whose it is then depends on the account.
        self.posted_by_strangers: set[str] = set()
        # Rows, and users, for which somebody has asked for an end.
        self.ending_rows: set[int] = set()
        self.ending_users: set[int] = set()
        # Rows that have been refused for a month.
        self.given_up: set[int] = set()
        self.seen: dict[int, Row] = {}
        self.seen_outbox: set[str] = set()
        self.users = [make_user() for _ in range(4)]
        self.root = get_user_model().objects.create_superuser("root")
        self.cookies = {}
        for user in [*self.users, self.root]:
            client = Client()
            client.force_login(user, "django.contrib.auth.backends.ModelBackend")
            self.cookies[user.pk] = client.cookies
        self.loaded = []
        for user, account in zip(self.users, ACCOUNTS, strict=False):
            token = f"{account}-0"
            row = make_connection(
                token, user=user, account_id=account if identifies else "", expires_in=-1
            )
            self.posted[user.pk].add(token)
            self.links[row.pk].append(token)
            self.loaded.append(row)

    def first_keys(self) -> list[str]:
        return [self.first_key]

    def turn_keys(self, keys: list[str]) -> list[str]:
        """The keys from now on, the first of them another one."""
        return [Fernet.generate_key().decode(), *keys] if len(keys) < 4 else keys

    # Making threads go on

    def running(self) -> list[SteppedThread]:
        return [thread for thread in self.threads if not thread.done]

    def settle(self) -> None:
        """Until all have stopped, ended or wait for the provider, but for those before a lock."""

        def is_quiet() -> bool:
            running = self.running()
            return sum(len(thread.calls) for thread in running) == len(
                self.provider.waiting
            ) and all(thread.stopped or thread.calls for thread in running)

        with changed:
            # Who waits for a lock may get it meanwhile, and then keep it from another.
            moves = changed.wait_for(lambda: is_quiet() or self.locks_are_held(), PATIENCE)
            assert moves, self.running()
            changed.wait_for(is_quiet, GRACE)

    def locks_are_held(self) -> bool:
        return any(thread.holds_locks for thread in self.running() if thread.in_transaction)

    def begin(
        self,
        name: str,
        work: Work,
        judge: Callable[[object], object],
        *,
        steps: int = 0,
        in_transaction: bool = False,
    ) -> None:
        running = self.running()
        if len(running) >= AT_ONCE:
            thread = running[steps % AT_ONCE]
            steps += 1
        else:
            thread = self.kind_of_thread(name, work, judge, CLOCK_ERRORS[steps % len(CLOCK_ERRORS)])
            thread.in_transaction = in_transaction
            self.threads.append(thread)
            thread.start()
            self.settle()
        self.advance(thread, steps)

    def advance(self, thread: SteppedThread, steps: int) -> None:
        """Let it go on that many times, whatever it waits for."""
        for step in range(steps):
            calls = [call for call in self.provider.waiting if call.token in thread.calls]
            if thread.stopped:
                thread.go()
                self.settle()
            elif calls:
                self.say(calls[0], steps - step - 1)

    def say(self, call: Call, kind: int) -> None:
        is_refresh = call.action == "refreshaccesstoken"
        answers = REFRESH_ANSWERS if is_refresh else DISCONNECT_ANSWERS
        self.provider.let_go(call, answers[kind % len(answers)])
        self.settle()

    def request(self, user: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.client(self.cookies[user.pk]), method)(url, *args, **kwargs)

    def client(self, cookies: Any = None) -> Client:
        # What raises in one thread would reach the clients of all others as a signal.
        client = Client(raise_request_exception=False)
        if cookies:
            client.cookies = copy(cookies)
        return client

    numbers = st.integers(0, 11)
    headstarts = st.integers(0, 16)
    slots = st.integers(0, 1)
    ttls = st.sampled_from([60, 99_999])

    @rule(number=numbers, steps=st.integers(1, 20))
    def let_go(self, number: int, steps: int) -> None:
        if running := self.running():
            self.advance(running[number % len(running)], steps)

    @rule(number=numbers, kind=st.integers(0, 5))
    def answer(self, number: int, kind: int) -> None:
        if waiting := list(self.provider.waiting):
            self.say(waiting[number % len(waiting)], kind)

    # What users, operators and time do

    @rule(slot=slots, account=st.sampled_from(ACCOUNTS), number=slots, steps=headstarts)
    def authorize(self, slot: int, account: str, number: int, steps: int) -> None:
        user, token = self.users[slot], f"{account}-{number}"

        def judge(response: Any) -> None:
            is_gone = response.status_code == 403 and user.pk in self.ending_users
            assert is_gone or response.status_code in (200, 302, 409, 422, 502, 503)

        self.posted[user.pk].add(token)
        work = partial(self.call_back, token, self.cookies[user.pk])
        self.begin(f"authorize {token}", work, judge, steps=steps)

    def call_back(self, token: str, cookies: Any = None) -> Any:
        """Post a token, and confirm the link if asked to."""
        client = self.client(cookies)
        body = callback_body(client, token)
        response = client.post("/leadexec/callback/", body, content_type="application/json")
        if response.status_code == 200 and response.json()["status"] == "confirm_required":
            response = client.get("/leadexec/confirm/")
            # None where the user has been deleted meanwhile.
            name = re.search(r'name="link" value="([^"]+)"', response.content.decode())
            if name:
                return client.post("/leadexec/confirm/", confirmed(client, name[1]))
        return response

    @precondition(lambda self: self.signs_in)
    @rule(account=st.sampled_from(ACCOUNTS), number=slots, steps=headstarts)
    def come_in(self, account: str, number: int, steps: int) -> None:
        token = f"{account}-{number}"
        self.posted_by_strangers.add(token)

        def judge(response: Any) -> None:
            assert response.status_code in (200, 409, 422, 502) or self.ending_users

        self.begin(f"come in by {token}", partial(self.call_back, token), judge, steps=steps)

    def judge_access_token(self, row: LeadExecConnection, was_live: bool, result: object) -> None:
        if isinstance(result, str):
            assert was_live
            self.judge_owner(row.user_id, result)
        else:
            assert isinstance(result, LeadExecError), result
            assert not isinstance(result, DecryptionFailed)
            assert was_live or isinstance(result, AuthorizationRejected)

    def judge_owner(self, user_id: int, access_token: str) -> None:
        token = access_token.rpartition("-for-")[2]
        assert token in self.posted[user_id] | self.posted_by_strangers, access_token

    @rule(number=numbers, ttl=ttls, in_async=st.booleans(), steps=headstarts)
    def get_access_token(self, number: int, ttl: float, in_async: bool, steps: int) -> None:
        row = self.loaded[number % len(self.loaded)]
        now = self.seen.get(row.pk)
        judge = partial(self.judge_access_token, row, now is not None and now.is_live)
        get = async_to_sync(row.aget_access_token) if in_async else row.get_access_token
        self.begin(f"get {row.pk}", partial(get, ttl), judge, steps=steps)

    @rule(number=numbers, steps=headstarts)
    def get_another_after_a_401(self, number: int, steps: int) -> None:
        row = self.loaded[number % len(self.loaded)]
        now = self.seen.get(row.pk)
        refused = now.access_token if now else ""
        stored = rows.filter(pk=row.pk).first()
        # A token that is this young is kept although it is refused.
        patience = REFUSED_TOKEN_KEPT_FOR + 2 * CLOCK_SKEW
        may_be_kept = stored is not None and stored.was_refreshed_within(patience)

        def judge(result: object) -> None:
            self.judge_access_token(row, now is not None and now.is_live, result)
            assert result != refused or may_be_kept

        auth: Any = row.session().auth

        def get() -> str:
            token: str = auth._get_token(Secret(refused)).reveal()
            return token

        self.begin(f"401 of {row.pk}", get, judge, steps=steps)

    @rule(slot=slots, ttl=ttls, undo=st.booleans(), steps=headstarts)
    def get_in_a_transaction(self, slot: int, ttl: float, undo: bool, steps: int) -> None:
        user = self.users[slot]

        def judge(response: Any) -> None:
            assert response.status_code in (200, 404)
            text = response.content.decode()
            if response.status_code == 200 and "-for-" in text:
                self.judge_owner(user.pk, text)
            else:
                assert text in ("", "AuthorizationRejected", "ProviderUnavailable")

        get = partial(self.request, user, "get", "/needs-token/", {"ttl": ttl, "undo": undo})
        self.begin(f"page of {user.pk}", get, judge, steps=steps, in_transaction=True)

    @rule(number=numbers, in_async=st.booleans(), steps=headstarts)
    def revoke(self, number: int, in_async: bool, steps: int) -> None:
        row = copy(self.loaded[number % len(self.loaded)])
        self.ending_rows.add(row.pk)
        revoke = async_to_sync(row.arevoke) if in_async else row.revoke
        self.begin(f"revoke {row.pk}", revoke, is_one_of(True, False), steps=steps)

    @rule(slot=slots, steps=headstarts)
    def disconnect(self, slot: int, steps: int) -> None:
        user = self.users[slot]
        self.ending_users.add(user.pk)
        post = partial(self.request, user, "post", "/leadexec/disconnect/")
        self.begin(
            f"disconnect {user.pk}",
            partial(post, headers={"Accept": "application/json"}),
            has_status(200, 403, 404),
            steps=steps,
        )

    @rule(
        first=numbers,
        second=numbers,
        action=st.sampled_from(["revoke_selected", "delete_selected", "refresh_selected"]),
        steps=headstarts,
    )
    def use_the_admin(self, first: int, second: int, action: str, steps: int) -> None:
        keys = {self.loaded[number % len(self.loaded)].pk for number in (first, second)}
        if action != "refresh_selected":
            self.ending_rows |= keys
        url = "/admin/django_leadexec/leadexecconnection/"
        fields = {"action": action, ACTION_CHECKBOX_NAME: sorted(keys), "post": "yes"}
        post = partial(self.request, self.root, "post", url, fields)
        self.begin(f"{action} {keys}", post, has_status(302), steps=steps)

    @rule(slot=slots, steps=headstarts)
    def delete_user(self, slot: int, steps: int) -> None:
        if len(self.users) > 2:
            user = self.users[slot]
            self.users[slot] = self.users.pop()
            self.ending_users.add(user.pk)
            # Django's own: a row that is linked while its user goes, or a deadlock with it.
            judge = is_a(tuple, IntegrityError, OperationalError)
            self.begin(f"delete user {user.pk}", copy(user).delete, judge, steps=steps)

    @rule(slot=slots, steps=headstarts)
    def delete_rows(self, slot: int, steps: int) -> None:
        user = self.users[slot]
        self.ending_users.add(user.pk)
        delete = rows.filter(user_id=user.pk).delete
        self.begin(f"delete rows of {user.pk}", delete, is_a(tuple), steps=steps)

    @rule(everything=st.booleans(), steps=headstarts)
    def refresh_in_bulk(self, everything: bool, steps: int) -> None:
        options = Options.for_all("default", everything=everything, workers=2, batch_size=2)
        self.begin("bulk", Refresher(options).run, is_a(refresh.Report), steps=steps)

    @rule(steps=headstarts)
    def rotate_keys(self, steps: int) -> None:
        self.site.LEADEXEC = self.site.LEADEXEC | {
            "ENCRYPTION_KEYS": self.turn_keys(self.site.LEADEXEC["ENCRYPTION_KEYS"])
        }
        self.begin("rotate", rotate, is_a(rotation.Tally), steps=steps)

    @rule()
    def let_an_hour_pass(self) -> None:
        self.begin("an hour passes", make_all_due, is_one_of(None))

    @rule()
    def let_a_month_pass(self) -> None:
        self.given_up |= {
            row.pk for row in self.seen.values() if row.status == LeadExecConnection.Status.REJECTED
        }
        past = from_timestamp(clock.time() - 31 * DAY)
        refused = rows.filter(pk__in=self.given_up)
        self.begin(
            "a month passes",
            lambda: refused.write(rejected_at=past, refresh_after=past),
            is_a(int),
        )

    @rule(kind=st.integers(0, 5))
    def be_stopped(self, kind: int) -> None:
        """All stand still until their leases are over. What was asked has been answered by then."""
        for call in list(self.provider.waiting):
            if call.action == "refreshaccesstoken":
                self.say(call, kind)
        with changed:
            if not any(call.action == "refreshaccesstoken" for call in self.provider.waiting):
                clock.passed.value += 6 * LONG

    @rule(number=numbers)
    def let_a_lease_end(self, number: int) -> None:
        """The holder has its answer, and comes to write it only after its lease."""
        if late := [thread for thread in self.running() if thread.stopped and thread.writes]:
            held = late[number % len(late)].writes
            self.begin("a lease ends", partial(end_leases, held), is_one_of(None))

    # The model

    @invariant()
    def holds(self) -> None:
        self.broken = True
        now, outbox = snapshot()
        for thread in [thread for thread in self.threads if thread.done]:
            self.threads.remove(thread)
            result = thread.result()
            try:
                thread.judge(result)
            except Exception as error:
                error.add_note(f"{thread.name}: {result!r}, {getattr(result, 'exc_info', None)}")
                raise
        live = [row for row in now.values() if row.is_live]
        self.check_calls()
        assert not self.ears.wrong
        for row in now.values():
            self.check_row(row)
        self.check_that_one_account_has_one_row(live)
        tokens = {row.refresh_token for row in live}
        assert not tokens & outbox
        assert tokens & self.provider.revoked <= self.provider.linked_too_late
        for before in self.seen.values():
            if before.is_live:
                self.check_change(before, now.get(before.pk), live, outbox)
        told = self.provider.revoked | (self.provider.unclear & self.provider.said_no)
        assert self.seen_outbox - outbox <= told
        known = self.seen.keys() | {row.pk for row in self.loaded}
        self.loaded += rows.filter(pk__in=now.keys() - known).order_by("pk")
        del self.loaded[:-3]
        self.seen, self.seen_outbox = now, outbox
        self.broken = False

    def check_calls(self) -> None:
        assert not self.log.overlapping
        assert self.provider.overlaps <= self.log.unleased
        assert not self.log.in_transaction

    def check_row(self, row: Row) -> None:
        if not row.is_live:
            assert (row.refresh_token, row.access_token, row.fingerprint) == (
                "",
                "",
                None,
            )
            return
        assert row.refresh_token in self.posted[row.user_id] | self.posted_by_strangers
        assert row.access_token.endswith(f"-for-{row.refresh_token}")
        assert row.account_id == (row.refresh_token.partition("-")[0] if self.identifies else "")
        if row.status == LeadExecConnection.Status.REJECTED:
            assert row.refresh_token in self.provider.said_no

    def check_that_one_account_has_one_row(self, live: list[Row]) -> None:
        assert set(Counter(row.refresh_token for row in live).values()) <= {1}
        of = [row.account_id if self.identifies else row.user_id for row in live]
        assert len(of) == len(set(of))

    def check_change(
        self, before: Row, after: Row | None, live: list[Row], outbox: set[str]
    ) -> None:
        token = before.refresh_token
        if after is not None:
            assert after.version >= before.version
        if after is not None and after.refresh_token == token:
            assert after.number >= before.number
            return
        moved = [row for row in live if row.refresh_token == token]
        later = self.links[before.pk][self.links[before.pk].index(token) + 1 :]
        replaced = any(other != token for other in later)
        told = self.provider.revoked | (self.provider.unclear & self.provider.said_no)
        given_up = before.pk in self.given_up and token in self.provider.said_no
        assert moved or replaced or given_up or token in outbox | told
        if (after is None or not after.is_live) and not moved and not given_up:
            assert before.pk in self.ending_rows or before.user_id in self.ending_users

    # The end of an example

    def teardown(self) -> None:
        """All go on at once; what they leave behind is for the next run to finish."""
        if not hasattr(self, "threads"):
            return
        try:
            self.let_all_go()
            if not self.broken:
                self.holds()
                self.check_that_the_next_run_finishes()
        finally:
            for model in (LogEntry, PendingRevocation, LeadExecConnection, get_user_model()):
                everything: Any = model._default_manager.all()
                everything._raw_delete(everything.db)

    def let_all_go(self) -> None:
        with changed:
            self.provider.free = True
        for thread in self.threads:
            thread.set_free()
        for call in list(self.provider.waiting):
            self.provider.let_go(call)
        for thread in self.threads:
            thread.result(PATIENCE)

    def check_that_the_next_run_finishes(self) -> None:
        everything = (*rows.all(), *PendingRevocation.objects.all())
        assert not [row for row in everything if row.lease_until / 1000 > clock.time()]
        # A clock that is ahead lets go as much later as it is ahead.
        clock.passed.value += 2 * max(CLOCK_ERRORS)
        assert rotate().busy == 0
        self.site.LEADEXEC = self.site.LEADEXEC | {
            "ENCRYPTION_KEYS": self.site.LEADEXEC["ENCRYPTION_KEYS"][:1]
        }
        make_all_due()
        PendingRevocation.objects.update(retry_after=from_timestamp(0))
        report = Refresher(Options.for_all("default")).run()
        assert (report.failed, report.skipped, report.pending) == (0, 0, 0)
        self.holds()
        assert not self.seen_outbox
        for row in rows.live():
            is_fine = row.status == row.Status.ACTIVE and row.lives(60)
            assert is_fine or plain(row.refresh_token) in self.provider.linked_too_late


def is_one_of(*results: object) -> Callable[[object], object]:
    def judge(result: object) -> None:
        assert result in results

    return judge


def is_a(*kinds: type) -> Callable[[object], object]:
    def judge(result: object) -> None:
        assert isinstance(result, kinds)

    return judge


def has_status(*statuses: int) -> Callable[[Any], object]:
    def judge(response: Any) -> None:
        assert response.status_code in statuses

    return judge


def rotate() -> rotation.Tally:
    tallies = []
    for tally in rotation.rotate_keys("default"):
        tallies.append(tally)
        pause()
    return tallies[-1]


def make_all_due() -> None:
    past = from_timestamp(clock.time() - 60)
    retry_on_deadlock("default", lambda: rows.live().update(expires_at=past, refresh_after=past))


def end_leases(claims: list[Claim[LeadExecConnection]]) -> None:
    for claim in claims:
        rows.filter(pk=claim.row.pk, lease_id=claim.lease_id).write(lease_until=0)


@pytest.fixture
def machine(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[type[Machine]]:
    settings.DEBUG = True  # the provider speaks http
    settings.ROOT_URLCONF = __name__
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    caplog.set_level(logging.CRITICAL, "django.request")
    # On SQLite a request that has read can't wait for another's write: there it takes
    # transaction_mode IMMEDIATE, which would hide how the package itself begins to write.
    is_atomic = database.vendor != "sqlite"
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", is_atomic)
    if database.vendor == "sqlite":
        monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "timeout", PATIENCE)
    log = CallLog()
    links: defaultdict[int, list[str]] = defaultdict(list)
    provider = PausedProvider(lifetime=DAY / 2)
    ears = Ears()

    def note_link(thread: object, pk: int, token: str) -> None:
        links[pk].append(token)
        if token in provider.revoked:
            provider.linked_too_late.add(token)

    for what, handler in (
        ("began", log.began),
        ("ended", log.ended),
        ("called in a transaction", log.called_in_a_transaction),
        ("heard", ears.note),
        ("linked", note_link),
    ):
        monkeypatch.setitem(handlers, what, handler)
    listeners = {
        getattr(signals, f"connection_{name}"): ears.listener(name)
        for name in ("authorized", "refreshed", "rejected", "revoked")
    }
    for signal, hear in listeners.items():
        signal.connect(hear, sender=LeadExecConnection)

    real_link = linking.link

    def link(
        user: Any, app_id: str, token: Secret, *args: Any, **kwargs: Any
    ) -> LeadExecConnection:
        row = real_link(user, app_id, token, *args, **kwargs)
        # By now the outbox has been looked into.
        handlers["linked"](None, row.pk, Secret.of(token).reveal())
        return row

    for owner, name in (
        (LeasedQuerySet, "claim"),
        (LeasedQuerySet, "release"),
        (models.ConnectionQuerySet, "write_claimed"),
        (models.ConnectionQuerySet, "move_to_outbox"),
    ):
        monkeypatch.setattr(owner, name, stepped_threads.pausing(getattr(owner, name)))
    for job in (RefreshJob, RevocationJob):
        monkeypatch.setattr(job, "call", stepped_threads.of_its_claimer(job.call))
    for module in (clock_module, leases, models, lifecycle, rotation, run_module, gate):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(timezone, "now", clock.now)
    monkeypatch.setattr(linking, "store", stepped_threads.between_pauses(linking.store))
    for name in ("refresh", "revoke"):
        call = getattr(provider_client.Client, name)
        spied = log.spy(call, is_refresh=name == "refresh")
        monkeypatch.setattr(provider_client.Client, name, spied)
    monkeypatch.setattr(linking, "link", link)
    for module in (lifecycle, revocation):
        monkeypatch.setattr(module, "run", stepped_threads.run_stepwise)
        monkeypatch.setattr(module, "arun", stepped_threads.arun_stepwise)
    monkeypatch.setattr(shared_answers, "run", stepped_threads.run_stepwise)
    monkeypatch.setattr(throttle, "consume", lambda request: pause())
    monkeypatch.setattr(lifecycle, "POLL_INTERVAL", 0.001)
    monkeypatch.setattr(LeadExecConnectionAdmin, "seconds", LONG)
    monkeypatch.setattr(rotation, "PATIENCE", 0)
    monkeypatch.setattr(turn, "WRITE_INTERVAL", 0.01)
    with provider:
        settings.LEADEXEC = settings.LEADEXEC | {
            "BASE_URL": provider.url,
            "ACCOUNT_API_URL": provider.url,
            "DATA_API_URL": provider.url,
            "TIMEOUT": LONG,
        }
        (key,) = settings.LEADEXEC["ENCRYPTION_KEYS"]
        names = {"provider": provider, "site": settings, "first_key": key, "ears": ears}
        yield type("Machine", (Machine,), {**names, "log": log, "links": links})
    for signal, hear in listeners.items():
        signal.disconnect(hear, sender=LeadExecConnection)


def run(machine: type[Machine], examples: int) -> None:
    stateful.run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(EXAMPLES or examples),
            stateful_step_count=40,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            print_blob=bool(EXAMPLES),
            suppress_health_check=list(HealthCheck),
            # What threads do to each other seldom happens again, so there is nothing to shrink.
            phases=[Phase.generate],
        ),
    )


@pytest.mark.slow
def test_whatever_falls_between_whatever(machine: type[Machine]) -> None:
    run(machine, examples=12)
