import os

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, LEADEXEC, MIDDLEWARE

TRACKER = os.environ["LEADEXEC_TEST_TRACKER"]
# In memory, and yet the same for all threads.
MEMORY = "file:tracked?mode=memory&cache=shared"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": MEMORY}}
ALLOWED_HOSTS = ["testserver"]
LEADEXEC = LEADEXEC | {"IDENTIFY": "tests.security.tracked.site.identify"}
LEADEXEC |= {"CALLBACK_RATE": "1000/m"}
# All that a site can switch on: bodies, locals, long values.
if TRACKER == "rollbar":
    MIDDLEWARE = [*MIDDLEWARE, "rollbar.contrib.django.middleware.RollbarNotifierMiddleware"]
    SIZES = dict.fromkeys(("maxstr", "maxother", "maxstring", "maxtuple", "maxlist"), 100_000)
    ROLLBAR = {
        "access_token": "key",
        "handler": "blocking",
        "include_request_body": True,
        "locals": {"enabled": True, "safe_repr": False, "sizes": SIZES},
    }
if TRACKER == "honeybadger":
    MIDDLEWARE = ["honeybadger.contrib.DjangoHoneybadgerMiddleware", *MIDDLEWARE]
    HONEYBADGER = {"API_KEY": "key", "ENVIRONMENT": "production", "FORCE_SYNC": True}
    HONEYBADGER |= {"REPORT_LOCAL_VARIABLES": True}
if TRACKER == "elasticapm":
    INSTALLED_APPS = [*INSTALLED_APPS, "elasticapm.contrib.django"]
    MIDDLEWARE = ["elasticapm.contrib.django.middleware.TracingMiddleware", *MIDDLEWARE]
    ELASTIC_APM = {
        "SERVICE_NAME": "site",
        "TRANSPORT_CLASS": "tests.security.tracked.trackers.ElasticTransport",
        "DEBUG": True,
        "CAPTURE_BODY": "all",
        "COLLECT_LOCAL_VARIABLES": "all",
        "LOCAL_VAR_MAX_LENGTH": 100_000,
        "CENTRAL_CONFIG": False,
        "CLOUD_PROVIDER": False,
        "METRICS_INTERVAL": "0s",
        # For each call and query a stack with its locals, however quick it is.
        "SPAN_STACK_TRACE_MIN_DURATION": "0ms",
    }
MIDDLEWARE = [*MIDDLEWARE, "tests.security.tracked.site.middleware"]
