"""An interruption right after each effect on the world: statements, commits, requests, answers.

The process is killed with SIGKILL; or the server ends its database connection, when the last
statement has been carried out, and the answer to it is lost. A few steps of each deed, taken at
random, each time others; LEADEXEC_CRASHES=full takes them all.
"""

from collections import Counter
from io import StringIO

import pytest
from cryptography.fernet import Fernet
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from .. import provider as stand_in
from ..factories import make_connection, make_due_connections, make_user, plain
from ..provider import Provider
from ..visitor import agree, confirmed, link_shown, user_of
from .browser_requests import acting_on, browser_of, calling_back, status_of, submitting
from .interruptions import Interruptions
from .recovery import assert_nothing_is_lost, end_leases, kept_tokens, outbox, recover, rows

pytestmark = pytest.mark.django_db(transaction=True)

REVOKING = ("revoke_selected", "delete_selected")


def use(settings: Settings, **changes: object) -> None:
    settings.LEADEXEC = settings.LEADEXEC | changes


class TestTheCallback:
    def test_a_new_link_is_made_whole_or_not_at_all(
        self, interruptions: Interruptions, provider: Provider
    ) -> None:
        for interruption in interruptions:
            browser = browser_of(make_user())
            stopped = interruption.during(*calling_back(browser, "new"))
            stored = kept_tokens()
            assert stored == {"new": 1} or (stopped and not stored)
            assert_nothing_is_lost(provider, stored)
            recover(provider)
            assert status_of(browser, "new") == "connected"
            assert_nothing_is_lost(provider, ["new"])

    def test_another_token_has_replaced_the_former_or_not(
        self, interruptions: Interruptions, provider: Provider
    ) -> None:
        for interruption in interruptions:
            user = make_user()
            row = make_connection("old", user=user)
            stopped = interruption.during(*calling_back(browser_of(user), "new"))
            stored = kept_tokens()
            assert stored == {"new": 1} or (stopped and stored == {"old": 1})
            assert_nothing_is_lost(provider, stored)
            recover(provider)
            assert status_of(browser_of(user), "new") == "connected"
            assert rows.get() == row
            assert_nothing_is_lost(provider, ["new"])

    def test_a_token_on_file_stays(self, interruptions: Interruptions, provider: Provider) -> None:
        for interruption in interruptions:
            user = make_user()
            make_connection("mine", user=user, status="rejected", attempts=2)
            interruption.during(*calling_back(browser_of(user), "mine"))
            assert_nothing_is_lost(provider, ["mine"])
            end_leases(provider)
            assert status_of(browser_of(user), "mine") == "connected"
            recover(provider)
            assert plain(rows.get().access_token) == f"access-{provider.refreshes['mine']}-for-mine"

    def test_a_token_that_waits_to_be_revoked_waits_on(
        self, interruptions: Interruptions, provider: Provider
    ) -> None:
        for interruption in interruptions:
            user = make_user()
            make_connection("left", user=user)
            rows.all().move_to_outbox()
            interruption.during(*calling_back(browser_of(user), "left"))
            assert not rows.live().exists()
            assert_nothing_is_lost(provider, ["left"])
            recover(provider)
            assert "left" in provider.revoked

    def test_a_known_account_signs_in_the_next_time(
        self, interruptions: Interruptions, provider: Provider, settings: Settings
    ) -> None:
        use(settings, SIGN_IN=True, IDENTIFY="tests.site.identify")
        for interruption in interruptions:
            row = make_connection("acme-1", account_id="acme")
            stopped = interruption.during(*calling_back(Client(), "acme-2"))
            stored = kept_tokens()
            assert stored == {"acme-2": 1} or (stopped and stored == {"acme-1": 1})
            assert_nothing_is_lost(provider, stored)
            recover(provider)
            browser = Client()
            assert status_of(browser, "acme-2") == "signed_in"
            assert user_of(browser) == row.user.username

    def test_no_user_is_made_without_their_connection(
        self, interruptions: Interruptions, provider: Provider, settings: Settings
    ) -> None:
        use(
            settings,
            SIGN_IN=True,
            IDENTIFY="tests.site.identify",
            CREATE_USER="tests.crash.browser_requests.create_user",
        )
        for interruption in interruptions:
            stopped = interruption.during(*calling_back(Client(), "acme-1"))
            users = get_user_model().objects.filter(username__startswith="user of acme")
            assert [row.user for row in rows.live()] == list(users)
            assert stopped or users.exists()
            assert_nothing_is_lost(provider, kept_tokens())
            recover(provider)
            browser = Client()
            assert status_of(browser, "acme-1") == "signed_in"
            assert user_of(browser) == users.get().username
            assert_nothing_is_lost(provider, ["acme-1"])

    def test_a_link_that_is_confirmed_is_made_or_waits_on(
        self, interruptions: Interruptions, provider: Provider, settings: Settings
    ) -> None:
        use(settings, SIGN_IN=True)
        for interruption in interruptions:
            browser = browser_of(make_user())
            assert status_of(browser, "new") == "confirm_required"
            form = confirmed(browser, link_shown(browser))
            stopped = interruption.during(*submitting(browser, reverse("leadexec:confirm"), form))
            stored = kept_tokens()
            assert stored == {"new": 1} or (stopped and not stored)
            recover(provider)
            if not stored:
                agree(browser)
            assert_nothing_is_lost(provider, ["new"])
            assert kept_tokens() == {"new": 1}


