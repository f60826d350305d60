"""What a site would plug into ``IDENTIFY`` and ``CREATE_USER``."""

from typing import Any

from django.contrib.auth import get_user_model

from django_leadexec.session import LeadExecSession


def identify(session: LeadExecSession) -> Any:
    """The account, as the stand-in's access tokens tell it: ``acme-2`` belongs to ``acme``."""
    token = session.auth._get_token(None).reveal()
    return token.rpartition("-for-")[2].partition("-")[0]


def create_user(account_id: str, session: LeadExecSession) -> Any:
    return get_user_model().objects.create_user(f"user of {account_id}")


def answer_none(session: LeadExecSession) -> Any:
    return None


def answer_the_word_null(session: LeadExecSession) -> Any:
    return "null"


def answer_too_much(session: LeadExecSession) -> Any:
    return "x" * 256


def hand_out_an_existing_user(account_id: str, session: LeadExecSession) -> Any:
    return get_user_model().objects.first()


def make_a_superuser(account_id: str, session: LeadExecSession) -> Any:
    return get_user_model().objects.create_superuser(f"root of {account_id}")


def answer_in_polish(session: LeadExecSession) -> Any:
    return "Łódź Realty 🙂"
