"""What a page costs: the template tag and a stored token."""

import time
from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.middleware.csrf import get_token
from django.template import RequestContext, Template
from django.test import RequestFactory

from django_leadexec.leases import writing
from django_leadexec.linking import link
from django_leadexec.models import LeadExecConnection

from .databases import ACCESS_TOKEN


def connected_user() -> Any:
    """The one user of this kind, with an access token that lives for an hour."""
    user, is_new = get_user_model().objects.get_or_create(username="reader")
    if is_new:
        with writing(LeadExecConnection, "default"):
            link(user, "bench", "reader's", ACCESS_TOKEN, time.time() + 3600, using="default")
    return user


def button_renderer(*, connected: bool) -> Callable[[], str]:
    """Renders a template that is nothing but the tag, for a visitor who has been here before."""
    request = RequestFactory().get("/")
    request.user = connected_user() if connected else AnonymousUser()
    get_token(request)
    template = Template("{% load leadexec %}{% leadexec_button %}")

    def render() -> str:
        # It notes on the request that the page has its button.
        vars(request).pop("_leadexec_button", None)
        return template.render(RequestContext(request))

    return render
