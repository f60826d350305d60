from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as ALL_APPS
from tests.settings import MIDDLEWARE as ALL_MIDDLEWARE

DEBUG, ALLOWED_HOSTS = True, ["*"]
DEBUG_TOOLBAR_CONFIG = {"SHOW_TOOLBAR_CALLBACK": lambda request: True, "IS_RUNNING_TESTS": False}
INSTALLED_APPS = [*ALL_APPS, "debug_toolbar"]
MIDDLEWARE = ["debug_toolbar.middleware.DebugToolbarMiddleware", *ALL_MIDDLEWARE]
ROOT_URLCONF = "tests.doubles.toolbar.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
