"""A site with one other package beside this one, set up by its manual. LEADEXEC_TEST_NEIGHBOUR
names it."""

import os
import tempfile
from pathlib import Path

from tests.settings import *  # noqa: F403
from tests.settings import BACKENDS, DATABASES, INSTALLED_APPS, LEADEXEC, MIDDLEWARE

from . import guide

NEIGHBOUR = os.environ["LEADEXEC_TEST_NEIGHBOUR"]
ROOT_URLCONF = "tests.neighbours.urls"
ALLOWED_HOSTS = ["*"]
LEADEXEC = LEADEXEC | {"IDENTIFY": "tests.site.identify", "SIGN_IN": True}  # type: ignore[assignment]
FILE = Path(tempfile.gettempdir()) / f"leadexec-neighbour-{os.getpid()}.sqlite3"
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, as some of them use threads.
    DATABASES["default"] |= {"NAME": str(FILE)}
AUTHENTICATION_BACKENDS = BACKENDS

if NEIGHBOUR == "allauth":
    INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "django_leadexec"]
    MIDDLEWARE = [*MIDDLEWARE]
    exec(guide.part("settings.py"))  # noqa: S102 - that is the test
    ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    ACCOUNT_LOGIN_METHODS = {"email"}
    ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
    LOGIN_REDIRECT_URL = "landing"
elif NEIGHBOUR == "authtoken":
    INSTALLED_APPS = [*INSTALLED_APPS, "rest_framework", "rest_framework.authtoken"]
elif NEIGHBOUR == "axes":
    INSTALLED_APPS = [*INSTALLED_APPS, "axes"]
    MIDDLEWARE = [*MIDDLEWARE, "axes.middleware.AxesMiddleware"]
    AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", *BACKENDS]
elif NEIGHBOUR == "otp":
    plugins = ["django_otp", "django_otp.plugins.otp_totp"]
    INSTALLED_APPS = [*INSTALLED_APPS, *plugins]
    MIDDLEWARE = [*MIDDLEWARE, "django_otp.middleware.OTPMiddleware"]
elif NEIGHBOUR == "hijack":
    INSTALLED_APPS = [*INSTALLED_APPS, "hijack", "hijack.contrib.admin"]
    MIDDLEWARE = [*MIDDLEWARE, "hijack.middleware.HijackUserMiddleware"]
elif NEIGHBOUR == "wagtail":
    parts = ("users", "images", "documents", "sites", "search", "snippets", "admin")
    INSTALLED_APPS = [*INSTALLED_APPS, *(f"wagtail.{part}" for part in parts), "wagtail"]
    INSTALLED_APPS += ["taggit", "modelcluster"]
    WAGTAIL_SITE_NAME, WAGTAILADMIN_BASE_URL = "Site", "http://testserver"
elif NEIGHBOUR == "import_export":
    INSTALLED_APPS = [*INSTALLED_APPS, "import_export"]
elif NEIGHBOUR == "channels":
    INSTALLED_APPS = ["daphne", *INSTALLED_APPS, "channels"]
    ASGI_APPLICATION = "tests.neighbours.asgi.application"
elif NEIGHBOUR == "prefixes":
    FORCE_SCRIPT_NAME, LANGUAGE_CODE = "/below/here", "en"
    ROOT_URLCONF = "tests.neighbours.prefixed_urls"
    MIDDLEWARE = [*MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
elif NEIGHBOUR == "psycopg_pool":
    DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 2}}
elif NEIGHBOUR == "pgbouncer":
    # Its transactions take turns on the server's connections, so a cursor can't outlast one.
    DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = True
