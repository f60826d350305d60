"""The stand-in for LeadExec in a process of its own, as gevent would change its event loop.

Prints its address. Ends when its input does.
"""

import sys

from ..provider import Provider, unavailable


def main() -> None:
    with Provider() as provider:
        # So that the revoked token stays in the outbox, to be looked at.
        provider.answers["disconnect acme-1"] = unavailable
        sys.stdout.write(f"{provider.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
