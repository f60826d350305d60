"""Invariant 7: tokens are plain text only in memory, whatever goes wrong and whoever looks on."""

import asyncio
import io
import itertools
import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import django
import pytest
import requests
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from django_leadexec import authorization, conf, crypto, pending_link
from django_leadexec.conf import find_problems, get_settings, new_key
from django_leadexec.exceptions import LeadExecError
from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.provider import client, replies
from django_leadexec.secret import Secret
from django_leadexec.testing.provider import FakeProvider
from django_leadexec.verification import Verified

from .. import processes
from .. import provider as stand_in
from ..concurrency.threads import begin
from ..factories import make_connection, make_user
from ..needs import import_or_skip
from ..processes import wait_until
from ..provider import Answer, Provider, http
from ..settings import KEY
from ..sockets import apis_at
from ..visitor import callback_body, confirmed
from . import canaries
from .leak_recorder import LeakRecorder, Saboteur, recording_leaks
from .test_canaries import DISGUISES

pytestmark = pytest.mark.django_db(transaction=True)
# For what takes long and is the same on every database.
ONCE = pytest.mark.sqlite

REFRESH, ACCESS = canaries.make_canary("Refresh"), canaries.make_canary("Access")
OTHER = canaries.make_canary("Other")


@contextmanager
def nothing_leaks(*, mails: bool = False) -> Iterator[LeakRecorder]:
    with recording_leaks(REFRESH, ACCESS, OTHER, KEY, mails=mails) as recorder:
        yield recorder
        recorder.examine_storage()
    assert recorder.leaks() == {}


def fresh(provider: Provider, token: str) -> bytes:
    return http({"valid": True, "refreshToken": token, "authToken": ACCESS, "errorMessage": None})


def saying_no(message: str) -> Answer:
    return lambda provider, token: http(
        {"valid": False, "refreshToken": token, "authToken": ACCESS, "errorMessage": message}
    )


def answering(data: bytes) -> Answer:
    return lambda provider, token: data


QUOTE = f"{REFRESH} {ACCESS}"
ANSWERS: dict[str, Answer] = {
    "a yes": fresh,
    "another's echo": answering(http({"valid": True, "refreshToken": OTHER, "authToken": ACCESS})),
    "a yes without a token": answering(http({"valid": True, "refreshToken": REFRESH})),
    "an access token that can't be": answering(http({"valid": True, "authToken": f"{ACCESS} x"})),
    "an error page": answering(http(QUOTE.encode(), 500, content_type="text/html")),
    "a gateway's no": answering(http({"valid": False, "errorMessage": QUOTE}, 403)),
    "not found": answering(http({"errorMessage": QUOTE}, 404)),
    "throttling": answering(http({}, 429, f"Retry-After: {REFRESH}\r\n")),
    "a redirect": answering(http(b"", 302, f"Location: /login?next={REFRESH}\r\n")),
    "half a body": answering(
        f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 999\r\n\r\n{QUOTE}".encode()
    ),
    "half a JSON": answering(http(f'{{"valid": true, "authToken": "{ACCESS}'.encode())),
    "no HTTP": answering(f"{QUOTE}\r\n\r\n".encode()),
    "a reset": stand_in.reset,
    **{
        f"a no that quotes, {name}": saying_no(f"bad: {disguise(REFRESH)}")
        for name, disguise in DISGUISES.items()
    },
    **{
        f"a no that quotes the access token, {name}": saying_no(f"bad: {disguise(ACCESS)}")
        for name, disguise in DISGUISES.items()
    },
}
TROUBLES = [name for name in ANSWERS if "that quotes" not in name] + ["a no that quotes, plain"]


def clear() -> None:
    """Deleting a connection puts its token in the outbox, whence it can't be linked again."""
    for model in (LeadExecConnection, PendingRevocation, get_user_model()):
        model._default_manager.all().delete()


def in_transaction(row: LeadExecConnection) -> object:
    with transaction.atomic():
        return row.get_access_token()


