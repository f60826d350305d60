"""Settings of the example project, from the environment and the .env file beside this one.

.env.example lists what can be set; nothing has to be. Secrets are made at the first start.
"""

import os
from pathlib import Path
from typing import Any

import django
import environ

from django_leadexec import csp

from .dotenv import add_missing_secrets

BASE_DIR = Path(__file__).resolve().parent

env = environ.Env()
env.read_env(BASE_DIR / ".env")

DEBUG = env.bool("DEBUG", default=True)
if DEBUG:
    add_missing_secrets(BASE_DIR / ".env")
    env.read_env(BASE_DIR / ".env")

SECRET_KEY = env("SECRET_KEY")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])
DEMO_PORT = env.int("DEMO_PORT", default=8000)

# LeadExec, or the sandbox that plays it: then everything works without an account there.
SANDBOX = env.bool("LEADEXEC_SANDBOX", default=DEBUG)
LEADEXEC: dict[str, Any] = {"ENCRYPTION_KEYS": env.list("LEADEXEC_ENCRYPTION_KEYS")}
if SANDBOX:
    PROVIDER_ORIGIN = f"http://127.0.0.1:{DEMO_PORT}"
    LEADEXEC |= {
        "APP_ID": env("LEADEXEC_APP_ID", default="demo-app"),
        "BUTTON_ID": env("LEADEXEC_BUTTON_ID", default="demo-button"),
        "BASE_URL": f"{PROVIDER_ORIGIN}/sandbox",
        "ACCOUNT_API_URL": f"{PROVIDER_ORIGIN}/sandbox/account-api",
        "DATA_API_URL": f"{PROVIDER_ORIGIN}/sandbox/data-api",
    }
    # Seconds. A short life lets the refresh command be watched at work.
    LEADEXEC_SANDBOX = {"ACCESS_TOKEN_LIFETIME": env.int("SANDBOX_TOKEN_LIFETIME", default=3600)}
    # The sandbox is this very server: a proxy would look for it on its own machine.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = ",".join(filter(None, ["127.0.0.1", direct]))
else:
    LEADEXEC |= {"APP_ID": env("LEADEXEC_APP_ID"), "BUTTON_ID": env("LEADEXEC_BUTTON_ID")}
# Only the sandbox is known to tell whose token it is, so signing in needs it, or another
# `identify` (see accounts.py).
if env.bool("LEADEXEC_SIGN_IN", default=SANDBOX):
    LEADEXEC |= {
        "SIGN_IN": True,
        "IDENTIFY": "example_project.accounts.identify",
        "CREATE_USER": "example_project.accounts.create_user",
    }

INSTALLED_APPS = [
    "example_project",
    "django_leadexec",
    *(["django_leadexec.sandbox"] if SANDBOX else []),
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "example_project.urls"
WSGI_APPLICATION = "example_project.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "example_project.context.example",
            ],
        },
    },
]

if "DATABASE_URL" in env.ENVIRON:
    DATABASES = {"default": env.db("DATABASE_URL")}
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": BASE_DIR / "demo.sqlite3",
            # The server's threads write at the same time: a writer waits its turn, and keeps
            # no reader waiting.
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    }

# Several processes need one that they share, to count a visitor's attempts together.
CACHES = {"default": env.cache("CACHE_URL", default="locmemcache://")}

AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "django_leadexec.backends.LeadExecBackend",
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"

# LeadExec's dialog may be a popup that talks to its opener; Django's default would cut it off.
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin-allow-popups"

# Nothing of ours is inline, so no nonce is needed. Django 5.2 has no such setting.
if django.VERSION >= (6, 0):
    from django.utils.csp import CSP

    MIDDLEWARE.append("django.middleware.csp.ContentSecurityPolicyMiddleware")
    POLICY = {
        "default-src": [CSP.SELF],
        "img-src": [CSP.SELF, "data:"],
        "object-src": [CSP.NONE],
        "base-uri": [CSP.NONE],
        "form-action": [CSP.SELF],
        "frame-ancestors": [CSP.NONE],
    }
    SECURE_CSP = {**POLICY, **csp.directives(LEADEXEC, POLICY)}

if not DEBUG:
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    # No other host under the same domain can set cookies of these names.
    SESSION_COOKIE_NAME = "__Host-sessionid"
    CSRF_COOKIE_NAME = "__Host-csrftoken"
    if env.bool("BEHIND_TLS_PROXY", default=False):
        SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
