"""Settings that make their policy while Django's settings can't be read yet."""

from django_leadexec import csp

LEADEXEC = {"APP_ID": "app"}
SECURE_CSP = {"default-src": ["'self'"], **csp.directives(LEADEXEC)}