DOORS: dict[str, Callable[[LeadExecConnection], object]] = {
    "get_access_token": lambda row: row.get_access_token(),
    "aget_access_token": lambda row: async_to_sync(row.aget_access_token)(),
    "get_access_token in a transaction": in_transaction,
    "session": lambda row: row.session().get(f"{get_settings().account_api_url}/data/api/leads"),
    "revoke": lambda row: row.revoke(),
    "arevoke": lambda row: async_to_sync(row.arevoke)(),
    "delete": lambda row: row.delete(),
}


def due(token: str = REFRESH, **fields: Any) -> LeadExecConnection:
    return make_connection(token, expires_in=-10, **fields)


@ONCE
@pytest.mark.parametrize("name", ANSWERS)
def test_no_answer_of_the_provider_shows_a_token(
    name: str, provider: Provider, settings: Settings
) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 0.5}
    provider.default = ANSWERS[name]
    provider.answers[f"disconnect {REFRESH}"] = ANSWERS[name]
    doors = DOORS if name in TROUBLES else {"get_access_token": DOORS["get_access_token"]}
    with nothing_leaks() as recorder:
        for door in doors.values():
            row = due()
            try:
                door(row)
            except (LeadExecError, requests.RequestException) as error:
                recorder.examine(error)
            recorder.show(row, *PendingRevocation.objects.all())
            clear()


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9", "https://127.0.0.1:{port}", "http://provider.invalid"],
    ids=["refused", "no TLS", "no DNS"],
)
def test_no_trouble_on_the_way_shows_a_token(
    url: str,
    door: Callable[[LeadExecConnection], object],
    provider: Provider,
    settings: Settings,
) -> None:
    url = url.format(port=provider.url.rpartition(":")[2])
    settings.LEADEXEC = settings.LEADEXEC | {"BASE_URL": url, "TIMEOUT": 0.5} | apis_at(url)
    with nothing_leaks() as recorder:
        # Once with a token that lives, which the API is called with, and once without.
        for expires_in in (3600, -10):
            row = make_connection(REFRESH, expires_in=expires_in)
            try:
                door(row)
            except (LeadExecError, requests.RequestException) as error:
                recorder.examine(error)
            recorder.show(row)
            clear()


def test_no_timeout_shows_a_token(provider: Provider, settings: Settings) -> None:
    settings.LEADEXEC = settings.LEADEXEC | {"TIMEOUT": 0.2}
    provider.held.set()
    with nothing_leaks() as recorder:
        for door in DOORS.values():
            try:
                door(due())
            except LeadExecError as error:
                recorder.examine(error)
            clear()


class Interrupted(Exception):
    """As Celery's SoftTimeLimitExceeded: raised by a signal, wherever the program is."""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", [Interrupted, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("door", ["get_access_token", "session", "revoke"])
def test_no_interruption_in_the_middle_of_a_call_shows_a_token(
    door: str, kind: type[BaseException], provider: Provider
) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise kind

    def interrupt_the_call() -> None:
        wait_until(lambda: provider.calls or returned.is_set())
        if not returned.is_set():
            os.kill(os.getpid(), signal.SIGALRM)

    interrupted = False
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with nothing_leaks() as recorder:
            for expires_in in (3600, -10):
                row = make_connection(REFRESH, expires_in=expires_in)
                provider.held.set()
                provider.calls.clear()
                returned = threading.Event()
                interrupter = begin(interrupt_the_call)
                try:
                    DOORS[door](row)
                except kind as error:
                    interrupted = True
                    recorder.examine(error)
                returned.set()
                interrupter.result()
                provider.held.clear()
                clear()
            assert interrupted
            assert recorder.seen
    finally:
        signal.signal(signal.SIGALRM, before)


def interrupted_at_each_call(
    work: Callable[[], object], *, prepare: Callable[[], object]
) -> Iterator[BaseException]:
    """What comes of ``work`` if a signal interrupts it as its first function begins, and so on.

    That is where Python looks whether there has been a signal.
    """
    for number in itertools.count(1):
        prepare()
        calls = itertools.count(1)

        def interrupt(frame: object, event: str, arg: object, calls: Any = calls) -> None:
            if next(calls) == number:  # noqa: B023 - called before the next round
                sys.settrace(None)
                raise Interrupted

        before = sys.gettrace()
        sys.settrace(interrupt)
        try:
            work()
        except Interrupted as error:
            yield error
        else:
            return
        finally:
            sys.settrace(before)


