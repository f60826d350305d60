"""django-allauth lets nobody in whose e-mail address is not verified."""

import re
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template import engines

from . import guide
from .scenario import Browser, path


def landing(request: HttpRequest) -> HttpResponse:
    """The page without the button that users see after their log-in."""
    return HttpResponse(engines["django"].from_string(guide.template()).render({}, request))


def more() -> dict[str, Any]:
    return {
        "log-in": log_in_with_a_link_waiting(),
        "sign-up": sign_up_with_a_link_waiting(),
    }


def log_in_with_a_link_waiting() -> bool:
    from allauth.account.models import EmailAddress
    from django.contrib.auth import get_user_model

    user = get_user_model().objects.create_user("bea", "bea@example.org", "secret")
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    browser = Browser()
    answer = browser.post("bolt-1")
    done = browser.submit(answer["redirect"], login="bea@example.org", password="secret")
    return done.url == path("leadexec:confirm") and is_linked(browser, user)


def sign_up_with_a_link_waiting() -> bool:
    """The address is verified in between, and the way back is lost on the way."""
    from django.contrib.auth import get_user_model
    from django.core import mail

    browser, fields = Browser(), {"email": "cy@example.org", "password1": "a-long-secret-1"}
    browser.post("corp-1")
    browser.submit(path("account_signup"), **fields)
    found = re.search(r"http://testserver(/accounts/confirm-email/\S+)", str(mail.outbox[-1].body))
    assert found
    browser.submit(found[1])
    done = browser.submit(
        path("account_login"), login=fields["email"], password=fields["password1"]
    )
    link = path("leadexec:confirm")
    offered = link in browser.page() and link in browser.client.get(done.url).content.decode()
    return offered and is_linked(browser, get_user_model().objects.get(email=fields["email"]))


def is_linked(browser: Browser, user: Any) -> bool:
    browser.confirm()
    return bool(user.leadexec_connections.active().exists())
