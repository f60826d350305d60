"""The whole way: a visitor in a browser, this app, and the sandbox as the provider.

Each page with the button has a strict Content-Security-Policy; one violation fails the test.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from django_leadexec.models import LeadExecConnection, PendingRevocation
from django_leadexec.sandbox.models import Grant
from django_leadexec.sandbox.views import COOKIE
from tests.browser.conftest import NOT_LOADED, in_each_engine, in_each_origin
from tests.processes import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

VIOLATIONS = """document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`violation: ${event.violatedDirective} ${event.blockedURI}`);
});"""
Status = LeadExecConnection.Status


class Visitor:
    """A person at a page with the button."""

    def __init__(self, page: "Page", url: str) -> None:
        self.page = page
        self.url = url

    def open(self) -> None:
        """A page with the button, once the provider's script knows whom it has before it."""
        with self.page.expect_response("**/dialog/status/**"):
            self.page.goto(self.url + "/strict/")

    def has_session_of(self, user) -> None:
        client = Client()
        client.force_login(user)
        value = client.cookies["sessionid"].value
        self.page.context.add_cookies([{"name": "sessionid", "value": value, "url": self.url}])

    def answer_dialog(self, answer: str, account: str = "") -> None:
        from playwright.sync_api import Error

        with self.page.expect_popup() as opened:
            self.page.locator("#leAppButton").click()
        dialog = opened.value
        if account:
            dialog.get_by_label(account).check()
        # It may close before the click that closes it is reported done, which is then an error.
        with dialog.expect_event("close"), suppress(Error):
            dialog.get_by_role("button", name=answer).click()

    def sees(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()

    def is_signed_in_as(self, name: str) -> None:
        self.page.locator("h1", has_text=name).wait_for()


@pytest.fixture
def visitor(page, live_server, settings, sandbox):
    settings.ROOT_URLCONF = "tests.browser.urls"
    settings.LOGIN_REDIRECT_URL = "/strict/"
    page.context.add_init_script(VIOLATIONS)
    yield Visitor(page, live_server.url)
    # What is still under way may violate the policy, and must not meet the next test's database.
    page.wait_for_load_state("networkidle")
    wait_until(lambda: not PendingRevocation.objects.exists())


@pytest.fixture
def ada():
    return get_user_model().objects.create_user("ada", password="lovelace")


@pytest.fixture
def signing_in(settings):
    settings.LEADEXEC = settings.LEADEXEC | {"SIGN_IN": True}


def connect(visitor, user, account=""):
    visitor.has_session_of(user)
    visitor.open()
    visitor.answer_dialog("Consent", account)
    visitor.sees("Connected with LeadExec")


@in_each_engine
@in_each_origin
def test_a_visitor_consents_and_disconnects_again(visitor, ada):
    connect(visitor, ada)
    connection = ada.leadexec_connections.get()
    assert connection.status == Status.ACTIVE
    visitor.page.get_by_role("button", name="Disconnect").click()
    visitor.page.locator("#leAppButton").wait_for()
    connection.refresh_from_db()
    assert connection.status == Status.REVOKED
    assert not Grant.objects.live().exists()


@in_each_engine
@in_each_origin
def test_a_visitor_cancels(visitor, ada):
    visitor.has_session_of(ada)
    visitor.open()
    visitor.answer_dialog("Cancel")
    visitor.sees("Nothing was connected. LeadExec says: The visitor declined the authorization.")
    assert not LeadExecConnection.objects.exists()


@in_each_engine
@in_each_origin
def test_only_a_dialog_of_the_same_site_recognizes_a_visitor(visitor, ada, provider_host):
    connect(visitor, ada, "Summit Roofing")
    bob = get_user_model().objects.create_user("bob")
    visitor.has_session_of(bob)
    with visitor.page.expect_response("**/dialog/status/**") as answered:
        visitor.page.goto(visitor.url + "/strict/")
    # Its cookie is SameSite=Lax: it goes along with the dialog, and with no request of a script's
    # on another site.
    is_same_site = provider_host == "localhost"
    assert bool(answered.value.json()["result"]) == is_same_site
    if is_same_site:
        visitor.page.get_by_role("button", name="Continue with LeadExec").wait_for()
        return
    with visitor.page.expect_popup() as opened:
        visitor.page.locator("#leAppButton").click()
    chosen = opened.value.locator("[name=account]:checked")
    assert chosen.get_attribute("value") == "summit-roofing"


@in_each_origin
def test_a_page_that_cuts_the_dialog_off_hears_nothing_of_it(visitor, ada, settings, faults):
    settings.SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
    faults.allow("This page has the header Cross-Origin-Opener-Policy: same-origin")
    visitor.has_session_of(ada)
    visitor.open()
    with visitor.page.context.expect_page() as opened:
        visitor.page.locator("#leAppButton").click()
    opened.value.get_by_role("button", name="Consent").click()
    opened.value.locator("#cut-off").wait_for()
    assert not LeadExecConnection.objects.exists()


def test_who_goes_on_to_a_page_without_the_button_is_told_there_once(visitor, ada):
    visitor.has_session_of(ada)
    with visitor.page.expect_response("**/dialog/status/**"):
        visitor.page.goto(visitor.url + "/strict/?next=/leads/")
    visitor.answer_dialog("Consent")
    visitor.page.wait_for_url(f"{visitor.url}/leads/")
    assert visitor.page.get_by_text("You are connected with LeadExec.").count() == 1
    visitor.page.goto(visitor.url + "/strict/")
    visitor.page.locator(".leadexec-account").wait_for()
    assert visitor.page.get_by_text("You are connected with LeadExec.").count() == 0


@pytest.mark.parametrize(("choice", "count"), [("Connect", 1), ("Don't connect", 0)])
def test_a_signed_out_visitor_logs_in_and_decides_on_the_confirm_page(visitor, ada, choice, count):
    visitor.open()
    visitor.answer_dialog("Consent")
    visitor.page.locator("[name=username]").fill("ada")
    visitor.page.locator("[name=password]").fill("lovelace")
    visitor.page.locator("[name=password]").press("Enter")
    visitor.sees("the LeadExec account you just authorized in this browser")
    visitor.sees("ada")
    visitor.page.get_by_role("button", name=choice, exact=True).click()
    visitor.page.wait_for_url("**/strict/")
    assert ada.leadexec_connections.count() == count


def sign_in_by_click(visitor, ada):
    visitor.has_session_of(ada)
    visitor.open()
    visitor.answer_dialog("Consent")
    visitor.page.get_by_role("button", name="Connect", exact=True).click()
    visitor.sees("Connected with LeadExec")
    visitor.page.context.clear_cookies(name="sessionid")
    visitor.open()
    visitor.page.get_by_role("button", name="Continue with LeadExec").click()
    visitor.is_signed_in_as("ada")


def test_a_returning_visitor_is_signed_in_without_a_click(visitor, ada, signing_in):
    sign_in_by_click(visitor, ada)
    visitor.page.context.clear_cookies(name="sessionid")
    # The page leaves by itself, which fails a goto() that still waits for it to load.
    visitor.page.goto(visitor.url + "/strict/", wait_until="commit")
    visitor.is_signed_in_as("ada")


def test_who_has_signed_out_is_not_signed_in_without_a_click(visitor, ada, signing_in):
    sign_in_by_click(visitor, ada)
    cookies = {cookie["name"]: cookie["value"] for cookie in visitor.page.context.cookies()}
    client = Client()
    client.cookies.load(cookies)
    client.post("/accounts/logout/")
    visitor.open()
    visitor.page.get_by_role("button", name="Continue with LeadExec").wait_for()
    visitor.is_signed_in_as("nobody")


def test_an_account_that_is_another_users_is_told_in_place(visitor, ada, faults):
    faults.allow(NOT_LOADED)
    connect(visitor, get_user_model().objects.create_user("bob"))
    visitor.has_session_of(ada)
    visitor.open()
    # LeadExec knows the visitor, but the site says nothing of whose account it is before a click.
    visitor.page.get_by_role("button", name="Continue with LeadExec").click()
    visitor.sees("This LeadExec account is connected to another user of this site.")
    assert not ada.leadexec_connections.exists()


def test_a_rejected_connection_comes_back_by_connecting_again(visitor, ada):
    connect(visitor, ada)
    Grant.objects.all().revoke()
    ada.leadexec_connections.write(status=Status.REJECTED)
    visitor.open()
    visitor.sees("Please reconnect")
    visitor.answer_dialog("Consent")
    visitor.sees("Connected with LeadExec")
    assert ada.leadexec_connections.get().status == Status.ACTIVE


def test_disconnecting_needs_no_javascript(visitor, ada, chromium):
    connect(visitor, ada)
    context = chromium.new_context(java_script_enabled=False)
    try:
        plain = Visitor(context.new_page(), visitor.url)
        plain.has_session_of(ada)
        plain.page.goto(plain.url + "/strict/")
        plain.page.get_by_role("button", name="Disconnect").click()
        plain.page.locator("#leAppButton").wait_for()
    finally:
        context.close()
    assert not ada.leadexec_connections.live().exists()


# Two tabs, two users


def test_an_old_tab_is_told_that_it_is_done(visitor, ada):
    connect(visitor, ada)
    other = visitor.page.context.new_page()
    other.goto(f"{visitor.url}/strict/")
    visitor.page.get_by_role("button", name="Disconnect").click()
    visitor.page.locator("#leAppButton").wait_for()
    other.get_by_role("button", name="Disconnect").click()
    other.locator("#leAppButton").wait_for()
    other.get_by_text("LeadExec was disconnected already.").wait_for()


def test_a_tab_of_the_user_before_links_nothing_to_the_one_after(visitor, ada, faults):
    faults.allow(NOT_LOADED)
    visitor.has_session_of(ada)
    visitor.open()
    bob = get_user_model()._default_manager.create_user("bob")
    # Somebody else has logged in, in another tab of this browser.
    visitor.has_session_of(bob)
    visitor.answer_dialog("Consent")
    reload = visitor.page.get_by_role("button", name="Reload")
    reload.wait_for()
    assert not LeadExecConnection.objects.exists()
    reload.click()
    visitor.page.locator("h1", has_text="bob").wait_for()


def test_who_does_not_confirm_can_come_back_with_another_account(visitor, ada, signing_in):
    visitor.has_session_of(ada)
    visitor.open()
    visitor.answer_dialog("Consent", "Northwind Solar")
    visitor.page.wait_for_url("**/confirm/")
    visitor.page.get_by_text("Use another LeadExec account").click()
    visitor.sees("Sign out at LeadExec in this browser")
    visitor.page.get_by_role("button", name="Don't connect").click()
    visitor.page.wait_for_url("**/strict/")
    assert not LeadExecConnection.objects.exists()
    # They do as the page has said: sign out at LeadExec, and choose another account there.
    visitor.page.context.clear_cookies(name=COOKIE)
    visitor.open()
    visitor.answer_dialog("Consent", "Summit Roofing")
    visitor.page.get_by_role("button", name="Connect", exact=True).click()
    visitor.sees("Connected with LeadExec")
    assert Grant.objects.live().filter(account="summit-roofing").count() == 1
