"""A site with one tool that records every change of every row. LEADEXEC_TEST_TOOL names it."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as ALL_APPS

TOOL = os.environ["LEADEXEC_TEST_TOOL"]
INSTALLED_APPS = [*ALL_APPS, "tests.security.recorded", TOOL]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}

AUDITLOG_INCLUDE_ALL_MODELS = True
# Otherwise it records what has changed, and not the whole row as well.
AUDITLOG_INCLUDE_TRACKING_MODELS = [
    {"model": f"django_leadexec.{name}", "serialize_data": True}
    for name in ("LeadExecConnection", "PendingRevocation")
]
