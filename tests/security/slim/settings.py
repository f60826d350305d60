from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as ALL_APPS

INSTALLED_APPS = [app for app in ALL_APPS if app != "django.contrib.admin"]
INSTALLED_APPS += ["tests.security.slim"]
AUTH_USER_MODEL = "slim.User"
ROOT_URLCONF = "tests.security.slim.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