@pytest.mark.parametrize(
    "work",
    [crypto.decrypt, crypto.rotate, crypto.is_current, crypto.opens, lambda _: find_problems()],
    ids=["decrypt", "rotate", "is_current", "opens", "find_problems"],
)
def test_no_interruption_while_keys_are_read_and_used_shows_one(
    work: Callable[[str], object], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ciphertext = crypto.encrypt(REFRESH)
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [new_key(), KEY]}

    def forget_the_keys() -> None:
        monkeypatch.setattr(conf, "_last", None)
        crypto._fernet.cache_clear()

    errors = 0
    with nothing_leaks() as recorder:
        for error in interrupted_at_each_call(lambda: work(ciphertext), prepare=forget_the_keys):
            recorder.examine(error)
            errors += 1
    assert errors > 10


def test_no_stored_token_that_does_not_open_shows_anything(
    provider: Provider, settings: Settings
) -> None:
    with nothing_leaks() as recorder:
        for expires_in, door in itertools.product((3600, -10), DOORS.values()):
            row = make_connection(REFRESH, expires_in=expires_in)
            keys, settings.LEADEXEC = (
                settings.LEADEXEC,
                settings.LEADEXEC | {"ENCRYPTION_KEYS": [new_key()]},
            )
            try:
                door(row)
            except LeadExecError as error:
                recorder.examine(error)
            settings.LEADEXEC = keys
            clear()
        assert recorder.seen


def test_no_401_of_the_api_shows_a_token(provider: Provider, settings: Settings) -> None:
    """The second try meets each of the troubles, with the refused token in hand."""
    provider.answers["disconnect leads"] = answering(http(b"", 401))
    with nothing_leaks() as recorder:
        for name in TROUBLES:
            provider.default = ANSWERS[name]
            row = make_connection(REFRESH)
            session = row.session()
            try:
                response = session.get(f"{provider.url}/data/api/leads")
                recorder.show(
                    response, response.request, response.request.headers, response.history
                )
            except LeadExecError as error:
                recorder.examine(error)
            recorder.show(session, session.auth, vars(session))
            clear()


# Databases that fail, and say with what


def strike_each_statement(
    recorder: LeakRecorder,
    prepare: Callable[[], Any],
    act: Callable[[Any], object],
    kind: type[Exception],
) -> int:
    """Run ``act`` until it gets through, each time with one statement more before the failure."""
    for nth in itertools.count(1):
        clear()
        prepared = prepare()
        saboteur = Saboteur(nth, kind)
        with connection.execute_wrapper(saboteur):
            try:
                act(prepared)
            except Exception as error:
                recorder.examine(error)
        if not saboteur.has_struck:
            return nth - 1
    raise AssertionError


@pytest.mark.parametrize("kind", [OperationalError, IntegrityError])
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_no_failure_of_the_database_shows_a_token(
    door: Callable[[LeadExecConnection], object], kind: type[Exception], provider: Provider
) -> None:
    provider.default = fresh
    with nothing_leaks() as recorder:
        assert strike_each_statement(recorder, due, door, kind)


# The callback


def post(browser: Client, token: str, gesture: bool = True, accept: str = "text/html") -> Any:
    return browser.post(
        reverse("leadexec:callback"),
        json.dumps(callback_body(browser, token, gesture)),
        content_type="application/json",
        headers={"accept": accept},
    )


def fail_with_the_token_in_hand(*arguments: Any) -> Any:
    session = arguments[-1]
    response = session.get(f"{session.account_api}/data/api/leads")
    raise RuntimeError(f"no account in {response}")


def fail_by_itself(*arguments: Any) -> Any:
    session = arguments[-1]
    raise RuntimeError(f"no account in {session}")