class TestRevoking:
    def test_the_token_of_a_visitor_who_disconnects_is_told_of(
        self, interruptions: Interruptions, provider: Provider
    ) -> None:
        for interruption in interruptions:
            user = make_user()
            row = make_connection("mine", user=user)
            browser = browser_of(user)
            form = {"connection": row.pk}
            stopped = interruption.during(
                *submitting(browser, reverse("leadexec:disconnect"), form)
            )
            assert stopped or not rows.live().exists()
            assert_nothing_is_lost(provider, ["mine"])
            recover(provider)
            if rows.live().exists():
                assert row.revoke()
            assert kept_tokens() == {}
            assert provider.revoked == {"mine"}

    def test_a_revocation_that_the_provider_does_not_hear_waits(
        self, interruptions: Interruptions, provider: Provider
    ) -> None:
        for interruption in interruptions:
            row = make_connection("mine")
            provider.answers["disconnect mine"] = stand_in.unavailable
            interruption.during("on connection", row.pk, "revoke")
            assert kept_tokens() == {"mine": 1}
            assert_nothing_is_lost(provider, ["mine"])
            del provider.answers["disconnect mine"]
            rows.all().move_to_outbox()
            outbox.filter(attempts__gt=0).update(retry_after=outbox.get().requested_at)
            recover(provider)
            assert provider.revoked == {"mine"}

    @pytest.mark.parametrize("action", REVOKING)
    def test_an_action_of_the_admin_takes_all_of_its_connections_or_none(
        self, interruptions: Interruptions, provider: Provider, action: str
    ) -> None:
        for interruption in interruptions:
            root = browser_of(get_user_model().objects.create_superuser("root"))
            chosen = make_due_connections(4)
            other = make_connection("other")
            tokens = [plain(row.refresh_token) for row in chosen]
            stopped = interruption.during(*acting_on(root, action, chosen))
            left = rows.live().exclude(pk=other.pk).count()
            assert left == 0 or (stopped and left == 4)
            assert_nothing_is_lost(provider, [*tokens, "other"])
            recover(provider)
            assert provider.revoked == (set() if left else set(tokens))
            assert_nothing_is_lost(provider, [*tokens, "other"])

    def test_a_deleted_users_tokens_are_told_of(
        self, interruptions: Interruptions, provider: Provider
    ) -> None:
        for interruption in interruptions:
            user = make_user()
            make_connection("acme", user=user, account_id="acme")
            make_connection("globex", user=user, account_id="globex")
            stopped = interruption.during("delete user", user.pk)
            deleted = not get_user_model().objects.filter(pk=user.pk).exists()
            assert deleted or stopped
            assert rows.live().count() == (0 if deleted else 2)
            assert_nothing_is_lost(provider, ["acme", "globex"])
            recover(provider)
            assert provider.revoked == ({"acme", "globex"} if deleted else set())


class TestRefreshing:
    def test_a_page_that_needs_a_token_leaves_a_row_that_is_due(
        self, interruptions: Interruptions, provider: Provider
    ) -> None:
        for interruption in interruptions:
            row = make_connection("mine", expires_in=-1)
            interruption.during("on connection", row.pk, "get_access_token")
            assert_nothing_is_lost(provider, ["mine"])
            recover(provider)
            latest = f"access-{provider.refreshes['mine']}-for-mine"
            assert row.get_access_token() == latest

    def test_a_run_leaves_what_the_next_finishes(
        self, interruptions: Interruptions, provider: Provider
    ) -> None:
        for interruption in interruptions:
            refreshed = {plain(row.refresh_token) for row in make_due_connections(8)}
            revoked = {plain(row.refresh_token) for row in make_due_connections(4, "revoked")}
            rows.filter(user__username__startswith="revoked").move_to_outbox()
            interruption.during(
                "command", "refresh_leadexec_tokens", "--workers=2", "--batch-size=3"
            )
            assert_nothing_is_lost(provider, refreshed | revoked)
            recover(provider)
            assert provider.revoked == revoked
            for row in rows.live():
                token = plain(row.refresh_token)
                assert plain(row.access_token) == f"access-{provider.refreshes[token]}-for-{token}"
            assert kept_tokens() == Counter(refreshed)


def test_a_rotation_leaves_tokens_under_one_key_or_the_other(
    interruptions: Interruptions, provider: Provider, settings: Settings
) -> None:
    (old,) = settings.LEADEXEC["ENCRYPTION_KEYS"]
    new = Fernet.generate_key().decode()
    for interruption in interruptions:
        use(settings, ENCRYPTION_KEYS=[old])
        kept = {plain(row.refresh_token) for row in make_due_connections(4)}
        revoked = {plain(row.refresh_token) for row in make_due_connections(2, "revoked")}
        rows.filter(user__username__startswith="revoked").move_to_outbox()
        use(settings, ENCRYPTION_KEYS=[new, old])
        interruption.during("command", "rotate_leadexec_keys")
        assert_nothing_is_lost(provider, kept | revoked)
        call_command("rotate_leadexec_keys", stdout=StringIO())
        use(settings, ENCRYPTION_KEYS=[new])
        assert_nothing_is_lost(provider, kept | revoked)
        recover(provider)
        assert provider.revoked == revoked
