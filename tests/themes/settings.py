"""The test site, with the admin theme that THEME names, if any."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as APPS

THEME = os.environ.get("THEME", "")
THEME_APPS = {"": [], "unfold": ["unfold"], "jazzmin": ["jazzmin"]}
# A theme's templates take the place of the admin's, so it comes first.
INSTALLED_APPS = [*THEME_APPS[THEME], *APPS]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["THEME_DATABASE"]}
}
DEBUG = True
