from django.conf import settings
from django.http import HttpRequest

from django_leadexec.conf import get_settings


def example(request: HttpRequest) -> dict[str, bool]:
    """What the pages have to know of the settings."""
    return {
        "sandbox": settings.SANDBOX,
        "demo_logins": settings.DEBUG,
        "leadexec_sign_in": get_settings().sign_in,
    }
