"""A process that forks as uWSGI does, in C: Python runs no fork hook, as it does not know of it.

    python -m tests.provider.forks

The parent has called the provider before. Then both processes call it, and the parent once more
after the child has ended. Prints one JSON object: each token with the access token it got.
"""

import ctypes
import json
import os
import sys

import django

CALLS = 20


def ask(name: str) -> dict[str, str]:
    from django_leadexec.provider.client import get_client
    from django_leadexec.provider.replies import Fresh

    answers = {}
    for token in (f"{name}-{number}" for number in range(CALLS)):
        outcome = get_client().refresh(token, "test-app")
        answers[token] = (
            outcome.access_token.reveal() if isinstance(outcome, Fresh) else repr(outcome)
        )
    return answers


def main() -> None:
    answers = ask("before")
    receiver, sender = os.pipe()
    # PyDLL keeps the interpreter's lock. If another thread took it, the child would wait for ever.
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        os.write(sender, json.dumps(ask("child")).encode())
        os._exit(0)
    os.close(sender)
    answers |= ask("parent")
    with os.fdopen(receiver) as pipe:
        answers |= json.load(pipe)
    os.waitpid(child, 0)
    answers |= ask("after")
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    django.setup()
    main()
