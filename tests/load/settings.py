import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, LEADEXEC

ROOT_URLCONF = "tests.load.site"
ALLOWED_HOSTS = ["127.0.0.1"]
LEADEXEC |= {
    "ENCRYPTION_KEYS": os.environ["LEADEXEC_LOAD_KEYS"].split(),
    "CALLBACK_RATE": "1000000/m",  # all come from one address
}
DATABASES["default"] |= {"CONN_MAX_AGE": None}
