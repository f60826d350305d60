"""django-otp asks for a second factor. Signing in with LeadExec is none."""

from typing import Any

from .scenario import Browser, make_connection_of, path


def more() -> dict[str, Any]:
    make_connection_of("ada", "acme-2")
    browser = Browser()
    browser.post("acme-2")
    user: Any = browser.client.get(path("page")).wsgi_request.user
    return {"is signed in": user.is_authenticated, "not verified": not user.is_verified()}
