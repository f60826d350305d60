"""Processes that ``multiprocessing`` makes of one that has used the client.

    python -m tests.servers.children fork|forkserver

Prints one JSON object: each refresh token with the access token that its child got.
"""

import json
import multiprocessing
import sys

CALLS = 80


def ask(token: str) -> tuple[str, str]:
    from django_leadexec.provider.client import get_client
    from django_leadexec.provider.replies import Fresh

    outcome = get_client().refresh(token, "test-app")
    return token, outcome.access_token.reveal() if isinstance(outcome, Fresh) else repr(outcome)


def main() -> None:
    context = multiprocessing.get_context(sys.argv[1])
    if sys.argv[1] == "forkserver":
        # It uses the client where all children are forked from.
        context.set_forkserver_preload(["tests.servers.wsgi"])
    else:
        from . import wsgi  # noqa: F401 - uses the client
    with context.Pool(4) as pool:
        answers = pool.map(ask, [f"token-{number}" for number in range(CALLS)], chunksize=1)
    sys.stdout.write(json.dumps(dict(answers)))


if __name__ == "__main__":
    main()
