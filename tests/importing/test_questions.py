"""The questions of an import: when the next one begins, and when there are no more."""

import threading
from types import SimpleNamespace

import pytest

from django_leadexec.conf import get_settings
from django_leadexec.importing import questions as questions_module
from django_leadexec.importing.questions import MOST_REFUSALS, End, Questions
from django_leadexec.importing.rows import Row
from django_leadexec.provider.replies import Fresh, RefreshOutcome, Refused, Unavailable
from django_leadexec.secret import Secret

FRESH, REFUSED = Fresh(Secret("access"), 0), Refused("no")


class Import:
    """Asks about a line of a file, and gets an answer at once. Time passes only in waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waits = 1_000.0, list[float]()
        self.answers = list[RefreshOutcome]()
        monkeypatch.setattr("time.clock_gettime", lambda clock: self.now)
        client = SimpleNamespace(refresh=lambda token, app_id: self.answers.pop(0))
        monkeypatch.setattr(questions_module, "get_client", lambda: client)
        stop = threading.Event()
        monkeypatch.setattr(stop, "wait", self._wait)
        self.questions = Questions(get_settings(), None, stop)

    def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def ask(self, line: int, *answers: RefreshOutcome) -> RefreshOutcome | None:
        self.answers = list(answers)
        outcome = self.questions.ask(Row(line, "ada", Secret("token"), ""))
        assert not self.answers
        return outcome


@pytest.fixture
def importing(monkeypatch: pytest.MonkeyPatch) -> Import:
    return Import(monkeypatch)


def test_it_waits_as_long_as_the_provider_asks_and_then_asks_again(importing: Import) -> None:
    assert importing.ask(2, Unavailable("later", 5.0), FRESH) == FRESH
    assert importing.ask(3, FRESH) == FRESH
    assert importing.waits == [5.0]


@pytest.mark.parametrize(("seconds", "end"), [(60.0, None), (60.1, End.THROTTLED)])
def test_it_waits_a_minute_at_most(importing: Import, seconds: float, end: End | None) -> None:
    answers: list[RefreshOutcome] = [Unavailable("later", seconds), FRESH]
    importing.ask(2, *answers[: 1 if end else 2])
    assert importing.questions.end == end
    assert importing.waits == ([] if end else [seconds])


def test_forty_refusals_without_a_success_end_it_and_no_less(importing: Import) -> None:
    assert MOST_REFUSALS == 40
    for line in range(2, 42):
        assert importing.questions.end is None
        assert importing.ask(line, REFUSED) == REFUSED
    assert importing.questions.end == End.EVERYBODY_REFUSED
    assert importing.questions.doubtful_since == 2
    assert importing.ask(42) is None


def test_after_a_success_any_number_of_refusals_is_believed(importing: Import) -> None:
    importing.ask(2, REFUSED)
    importing.ask(3, FRESH)
    for line in range(4, 4 + 2 * MOST_REFUSALS):
        importing.ask(line, REFUSED)
    assert importing.questions.end is None
    assert importing.questions.doubtful_since is None
