"""The quick flush leaves what Django's own would."""

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management.sql import emit_post_migrate_signal
from django.test import TransactionTestCase

from django_leadexec.models import LeadExecConnection

from .factories import make_connection
from .flushing import MADE_AFTER_MIGRATION

pytestmark = pytest.mark.django_db(transaction=True)


def rows() -> list[list[dict[str, Any]]]:
    return [list(model._default_manager.order_by("pk").values()) for model in MADE_AFTER_MIGRATION]


def flush() -> None:
    TransactionTestCase("__init__")._fixture_teardown()  # type: ignore[attr-defined]


def test_what_a_test_has_written_is_gone() -> None:
    make_connection()
    flush()
    assert not LeadExecConnection.objects.exists()
    assert not get_user_model().objects.exists()


def test_content_types_and_permissions_are_as_they_were() -> None:
    before = rows()
    made = ContentType.objects.create(app_label="other", model="thing")
    ContentType.objects.get_for_id(made.pk)
    Permission.objects.filter(codename="view_leadexecconnection").delete()
    Permission.objects.filter(codename="change_leadexecconnection").update(name="Another name")
    flush()
    assert rows() == before
    with pytest.raises(ContentType.DoesNotExist):
        ContentType.objects.get_for_id(made.pk)


def test_django_would_make_no_more_of_them() -> None:
    flush()
    before = rows()
    assert all(before)
    emit_post_migrate_signal(verbosity=0, interactive=False, db="default")
    assert rows() == before
