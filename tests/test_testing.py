"""The double for a site's own tests, used as a site would: inside TestCase's transaction."""

import json

import pytest
from django.core.management import call_command
from django.test import Client, TestCase
from django.urls import reverse

from django_leadexec.exceptions import AuthorizationRejected, ProviderUnavailable
from django_leadexec.models import LeadExecConnection
from django_leadexec.testing import fake_leadexec

from .factories import make_connection, make_user


@pytest.mark.django_db
class SiteTests(TestCase):
    def test_a_token_is_refreshed_without_a_network(self) -> None:
        row = make_connection("a", expires_in=-1)
        with fake_leadexec() as leadexec:
            assert row.get_access_token() == "access-1"
        assert leadexec.refreshed == ["a"]

    def test_a_refused_token_rejects(self) -> None:
        row = make_connection("a", expires_in=-1)
        with fake_leadexec() as leadexec:
            leadexec.refuse("a")
            with pytest.raises(AuthorizationRejected):
                row.get_access_token()

    def test_it_can_be_down_and_come_back(self) -> None:
        row = make_connection("a", expires_in=-1)
        with fake_leadexec() as leadexec:
            leadexec.go_down(retry_after=0)
            with pytest.raises(ProviderUnavailable):
                row.get_access_token()
            leadexec.come_back()
            LeadExecConnection.objects.update(attempts=0)
            assert row.get_access_token()

    def test_a_visitor_connects_and_disconnects(self) -> None:
        client = Client()
        client.force_login(make_user(), backend="django.contrib.auth.backends.ModelBackend")
        with fake_leadexec() as leadexec, self.captureOnCommitCallbacks(execute=True):
            response = client.post(
                reverse("leadexec:callback"),
                json.dumps({"refreshToken": "a", "gesture": True}),
                content_type="application/json",
            )
            assert response.json()["status"] == "connected"
            client.post(reverse("leadexec:disconnect"))
            assert LeadExecConnection.objects.get().status == "revoked"
        assert leadexec.refreshed == ["a"]


@pytest.mark.django_db(transaction=True)
def test_the_command_uses_it_in_its_threads() -> None:
    make_connection("a", expires_in=-1)
    LeadExecConnection.objects.filter(pk=make_connection("b").pk).move_to_outbox()
    with fake_leadexec() as leadexec:
        call_command("refresh_leadexec_tokens", verbosity=0)
    assert (leadexec.refreshed, leadexec.revoked) == (["a"], ["b"])
