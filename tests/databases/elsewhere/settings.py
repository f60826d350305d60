"""Nothing is in ``default``, local times are stored, and users have UUIDs."""

import os

from tests.security.slim.settings import *  # noqa: F403

DATABASES = {
    "default": {},
    "site": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["LEADEXEC_TEST_FILE"]},
    # One that lags behind so far that it is better never asked.
    "replica": {},
}
DATABASE_ROUTERS = ["tests.databases.elsewhere.router.Router"]
USE_TZ, TIME_ZONE = False, "America/New_York"
