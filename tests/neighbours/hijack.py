"""With django-hijack a superuser takes on another user for a while."""

from typing import Any

from .scenario import Browser, path


def more() -> dict[str, Any]:
    from django.contrib.auth import get_user_model

    users = get_user_model().objects
    browser = Browser()
    browser.client.force_login(
        users.get(username="root"), "django.contrib.auth.backends.ModelBackend"
    )
    page_of_root = browser.state()
    ada = users.get(username="ada")
    browser.submit(path("hijack:acquire"), user_pk=ada.pk)
    refused = browser.post("bolt-1", visitor=page_of_root["visitor"])
    own = browser.post("bolt-1")
    return {
        "root's page connects nothing of ada's": refused["error"]["code"] == "reload",
        "ada's page does": own["status"] == "confirm_required",
    }
