"""manage.py import_leadexec_tokens: a table of one's own becomes connections."""

import gc
import io
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any, TextIO, cast

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, reset_queries
from django.test.utils import CaptureQueriesContext

from django_leadexec.importing import ImportOptions, TokenFile, importer
from django_leadexec.importing.rows import Row
from django_leadexec.linking import store
from django_leadexec.models import LeadExecConnection
from django_leadexec.provider.replies import Fresh
from django_leadexec.refresh import circuit_breaker

from ... import provider as stand_in
from ...factories import make_connection, make_user, plain
from ...processes import start, wait_until, wait_until_handled
from ...provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)

rows = LeadExecConnection.objects


@pytest.fixture
def table(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> str:
        path = tmp_path / "tokens"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def run(path: str, **flags: Any) -> tuple[dict[str, object], str, int]:
    """Counts, what was said on stderr, and the exit code."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        call_command("import_leadexec_tokens", path, json=True, stdout=out, stderr=err, **flags)
    except CommandError as error:
        code = error.returncode
        err.write(str(error))
    counts = json.loads(out.getvalue()) if out.getvalue() else {}
    return counts, err.getvalue(), code


def counts(
    imported: int = 0,
    known: int = 0,
    skipped: int = 0,
    next_line: int | None = None,
    end: str | None = None,
) -> dict[str, object]:
    return {
        "imported": imported,
        "known": known,
        "skipped": skipped,
        "next_line": next_line,
        "end": end,
    }


CSV = "user,token,account\r\nada,t-ada,acme\r\nbob,t-bob,\r\n"
JSON_LINES = (
    '{"user": "ada", "token": "t-ada", "account": "acme"}\n\n{"user": "bob", "token": "t-bob"}\n'
)


@pytest.mark.parametrize("text", [CSV, JSON_LINES, "\ufeff" + CSV], ids=["CSV", "JSON", "BOM"])
def test_each_row_becomes_a_connection_that_the_provider_has_accepted(
    provider: Provider, table: Any, text: str
) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    assert run(table(text)) == (counts(imported=2), "", 0)
    held = {row.user: (plain(row.refresh_token), row.account_id) for row in rows.all()}
    assert held == {ada: ("t-ada", "acme"), bob: ("t-bob", "")}
    assert ada.leadexec_connections.get().get_access_token() == "access-1-for-t-ada"
    assert provider.refreshes == {"t-ada": 1, "t-bob": 1}


def test_a_second_run_asks_about_nothing_again(provider: Provider, table: Any) -> None:
    make_user("ada"), make_user("bob")
    path = table(CSV)
    run(path)
    assert run(path) == (counts(known=2), "", 0)
    assert set(provider.refreshes.values()) == {1}


def test_a_dry_run_asks_and_writes_nothing(provider: Provider, table: Any) -> None:
    make_user("ada")
    found, said, code = run(table(CSV), dry_run=True)
    assert (found, code) == (counts(imported=1, skipped=1), 1)
    assert "Line 3: no users have its username." in said
    assert not provider.refreshes
    assert not rows.exists()


def test_without_verifying_the_rows_are_due_at_once(provider: Provider, table: Any) -> None:
    make_user("ada"), make_user("bob")
    assert run(table(CSV), no_verify=True) == (counts(imported=2), "", 0)
    assert not provider.refreshes
    assert [row.expires_at for row in rows.all()] == [None, None]


def test_a_user_may_be_named_by_another_field(provider: Provider, table: Any) -> None:
    user = make_user("ada", email="ada@example.org")
    run(table("user,token\nada@example.org,t\n"), user_field="email")
    assert rows.get().user == user
    assert run(table(CSV), user_field="nickname")[1:] == (
        "Users can't be found by 'nickname': name a column of the user model.",
        2,
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("nobody,canary", "no users have its username"),
        ("canary,nobody", "no users have its username"),
        (",canary", "it names no user"),
        ("ada,", "its token has not 1 to 2,048 visible ASCII characters"),
        ("ada,canary canary", "its token has not 1 to 2,048 visible ASCII characters"),
        ("ada," + "canary" * 500, "its token has not 1 to 2,048 visible ASCII characters"),
        ("ada,canary-of-another", "its token is connected to another user"),
        ("ada,canary,taken", "its account is another user's"),
        ("ada,canary-revoked", "its token is being revoked"),
        ("ada,canary-refused", "LeadExec refuses its token"),
        ("ada,canary-down", "LeadExec could not be asked"),
    ],
)
def test_a_row_that_can_not_be_taken_is_named_without_its_token(
    provider: Provider, table: Any, row: str, reason: str
) -> None:
    make_user("ada"), make_user("eve")
    make_connection("canary-of-another")
    make_connection("held", account_id="taken")
    rows.filter(pk=make_connection("canary-revoked").pk).move_to_outbox()
    provider.answers["canary-refused"] = stand_in.refused
    provider.answers["canary-down"] = stand_in.unavailable
    found, said, code = run(table(f"user,token,account\n{row}\neve,good\n"), verbosity=3)
    assert (found, code) == (counts(imported=1, skipped=1), 1)
    assert f"Line 2: {reason}" in said
    assert "canary" not in said
    assert rows.live().filter(user__username="eve").exists()


def test_a_token_on_file_for_another_application_is_taken_for_this_one(
    provider: Provider, table: Any
) -> None:
    row = make_connection("t", user=make_user("ada"), app_id="of-before")
    make_connection("of-eve", user=make_user("eve"), app_id="of-before")
    found, said, code = run(table("user,token\nada,t\nada,of-eve\n"))
    assert (found, code) == (counts(imported=1, skipped=1), 1)
    assert "Line 3" in said
    assert rows.get(pk=row.pk).app_id == "test-app"
    assert rows.get(pk=row.pk).get_access_token()


def test_a_row_that_was_moved_to_a_user_keeps_its_token(provider: Provider, table: Any) -> None:
    row = make_connection("t")
    rows.filter(pk=row.pk).update(user=make_user("ada"))
    found, said, code = run(table("user,token\nada,new\n"))
    assert (found, code) == (counts(skipped=1), 1)
    assert "connected already, with another token" in said
    assert plain(rows.get().refresh_token) == "t"


def test_bytes_that_are_no_utf_8_spoil_their_row_alone(provider: Provider, table: Any) -> None:
    make_user("ada"), make_user("bob")
    found, said, code = run(table(b"user,token\nada,t\xff\xfe\nbob,t-bob\n"))
    assert (found, code) == (counts(imported=1, skipped=1), 1)
    assert "Line 2" in said


def test_rows_of_one_token_make_one_call(provider: Provider, table: Any) -> None:
    make_user("ada"), make_user("bob")
    found, said, code = run(table("user,token\nada,t\nbob,t\nada,t\n"))
    assert (found, code) == (counts(imported=1, known=1, skipped=1), 1)
    assert "Line 3: its token is connected to another user" in said
    assert rows.get().user.username == "ada"
    assert provider.refreshes == {"t": 1}


@pytest.mark.parametrize("answer", [stand_in.refused, stand_in.unavailable])
def test_a_token_that_can_not_be_taken_is_asked_about_once(
    provider: Provider, table: Any, answer: Any
) -> None:
    make_user("ada"), make_user("bob")
    provider.answers["t"] = answer
    found, said, _ = run(table("user,token\nada,t\nbob,t\nada,t\n"))
    assert found == counts(skipped=3)
    assert said.count(": LeadExec ") == 3
    assert provider.refreshes == {"t": 1}


def test_the_first_good_token_of_a_user_is_taken(provider: Provider, table: Any) -> None:
    make_user("ada")
    provider.answers["old"] = stand_in.refused
    found, said, _ = run(table("user,token\nada,old\nada,good\nada,newer\n"))
    assert found == counts(imported=1, skipped=2)
    assert "Line 4: its user is connected already" in said
    assert plain(rows.get().refresh_token) == "good"
    assert "newer" not in provider.refreshes


def test_a_dry_run_counts_a_token_once(provider: Provider, table: Any) -> None:
    make_user("ada"), make_user("bob")
    found, said, _ = run(table("user,token\nada,t\nbob,t\nada,u\n"), dry_run=True)
    assert found == counts(imported=1, skipped=2)
    assert "Line 4: a line before has its token, or its user" in said


@pytest.mark.parametrize(
    "text",
    [
        "name,token\n",
        "user,token,acount\n",
        "user,token,token\n",
        "user\n",
        "user;token\n",
        "user,token,\n",
        "ada,canary\n",
        '"user,token\n',
        "user,token" + " " * 70_000,
        "",
        "\n",
    ],
)
def test_a_header_that_names_other_columns_is_an_error(table: Any, text: str) -> None:
    make_user("ada")
    found, said, code = run(table(f"{text}ada,canary,acme\n"))
    assert (found, code) == (counts(), 2)
    assert "columns user, token and, if you know it, account" in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "it is no JSON object"),
        ('{"user": "ada", ', "it is no JSON object"),
        ("[" * 60_000, "it is no JSON object"),
        ('{"user": "ada", "token": "canary", "n": ' + "1" * 70_000 + "}", "it is no JSON object"),
        ('{"user": "ada", "token": "canary", "user": "eve"}', "has a key twice"),
        ('{"user": "ada", "token": "canary", "acount": "a"}', "it has other keys"),
        ('{"user": "ada", "token": "x", "canary": "a"}', "it has other keys"),
        ('{"user": true, "token": "canary"}', "it names no user"),
        ('{"user": ["ada"], "token": "canary"}', "it names no user"),
        ('{"user": "ada", "token": ["canary"]}', "its token has not"),
        ('{"user": "ada", "token": "canary", "account": 7}', "its account is no text"),
        ('{"user": "\\ud800", "token": "canary"}', "its user is no UTF-8 text"),
        ('{"user": "a\\u0000", "token": "canary"}', "its user is no UTF-8 text"),
        ('{"user": "ada", "token": "canary", "account": "\\u0000"}', "its account is no text"),
    ],
)
def test_a_json_line_that_is_no_row_is_named(
    provider: Provider, table: Any, line: str, reason: str
) -> None:
    make_user("ada"), make_user("eve")
    found, said, code = run(table(f'\n{{"user": "eve", "token": "t"}}\n{line}\n'))
    assert (found, code) == (counts(imported=1, skipped=1), 1)
    assert f"Line 3: {reason}" in said or reason in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ada,canary,a,b", "it has more values"),
        ("ada," + "canary" * 25_000, "it has more than 65,536 characters"),
        (" " * 65_530 + "ada,canary", "it has more than 65,536 characters"),
        ("a\0da,canary", "its user is no UTF-8 text"),
        ('"ada"x,canary', "its quotes are not as CSV has them"),
        ("ada,canary,a\x07", "its account is no text"),
    ],
)
def test_a_csv_line_that_is_no_row_spoils_no_other(
    provider: Provider, table: Any, line: str, reason: str
) -> None:
    make_user("ada"), make_user("eve")
    found, said, code = run(table(f"user,token,account\n{line}\n,,\n\n \neve,good\n"))
    assert (found, code) == (counts(imported=1, skipped=1), 1)
    assert f"Line 2: {reason}" in said
    assert "canary" not in said


def test_bytes_of_another_encoding_find_no_user_who_looks_like_them(
    provider: Provider, table: Any
) -> None:
    make_user("J\ufffdrgen")
    found, said, _ = run(table("user,token\nJürgen,t\n".encode("latin-1")))
    assert found == counts(skipped=1)
    assert "Line 2: its user is no UTF-8 text" in said


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(provider: Provider, table: Any, end: str) -> None:
    make_user("ada"), make_user("eve")
    lines = ["", "User , TOKEN", "", '"ada","t"', "nobody,t2", "eve,t3"]
    found, said, _ = run(table(end.join(lines)))
    assert found == counts(imported=2, skipped=1)
    assert "Line 5: " in said


def test_no_line_inside_a_quote_is_taken_for_a_row(provider: Provider, table: Any) -> None:
    make_user("ada"), make_user("eve")
    text = 'user,token\n"x\nada,canary\n",t\neve,good\n'
    found, said, code = run(table(text))
    assert (found, code) == (counts(imported=1, skipped=1), 1)
    assert "Line 2: a quote opens on it" in said
    assert "the lines up to 4 are not taken" in said
    assert rows.get().user.username == "eve"


def test_a_quote_that_stays_open_ends_the_import_where_it_opens(
    provider: Provider, table: Any
) -> None:
    make_user("ada"), make_user("eve")
    for rest, found in (
        ("eve,canary\n" * 7_000, counts(imported=1, next_line=3, end="unclosed")),
        ("eve,canary\n" * 70, counts(known=1, skipped=1)),
    ):
        counted, said, code = run(table(f'user,token\nada,t\n"eve,canary\n{rest}'))
        assert (counted, code) == (found, 2 if found["end"] else 1)
        assert "canary" not in said
    assert rows.get().user.username == "ada"


def test_a_long_line_with_a_quote_ends_the_import_there(provider: Provider, table: Any) -> None:
    make_user("ada")
    text = "user,token\n" + " " * 70_000 + '",\nada,canary\n'
    assert run(table(text))[0] == counts(next_line=2, end="unclosed")
    assert not rows.exists()


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert run(str(tmp_path / "nothing"))[2] == 2


@pytest.mark.slow
def test_many_rows_take_few_queries_each(provider: Provider, table: Any) -> None:
    User = get_user_model()
    User.objects.bulk_create(User(username=f"u{number}") for number in range(1_000))
    lines = "".join(f"u{number},t{number}\n" for number in range(1_000))
    path = table("user,token\n" + lines)
    run(path, no_verify=True)
    assert rows.count() == 1_000
    reset_queries()  # Django keeps the last 9,000
    with CaptureQueriesContext(connection) as queries:
        assert run(path)[0] == counts(known=1_000)
    assert len(queries) <= 20


def test_a_name_of_two_users_is_nobody(provider: Provider, table: Any) -> None:
    make_user("ada", email="both@example.org"), make_user("bob", email="both@example.org")
    path = table("user,token\nboth@example.org,t\n")
    found, said, code = run(path, user_field="email")
    assert (found, code) == (counts(skipped=1), 1)
    assert "2 users" in said
    assert not rows.exists()


@pytest.mark.parametrize("flags", [{}, {"no_verify": True}])
def test_a_token_on_file_is_replaced_by_no_import(
    provider: Provider, table: Any, flags: dict[str, Any]
) -> None:
    make_connection("newer", user=make_user("ada"))
    found, said, code = run(table("user,token\nada,older\n"), **flags)
    assert (found, code) == (counts(skipped=1), 1)
    assert "connected already" in said
    assert plain(rows.get().refresh_token) == "newer"


# Ends before the end of the file


def many(count: int, first: int = 0) -> str:
    """A table, and its users. Row 0 is on line 2."""
    users = get_user_model()
    users.objects.bulk_create(users(username=f"u{first + number}") for number in range(count))
    lines = (f"u{first + number},t{first + number}\n" for number in range(count))
    return "user,token\n" + "".join(lines)


@pytest.mark.slow
def test_a_provider_that_refuses_everybody_ends_it(provider: Provider, table: Any) -> None:
    provider.default = stand_in.refused
    path = table(many(300))
    found, said, code = run(path)
    assert (found, code) == (counts(next_line=2, end="everybody_refused"), 2)
    assert "APP_ID" in said
    assert "--from-line 2" in said
    assert 40 <= provider.calls["refreshaccesstoken"] <= 40 + ImportOptions.workers
    provider.default = None
    assert run(path, from_line=2)[0] == counts(imported=300)


def test_refusals_after_a_success_are_told_row_by_row(provider: Provider, table: Any) -> None:
    provider.default = stand_in.refused
    provider.answers["t0"] = stand_in.fresh
    found, _said, code = run(table(many(60)), workers=1)
    assert (found, code) == (counts(imported=1, skipped=59), 1)


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PAUSE", 0.01)


@pytest.mark.slow
def test_a_provider_that_is_down_ends_it(
    provider: Provider, table: Any, quick_probes: None
) -> None:
    for number in range(5, 300):
        provider.answers[f"t{number}"] = stand_in.unavailable
    path = table(many(300))
    found, said, code = run(path, workers=1)
    assert (found, code) == (counts(imported=5, next_line=7, end="outage"), 1)
    assert "out of reach" in said
    assert "--from-line 7" in said
    # Five that are good, twenty failures, three probes.
    assert provider.calls["refreshaccesstoken"] == 28
    provider.answers.clear()
    assert run(path, from_line=7)[0] == counts(imported=295)


@pytest.mark.slow
def test_an_outage_that_began_in_the_batch_before_is_made_up_for(
    provider: Provider, table: Any, quick_probes: None
) -> None:
    for number in range(190, 300):
        provider.answers[f"t{number}"] = stand_in.unavailable
    path = table(many(300))
    found, _said, _code = run(path, workers=1)
    assert (found["imported"], found["next_line"]) == (190, 192)
    provider.answers.clear()
    assert run(path, from_line=192)[0] == counts(imported=110)


def test_an_outage_that_passes_ends_nothing(
    provider: Provider, table: Any, quick_probes: None
) -> None:
    def down_for_a_while(provider: Provider, token: str) -> bytes:
        is_down = provider.calls["refreshaccesstoken"] <= 21
        return (stand_in.unavailable if is_down else stand_in.fresh)(provider, token)

    provider.default = down_for_a_while
    found, _said, code = run(table(many(60)), workers=1)
    assert (found, code) == (counts(imported=39, skipped=21), 1)


@pytest.mark.slow
def test_a_short_retry_after_is_waited_for(provider: Provider, table: Any) -> None:
    asked: list[float] = []

    def throttle_once(provider: Provider, token: str) -> bytes:
        asked.append(time.monotonic())
        answer = stand_in.throttling(1) if len(asked) == 1 else stand_in.fresh
        return answer(provider, token)

    provider.default = throttle_once
    assert run(table(many(3)), workers=1)[0] == counts(imported=3)
    assert asked[1] - asked[0] >= 1
    assert provider.refreshes["t0"] == 2


@pytest.mark.slow
def test_a_row_that_is_always_put_off_is_given_up(provider: Provider, table: Any) -> None:
    provider.answers["t1"] = stand_in.throttling(1)
    found, said, _ = run(table(many(3)), workers=1)
    assert found == counts(imported=2, skipped=1)
    assert "Line 3: LeadExec could not be asked: HTTP 429" in said
    assert provider.refreshes["t1"] == 3


def test_a_long_retry_after_ends_it(provider: Provider, table: Any) -> None:
    provider.answers["t4"] = stand_in.throttling(3_600)
    found, said, code = run(table(many(300)), workers=1)
    assert (found, code) == (counts(imported=4, next_line=6, end="throttled"), 1)
    assert "--from-line 6" in said
    assert provider.calls["refreshaccesstoken"] == 5


def test_the_lines_before_a_line_are_passed_over(provider: Provider, table: Any) -> None:
    text = many(6).replace("u1,t1", '"u1,t1')
    assert run(table(text), from_line=4)[0] == counts(imported=4)
    assert set(provider.refreshes) == {"t2", "t3", "t4", "t5"}
    lines = "".join(f'{{"user": "u{number}", "token": "j{number}"}}\n' for number in range(2))
    assert run(table(lines), from_line=2)[0] == counts(imported=1)
    assert "j0" not in provider.refreshes
    assert run(table(many(0)), from_line=99)[0] == counts()


@pytest.mark.parametrize("line", ["0", "-1", "x", "²"])
def test_a_line_that_can_not_be_is_an_error(table: Any, line: str) -> None:
    with pytest.raises(CommandError, match="from-line must be the number of a line"):
        call_command("import_leadexec_tokens", table(""), f"--from-line={line}")


def test_a_database_that_fails_tells_where_to_go_on(
    provider: Provider, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(many(201))
    stored: list[Any] = []

    def fail_at_last(using: str, work: Any) -> Any:
        stored.append(work)
        if len(stored) == 201:
            raise OperationalError("The server has gone.")
        return store(using, work)

    monkeypatch.setattr(importer, "store", fail_at_last)
    found, said, code = run(path)
    assert (found, code) == (counts(imported=200, next_line=202), 2)
    assert "The database failed" in said
    assert "--from-line 202" in said


def test_a_user_who_is_gone_meanwhile_spoils_their_row_alone(
    provider: Provider, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(many(3))

    def delete_the_user_first(using: str, work: Any) -> Any:
        get_user_model().objects.filter(username="u1").delete()
        return store(using, work)

    monkeypatch.setattr(importer, "store", delete_the_user_first)
    found, said, _ = run(path)
    assert found == counts(imported=2, skipped=1)
    assert "Line 3: its user is gone" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_calls_under_way(
    provider: Provider, table: Any, number: signal.Signals
) -> None:
    path = table(many(300))
    provider.default = stand_in.fresh_until(10)
    process = start(provider, "import_leadexec_tokens", path, "--workers=2", "--json")
    try:
        wait_until(provider.held.is_set)
        process.send_signal(number)
        wait_until_handled(process)
        provider.held.clear()
        provider.default = None
        out, said = process.communicate(timeout=60)
    finally:
        process.kill()
    found = json.loads(out)
    assert process.returncode == 1, said
    assert found == counts(
        imported=found["imported"], next_line=found["imported"] + 2, end="stopped"
    )
    assert 10 <= found["imported"] <= 14
    assert f"--from-line {found['next_line']}" in said
    assert run(path, from_line=found["next_line"])[0] == counts(imported=300 - found["imported"])


def test_no_more_is_read_than_is_at_work(provider: Provider) -> None:
    """So memory does not grow with the file, nor with a single line."""
    many(1_000)
    ahead: list[int] = []

    class Table:
        lines = 0

        def readline(self, size: int) -> str:
            assert 0 < size <= 65_536
            self.lines += 1
            ahead.append(self.lines - done[0])
            if self.lines == 1:
                return "user,token\n"
            if self.lines == 500:
                return "," + "x" * (size - 1)  # a line that does not end here
            return f"u{self.lines},t{self.lines}\n" if self.lines < 950 else ""

    done = [0]

    def count(rows: int) -> None:
        done[0] += rows

    stop = threading.Event()
    options = ImportOptions(using="default", user_field="username", dry_run=True)
    work = importer.Importer(options, lambda line, reason: None, stop, count)
    work.run(TokenFile(cast(TextIO, Table()), None, work.complain, stop))
    assert (work.tally.imported, work.tally.skipped) == (946, 1)
    assert max(ahead) <= importer.BATCH_SIZE + 5


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.slow
def test_nothing_of_a_row_is_kept_once_it_is_stored(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    monkeypatch.setattr(importer, "BATCH_SIZE", 5)
    file, kept = io.StringIO(many(60)), []

    def look(rows: int) -> None:
        gc.collect()
        kinds = (Row, Fresh, LeadExecConnection)
        kept.append(sum(type(found) in kinds for found in gc.get_objects()))

    stop = threading.Event()
    options = ImportOptions(using="default", user_field="username", verify=verify, workers=2)
    work = importer.Importer(options, lambda line, reason: None, stop, look)
    work.run(TokenFile(file, None, work.complain, stop))
    assert work.tally.imported == 60
    # Those of one batch, and no more after twelve of them.
    assert max(kept) <= min(kept) + 5
