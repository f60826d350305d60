"""One call to a provider, in a process of its own: ``python -m tests.provider.one_call URL``."""

import sys

from django_leadexec.provider.client import Client

# Seconds for the whole call.
DEADLINE = 1.0

if __name__ == "__main__":
    sys.stdout.write(str(Client(sys.argv[1], DEADLINE).refresh("token", "app")))