def fail_at_the_api(*arguments: Any) -> Any:
    return arguments[-1].get("http://127.0.0.1:9/leads", timeout=0.5)


def go_elsewhere(*arguments: Any) -> Any:
    return arguments[-1].get("https://elsewhere.test/leads")


def identify(session: Any) -> str:
    return "acme"


def create_user(account_id: str, session: Any) -> Any:
    return make_user()


HERE = "tests.security.test_leaks"
SITES: dict[str, dict[str, Any]] = {
    "plain": {},
    "SIGN_IN": {"SIGN_IN": True},
    "IDENTIFY": {"IDENTIFY": f"{HERE}.identify"},
    "IDENTIFY fails": {"IDENTIFY": f"{HERE}.fail_with_the_token_in_hand"},
    "IDENTIFY can't reach": {"IDENTIFY": f"{HERE}.fail_at_the_api"},
    "IDENTIFY goes elsewhere": {"IDENTIFY": f"{HERE}.go_elsewhere"},
    "CREATE_USER": {"CREATE_USER": f"{HERE}.create_user"},
    "CREATE_USER fails": {"CREATE_USER": f"{HERE}.fail_with_the_token_in_hand"},
    "CREATE_USER can't reach": {"CREATE_USER": f"{HERE}.fail_at_the_api"},
    "CREATE_USER answers nonsense": {"CREATE_USER": f"{HERE}.identify_with_two"},
}


def identify_with_two(account_id: str, session: Any) -> str:
    return account_id


def set_up(settings: Settings, site: dict[str, Any]) -> None:
    if "CREATE_USER" in site:
        site = {"SIGN_IN": True, "IDENTIFY": f"{HERE}.identify"} | site
    more = {"CALLBACK_RATE": "9999/m", "DATA_API_URL": "http://127.0.0.1:9"}
    settings.LEADEXEC = settings.LEADEXEC | site | more


class Left(Exception):
    """The visitor has seen enough."""


def visit(recorder: LeakRecorder, is_user: bool, known: bool, gesture: bool, accept: str) -> None:
    """One browser: the callback, then whatever it is sent to; it leaves after an error page."""
    with suppress(Left):
        _visit(recorder, is_user, known, gesture, accept)


def _visit(recorder: LeakRecorder, is_user: bool, known: bool, gesture: bool, accept: str) -> None:
    browser = Client(raise_request_exception=False)

    def examine(response: Any) -> None:
        recorder.examine_response(response)
        if response.status_code == 500:
            raise Left

    user = make_user()
    if is_user:
        browser.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    if known:
        make_connection(REFRESH, user=user, expires_in=-10)
    examine(post(browser, REFRESH, gesture, accept))
    recorder.add("session", browser.session.items())
    if "leadexec_pending_link" in browser.session:
        if not is_user:
            browser.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        page = browser.get(reverse("leadexec:confirm"))
        examine(page)
        link = page.context["link"] if page.status_code == 200 else ""
        yes = confirmed(browser, link)
        examine(browser.post(reverse("leadexec:confirm"), yes))
    examine(browser.get("/page/"))
    examine(browser.get(reverse("leadexec:connect")))
    examine(browser.post(reverse("leadexec:disconnect")))


BOTH = (True, False)
# Is a user, has a connection, has clicked.
VISITS = list(itertools.product(BOTH, BOTH, BOTH))


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_no_visit_shows_a_token(
    site: dict[str, Any], provider: Provider, settings: Settings
) -> None:
    set_up(settings, site)
    provider.default = fresh
    with nothing_leaks() as recorder:
        for visitor, accept in itertools.product(VISITS, ("text/html", "text/plain")):
            visit(recorder, *visitor, accept)
            clear()


@ONCE
@pytest.mark.parametrize("name", TROUBLES)
def test_no_answer_of_the_provider_shows_a_token_at_the_callback(
    name: str, provider: Provider, settings: Settings
) -> None:
    set_up(settings, SITES["CREATE_USER"] | {"TIMEOUT": 0.5})
    provider.default = provider.answers[f"disconnect {REFRESH}"] = ANSWERS[name]
    with nothing_leaks() as recorder:
        for visitor in VISITS:
            visit(recorder, *visitor, "text/html")
            clear()


