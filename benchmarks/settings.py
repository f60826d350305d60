"""Settings of the benchmark and of the processes it starts.

The benchmark makes a database under every alias it needs. A process that it starts knows only one,
``default``, named by LEADEXEC_BENCH_DATABASE.
"""

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

import environ
from cryptography.fernet import Fernet

# Of the benchmark as a whole, so that its processes find the same databases and key.
RUN = os.environ.setdefault("LEADEXEC_BENCH_RUN", str(os.getpid()))
KEY = os.environ.setdefault("LEADEXEC_BENCH_KEY", Fernet.generate_key().decode())
PROVIDER = os.environ.get("LEADEXEC_BENCH_PROVIDER", "https://apps.leadexec.net")

SQLITE = Path(tempfile.gettempdir()) / "leadexec-bench"
SERVERS = {
    "sqlite": f"sqlite:///{SQLITE}",
    "postgresql": "postgres://postgres@127.0.0.1:5432/leadexec_bench",
    "mariadb": "mysql://root@127.0.0.1:3306/leadexec_bench",
}
TABLES = ("work", "small", "middle", "large")


def _database(vendor: str, table: str) -> dict[str, Any]:
    variable = f"LEADEXEC_BENCH_{vendor.upper()}"
    database: dict[str, Any] = environ.Env().db(variable, default=SERVERS[vendor])
    name = f"{database['NAME']}_{RUN}_{table}"
    if vendor == "sqlite":
        name += ".sqlite3"
        database["OPTIONS"] = {"timeout": 60}
    return database | {"NAME": name, "TEST": {"NAME": name}}


DATABASES = {
    f"{vendor}_{table}": _database(vendor, table) for vendor in SERVERS for table in TABLES
}
ALIAS = os.environ.get("LEADEXEC_BENCH_DATABASE")
DATABASES = {"default": DATABASES[ALIAS]} if ALIAS else {"default": {}} | DATABASES

SECRET_KEY, STATIC_URL, USE_TZ = "only-for-benchmarks", "static/", True
ROOT_URLCONF = "benchmarks.urls"
# It is what lets the package speak http with the stand-in; see worker.py for what it also does.
DEBUG = PROVIDER.startswith("http:")
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_leadexec"]
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
if importlib.util.find_spec("social_django"):
    INSTALLED_APPS += ["social_django"]
    AUTHENTICATION_BACKENDS += ["benchmarks.peers.StandInOAuth2"]
SOCIAL_AUTH_STAND_IN_KEY, SOCIAL_AUTH_STAND_IN_SECRET = "bench", "only-for-benchmarks"
CONTEXT = ["django.template.context_processors.request"]
CONTEXT += ["django.contrib.auth.context_processors.auth"]
DJANGO = {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
TEMPLATES = [DJANGO | {"OPTIONS": {"context_processors": CONTEXT}}]
LEADEXEC: dict[str, Any] = {"APP_ID": "bench", "BUTTON_ID": "bench", "ENCRYPTION_KEYS": [KEY]}
LEADEXEC |= {"BASE_URL": PROVIDER}
if "LEADEXEC_BENCH_MARGIN" in os.environ:
    LEADEXEC |= {"REFRESH_MARGIN": int(os.environ["LEADEXEC_BENCH_MARGIN"])}
