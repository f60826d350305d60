"""What the provider says about a token that is not on file, shared by all who ask at once.

There is no row yet whose lease could keep others from asking. So a key in the default cache says
that somebody asks. Whoever posts the same token meanwhile waits for the answer, which is in the
cache for some seconds, its access token and account encrypted. Processes that share no cache each
ask once.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.core.cache import cache

from . import crypto
from .exceptions import ProviderUnavailable
from .provider.replies import Fresh, RefreshOutcome, Refused, Unavailable
from .secret import Secret
from .steps import Steps, database, network, run

# Seconds between two looks for another's answer.
POLL_INTERVAL = 0.05
# Seconds for which an answer is kept for those who wait for it.
ANSWER_LIFETIME = 10
PREFIX = "django_leadexec"

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What the provider says, and the account as ``IDENTIFY`` names it; "" if unknown."""

    outcome: RefreshOutcome
    account_id: str


def ask_once(refresh_token: Secret, seconds: float, ask: Callable[[], Answer]) -> Answer:
    """The answer of ``ask``, or of whoever is asking about this token already.

    ``seconds``: how long somebody may ask before another does, as they may have been killed.
    Raises ProviderUnavailable if the others take longer, and what ``ask`` raises.
    """
    # In steps, so that a test can choose who goes on after each.
    return run(_ask_once(f"{PREFIX}:asking:{crypto.fingerprint(refresh_token)}", seconds, ask))


def _ask_once(asking: str, seconds: float, ask: Callable[[], Answer]) -> Steps[Answer]:
    mine = uuid.uuid4().hex
    other: str | None = None
    # Counted and not timed, so that a clock that stands still ends it as well.
    for _ in range(int(seconds / POLL_INTERVAL)):
        is_mine = yield database(lambda: _in_cache(cache.add, asking, mine, seconds, failed=True))
        # Look it up after add(): an asker stores the answer before deleting the question.
        answer: Answer | None = (yield database(partial(_find, other))) if other else None
        if is_mine and answer is None:
            answer = yield database(partial(_ask_for_all, asking, mine, ask))
        elif is_mine:
            yield database(partial(_end, asking, mine))
        if answer is not None:
            return answer
        other = (yield database(lambda: _in_cache(cache.get, asking))) or other
        yield network(lambda: time.sleep(POLL_INTERVAL))
    raise ProviderUnavailable("Another request is asking about this token, and is late.")


def _ask_for_all(asking: str, mine: str, ask: Callable[[], Answer]) -> Answer:
    try:
        answer = ask()
        _in_cache(cache.set, _key_of_answer(mine), _pack(answer), ANSWER_LIFETIME)
        return answer
    finally:
        _end(asking, mine)


def _end(asking: str, mine: str) -> None:
    # If our time has run out, the question may be another's by now.
    if _in_cache(cache.get, asking) == mine:
        _in_cache(cache.delete, asking)


def _find(question: str) -> Answer | None:
    packed = _in_cache(cache.get, _key_of_answer(question))
    return None if packed is None else _unpack(packed)


def _key_of_answer(question: str) -> str:
    return f"{PREFIX}:answer:{question}"


def _in_cache(do: Callable[..., Any], *args: Any, failed: Any = None) -> Any:
    """What the cache returns; ``failed`` if it is down, so that everybody asks for themselves."""
    try:
        return do(*args)
    except Exception as error:  # noqa: BLE001 - each kind of cache has its own errors
        logger.error("The cache that answers are shared by fails: %s.", type(error).__name__)
        return failed


def _pack(answer: Answer) -> str:
    outcome = answer.outcome
    kept: dict[str, Any] = {"account_id": crypto.encrypt(answer.account_id)}
    if isinstance(outcome, Fresh):
        kept["access_token"] = crypto.encrypt(outcome.access_token)
        kept["expires_at"] = outcome.expires_at
    else:
        kept["is_refused"] = isinstance(outcome, Refused)
        kept["reason"] = outcome.reason
        kept["retry_after"] = getattr(outcome, "retry_after", None)
    return json.dumps(kept)


def _unpack(packed: str) -> Answer:
    kept = json.loads(packed)
    outcome: RefreshOutcome
    if "access_token" in kept:
        outcome = Fresh(crypto.decrypt(kept["access_token"]), kept["expires_at"])
    elif kept["is_refused"]:
        outcome = Refused(kept["reason"])
    else:
        outcome = Unavailable(kept["reason"], kept["retry_after"])
    return Answer(outcome, crypto.decrypt(kept["account_id"]).reveal())