@ONCE
@pytest.mark.parametrize(
    ("site", "is_user", "known"),
    [
        ("plain", True, False),
        ("plain", False, False),
        ("CREATE_USER", False, False),
        ("CREATE_USER", True, True),
        ("CREATE_USER", False, True),
    ],
)
def test_no_failure_of_the_database_shows_a_token_at_the_callback(
    site: str, is_user: bool, known: bool, provider: Provider, settings: Settings
) -> None:
    set_up(settings, SITES[site])
    provider.default = fresh
    with nothing_leaks() as recorder:
        strikes = strike_each_statement(
            recorder,
            lambda: None,
            lambda nothing: visit(recorder, is_user, known, True, "text/html"),
            IntegrityError,
        )
    assert strikes > 20


def test_no_mail_to_the_admins_shows_a_token(
    settings: Settings, mailoutbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a site in production has it: DEBUG off, errors mailed with their pages."""
    settings.DEBUG = False
    settings.LEADEXEC = settings.LEADEXEC | {
        "SIGN_IN": True,
        "IDENTIFY": f"{HERE}.identify",
        "CREATE_USER": f"{HERE}.fail_by_itself",
        "BASE_URL": "https://apps.leadexec.net",
        **apis_at("https://127.0.0.1:9"),
    }
    browser, server = Client(raise_request_exception=False), FakeProvider()
    monkeypatch.setattr(client, "client_for", lambda conf: server)
    with nothing_leaks(mails=True) as recorder:
        recorder.examine_response(post(browser, REFRESH))
        server.trouble = replies.Unavailable("down for the test")
        recorder.examine_response(post(browser, REFRESH))
    assert {message.subject.split(": ", 1)[1] for message in mailoutbox} >= {
        "Internal Server Error: /leadexec/callback/",
        "Bad Gateway: /leadexec/callback/",
    }


@pytest.mark.parametrize(
    "body",
    [
        f'{{"token": "{REFRESH[:16]}", "gesture": "maybe"}}',
        f'{{"token": "{REFRESH[:16]} ", "gesture": true}}',
        f'{{"token": ["{REFRESH[:16]}"], "gesture": true}}',
        f'{{"token": "{REFRESH[:16]}", "gesture": true',
        f'["{REFRESH[:16]}"]',
        f"token={REFRESH[:16]}",
        f'{{"token": "{REFRESH[:16]}", "x": "{"x" * 20_000}"}}',
    ],
    ids=["gesture", "blank", "list", "half", "no object", "form", "too much"],
)
@pytest.mark.parametrize("checks_csrf", [True, False])
def test_no_malformed_body_is_shown(body: str, checks_csrf: bool, provider: Provider) -> None:
    browser = Client(raise_request_exception=False, enforce_csrf_checks=checks_csrf)
    with nothing_leaks() as recorder:
        for content_type in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
            response = browser.post(reverse("leadexec:callback"), body, content_type=content_type)
            assert 400 <= response.status_code < 500
            recorder.examine_response(response)


def test_no_broken_template_shows_a_token(
    provider: Provider, settings: Settings, tmp_path: Path
) -> None:
    broken = tmp_path / "django_leadexec"
    broken.mkdir()
    for name in ("confirm", "connect", "button"):
        (broken / f"{name}.html").write_text('{% load i18n %}{% include "nowhere.html" %}')
    [engine] = settings.TEMPLATES
    settings.TEMPLATES = [engine | {"DIRS": [tmp_path, *engine["DIRS"]]}]
    set_up(settings, SITES["SIGN_IN"])
    provider.default = fresh
    with nothing_leaks() as recorder:
        for visitor in VISITS:
            visit(recorder, *visitor, "text/html")
            clear()
        assert any("TemplateDoesNotExist" in line for line in recorder.seen)


# The admin


def test_no_page_of_the_admin_shows_a_token(provider: Provider, admin_client: Client) -> None:
    with nothing_leaks() as recorder:
        for name in ("a yes", "an error page", "a no that quotes, plain"):
            provider.default = provider.answers[f"disconnect {REFRESH}"] = ANSWERS[name]
            row = due(account_id="acme")
            listed = reverse("admin:django_leadexec_leadexecconnection_changelist")
            outbox = reverse("admin:django_leadexec_pendingrevocation_changelist")
            for action in ("refresh_selected", "revoke_selected", "delete_selected"):
                data = {"action": action, "_selected_action": row.pk}
                recorder.examine_response(admin_client.post(listed, data))
                confirmed = admin_client.post(listed, data | {"post": "yes"}, follow=True)
                recorder.examine_response(confirmed)
                for page in (listed, outbox, f"{listed}?q=acme&o=6"):
                    recorder.examine_response(admin_client.get(page))
                for kind in ("change", "history", "delete"):
                    url = reverse(f"admin:django_leadexec_leadexecconnection_{kind}", args=[row.pk])
                    recorder.examine_response(admin_client.get(url, follow=True))
                for entry in PendingRevocation.objects.all():
                    url = reverse("admin:django_leadexec_pendingrevocation_change", args=[entry.pk])
                    recorder.examine_response(admin_client.get(url))
            recorder.examine_response(admin_client.get(reverse("admin:index")))
            PendingRevocation.objects.all().delete()


# Commands and tasks


COMMANDS = {
    "refresh": ("refresh_leadexec_tokens", "--all"),
    "refresh with JSON": ("refresh_leadexec_tokens", "--json"),
    "dry run": ("refresh_leadexec_tokens", "--dry-run"),
    "rotate": ("rotate_leadexec_keys",),
    "rotate with JSON": ("rotate_leadexec_keys", "--json"),
    "status": ("leadexec_status", "--max-overdue=0"),
    "check": ("check", "--deploy"),
}


def run_command(recorder: LeakRecorder, command: tuple[str, ...], **options: Any) -> None:
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command(*command, verbosity=3, traceback=True, stdout=out, stderr=err)
    except CommandError as error:
        recorder.examine(error)
    finally:
        recorder.add(f"output of {command[0]}", out.getvalue(), err.getvalue())


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_shows_a_token(
    command: tuple[str, ...], provider: Provider, settings: Settings
) -> None:
    with nothing_leaks() as recorder:
        for name in TROUBLES:
            provider.default = provider.answers[f"disconnect {OTHER}"] = ANSWERS[name]
            row, other = due(), due(OTHER)
            with transaction.atomic():
                other.revoke()
                transaction.set_rollback(False)
            run_command(recorder, command)
            settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [new_key(), KEY]}
            run_command(recorder, command)
            settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [new_key()]}
            LeadExecConnection.objects.write(refresh_after=row.refresh_after, lease_until=0)
            run_command(recorder, command)
            settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [KEY]}
            clear()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_failure_of_the_database_makes_a_command_show_a_token(
    command: tuple[str, ...], provider: Provider, settings: Settings
) -> None:
    provider.default = fresh
    settings.LEADEXEC = settings.LEADEXEC | {"ENCRYPTION_KEYS": [new_key(), KEY]}
    with nothing_leaks() as recorder:
        strike_each_statement(
            recorder, due, lambda row: run_command(recorder, command), OperationalError
        )


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads Linux' /proc")
def test_a_command_in_a_process_of_its_own_shows_no_token(provider: Provider) -> None:
    """To who lists processes, and to who collects what it prints; its memory is its own."""
    for token in (REFRESH, OTHER):
        due(token)
    provider.default = saying_no(QUOTE)
    provider.held.set()
    arguments = ("refresh_leadexec_tokens", "--verbosity=3", "--traceback", "--json")
    with recording_leaks(REFRESH, ACCESS, OTHER, KEY) as recorder:
        command = processes.start(provider, *arguments)
        try:
            processes.wait_until(lambda: provider.calls["refreshaccesstoken"] == 2)
            process = Path(f"/proc/{command.pid}")
            for path in [process / "cmdline", *process.glob("task/*/comm")]:
                recorder.add("/proc", path.read_text())
            assert "refresh_leadexec_tokens" in (process / "cmdline").read_text()
        finally:
            provider.held.clear()
            recorder.add("output", *command.communicate(timeout=60))
    assert command.returncode == 0
    assert recorder.leaks() == {}


def test_no_celery_task_shows_a_token(provider: Provider) -> None:
    import_or_skip("celery")
    from django_leadexec.tasks import refresh_tokens

    with nothing_leaks() as recorder:
        for name in TROUBLES:
            provider.default = ANSWERS[name]
            due()
            result = refresh_tokens.apply(kwargs={"workers": 2})
            recorder.show(result, result.result, result.traceback, result.args, result.kwargs)
            clear()
        saboteur = Saboteur(2, OperationalError)
        due()
        with connection.execute_wrapper(saboteur):
            result = refresh_tokens.apply(kwargs={"workers": 2})
        recorder.show(result, result.result, result.traceback)
        assert isinstance(result.result, OperationalError)
        recorder.examine(result.result)
        assert saboteur.has_struck


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has had tasks since 6.0")
def test_no_task_of_djangos_shows_a_token(provider: Provider) -> None:
    refresh_tokens: Any = import_module("django_leadexec.django_tasks").refresh_tokens
    with nothing_leaks() as recorder:
        for name in TROUBLES:
            provider.default = ANSWERS[name]
            due()
            result = refresh_tokens.enqueue(workers=2)
            recorder.show(result, result.return_value, result.args, result.kwargs)
            clear()
        saboteur = Saboteur(2, OperationalError)
        due()
        with connection.execute_wrapper(saboteur):
            result = refresh_tokens.enqueue(workers=2)
        recorder.show(result, *result.errors, *(error.traceback for error in result.errors))
        assert saboteur.has_struck
        assert result.errors


# Objects


def test_no_public_object_shows_a_token(provider: Provider) -> None:
    provider.default = fresh
    conf = get_settings()
    with nothing_leaks() as recorder:
        row = due()
        # What is handed out is text like any other, but for its repr.
        token = row.get_access_token()
        assert token == ACCESS
        assert isinstance(token, str)
        assert f"Bearer {token}" == f"Bearer {ACCESS}"
        assert json.loads(json.dumps({"token": token})) == {"token": ACCESS}
        recorder.add("repr of a token", repr(token), f"{token!r}", repr({"token": [token]}))
        session = row.session()
        response = session.get(f"{provider.url}/data/api/leads")
        outcome = authorization.authorize(
            Secret(REFRESH),
            authorization.Visit(row.user, True, lambda: None, lambda: None),
        )
        waiting = authorization.LinkWaiting(Secret(REFRESH), "acme")
        verified = Verified(Secret(REFRESH), Secret(ACCESS), 0, "acme", None, conf)
        link = pending_link.PendingLink(Secret(REFRESH), "acme", "/", "name")
        recorder.show(conf, client.get_client(), session, session.auth, response, response.request)
        recorder.show(outcome, authorization.SignedIn(row), waiting, verified, link)
        recorder.show(replies.Fresh(Secret(ACCESS), 0.0), replies.Reply(200, ACCESS.encode()))
        recorder.show(row, vars(row), pickle.dumps(row), list(LeadExecConnection.objects.all()))
        recorder.show(client.get_client().refresh(REFRESH, "app"), response.request.headers)
        row.revoke()
        recorder.show(row, vars(row), *PendingRevocation.objects.all())


def test_asyncio_in_debug_mode_shows_no_token(provider: Provider) -> None:
    """It logs what runs slowly, with its arguments."""
    provider.default = fresh
    provider.latency = 0.2
    row = due()

    async def use() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0
        with suppress(LeadExecError):
            await row.aget_access_token()
        await row.arevoke()
        # asyncio.run has a thread of its own for the database steps, and so a connection.
        await sync_to_async(connections.close_all)()

    with nothing_leaks():
        asyncio.run(use(), debug=True)
