import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import django
import environ
from cryptography.fernet import Fernet

# A file, not memory: threads and other processes must meet in it, and two runs must not.
SQLITE = Path(tempfile.gettempdir()) / f"leadexec-tests-{os.getpid()}.sqlite3"
DATABASES = {"default": environ.Env().db("DATABASE_URL", default=f"sqlite:///{SQLITE}")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    OPTIONS = {"timeout": 20, "init_command": "PRAGMA synchronous=OFF"}
    DATABASES["default"] |= {"OPTIONS": OPTIONS, "TEST": {"NAME": str(SQLITE)}}

if DATABASES["default"]["ENGINE"].endswith("postgresql"):
    # What a test has written need not survive the server.
    OPTIONS = DATABASES["default"].setdefault("OPTIONS", {})
    OPTIONS.setdefault("options", "-c synchronous_commit=off")

SECRET_KEY = "only-for-tests"
ROOT_URLCONF, STATIC_URL, LOGIN_REDIRECT_URL, USE_TZ = "tests.urls", "static/", "/page/", True
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
BACKENDS = ["django.contrib.auth.backends.ModelBackend", "django_leadexec.backends.LeadExecBackend"]
AUTHENTICATION_BACKENDS = BACKENDS
CONTRIB = ["admin", "auth", "contenttypes", "sessions", "messages", "staticfiles"]
INSTALLED_APPS = [f"django.contrib.{app}" for app in CONTRIB]
INSTALLED_APPS += ["django_leadexec", "django_leadexec.sandbox"]
if django.VERSION >= (6, 0) and find_spec("django_tasks_db"):
    INSTALLED_APPS += ["django_tasks_db"]
if os.environ.get("LEADEXEC_TEST_TASKS") == "database":
    # For a worker that a test starts.
    DATABASE_TASKS = {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": ["leadexec"]}
    IMMEDIATE_TASKS = {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}
    TASKS = {"default": IMMEDIATE_TASKS, "database": DATABASE_TASKS}
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin-allow-popups"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
CONTEXT = ["django.template.context_processors.request"]
CONTEXT += [f"django.contrib.{app}.context_processors.{app}" for app in ("auth", "messages")]
DJANGO = {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
DIRS = [Path(__file__).parent / "templates"]
TEMPLATES = [DJANGO | {"DIRS": DIRS, "OPTIONS": {"context_processors": CONTEXT}}]
# Commands that a test starts in a process of their own read the same key, database and provider.
KEY = os.environ.setdefault("LEADEXEC_TEST_KEY", Fernet.generate_key().decode())
PROVIDER = os.environ.get("LEADEXEC_TEST_PROVIDER", "https://apps.leadexec.net")
DEBUG = PROVIDER.startswith("http:")
LEADEXEC = {"APP_ID": "test-app", "BUTTON_ID": "test-button", "ENCRYPTION_KEYS": [KEY]}
LEADEXEC |= {"BASE_URL": PROVIDER}
LEADEXEC_SANDBOX = {"ALLOW_OUTSIDE_DEBUG": True}
# The example project's own, for its views.
SANDBOX, DEMO_PORT = True, 8000
