"""Prints the policy of the settings."""

import sys

from django.conf import settings

for directive, sources in settings.SECURE_CSP.items():
    sys.stdout.write(f"{directive} {' '.join(sources)}\n")
