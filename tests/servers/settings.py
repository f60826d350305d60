from tests.settings import *  # noqa: F403

ROOT_URLCONF = "tests.servers.site"
ALLOWED_HOSTS = ["127.0.0.1"]
