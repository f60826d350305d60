"""The site, whose module calls the provider while it loads: before the server forks."""

import os
from concurrent.futures import ThreadPoolExecutor

from django.core.wsgi import get_wsgi_application

# Not setdefault: the processes that tests start are told the settings of all other tests.
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.servers.settings"
application = get_wsgi_application()


def use_client(count: int) -> None:
    """Calls at the same moment, each of which leaves a connection to the provider open."""
    from django_leadexec.provider.client import get_client

    with ThreadPoolExecutor(count) as threads:
        for number in range(count):
            threads.submit(get_client().refresh, f"before the fork {number}", "test-app")


use_client(4)
