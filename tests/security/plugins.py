"""What a careless site might plug into ``IDENTIFY`` and ``CREATE_USER``."""

from typing import Any

import requests
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, User

from django_leadexec.exceptions import ProviderUnavailable
from django_leadexec.session import LeadExecSession


def account(session: LeadExecSession) -> Any:
    """All before the last dash of what the stand-in's access token says it is for."""
    token = session.auth._get_token(None).reveal()
    return token.partition("-for-")[2].rpartition("-")[0].replace("_", " ")


def blank(session: LeadExecSession) -> Any:
    return " \u3000"


def empty(session: LeadExecSession) -> Any:
    return ""


def none_in_words(session: LeadExecSession) -> Any:
    return " None "


def number(session: LeadExecSession) -> Any:
    return 17


def true(session: LeadExecSession) -> Any:
    return True


def data(session: LeadExecSession) -> Any:
    return {"id": "acme"}


def octets(session: LeadExecSession) -> Any:
    return b"acme"


def control_characters(session: LeadExecSession) -> Any:
    return "acme\x00\r\n"


def turned_around(session: LeadExecSession) -> Any:
    return "acme\u202egpj"


def half_a_pair(session: LeadExecSession) -> Any:
    return "acme\ud800"


def unreachable(session: LeadExecSession) -> Any:
    raise requests.ConnectionError("down")


def no_json(session: LeadExecSession) -> Any:
    raise requests.exceptions.JSONDecodeError("no", "", 0)


def unavailable(session: LeadExecSession) -> Any:
    raise ProviderUnavailable("The API is down.", retry_after=7)


def broken(session: LeadExecSession) -> Any:
    raise KeyError("account")


def elsewhere(session: LeadExecSession) -> Any:
    return session.get("https://evil.test/whoami", timeout=1).text


def hostile(session: LeadExecSession) -> Any:
    return "<script>alert('acme')</script>"


def create_nobody(account_id: str, session: LeadExecSession) -> Any:
    return None


def create_a_name(account_id: str, session: LeadExecSession) -> Any:
    return account_id


def create_a_group(account_id: str, session: LeadExecSession) -> Any:
    return Group.objects.create(name=account_id)


def create_unsaved(account_id: str, session: LeadExecSession) -> Any:
    return get_user_model()(username=account_id)


def create_inactive(account_id: str, session: LeadExecSession) -> Any:
    return get_user_model().objects.create_user(account_id, is_active=False)


def create_staff(account_id: str, session: LeadExecSession) -> Any:
    return get_user_model().objects.create_user(account_id, is_staff=True)


def create_one_and_return_another(account_id: str, session: LeadExecSession) -> Any:
    victim = get_user_model().objects.first()
    get_user_model().objects.create_user(account_id)
    return victim


def create_by_a_save_of_the_victim(account_id: str, session: LeadExecSession) -> Any:
    victim = get_user_model().objects.get(username="victim")
    victim.save()
    return victim


def create_and_fail(account_id: str, session: LeadExecSession) -> Any:
    get_user_model().objects.create_user(account_id)
    raise KeyError("name")


def create_after_a_call(account_id: str, session: LeadExecSession) -> Any:
    session.get(f"{session.account_api}/v1/profile").raise_for_status()
    return get_user_model().objects.create_user(account_id)


def create_when_unavailable(account_id: str, session: LeadExecSession) -> Any:
    get_user_model().objects.create_user(account_id)
    raise ProviderUnavailable("down")


def create(account_id: str, session: LeadExecSession) -> Any:
    return get_user_model().objects.create_user(account_id)


class Member(User):
    """What a site with a proxy of its user model would have."""

    class Meta:
        app_label = "tests"
        proxy = True


def create_a_member(account_id: str, session: LeadExecSession) -> Any:
    return Member.objects.create(username=account_id)
