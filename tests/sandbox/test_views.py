import json
import re
from html import unescape
from typing import Any

import django
import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from django_leadexec.sandbox import faults, provider, views
from django_leadexec.sandbox.models import Fault, Grant
from django_leadexec.sandbox.urls import urlpatterns

ORIGIN = "http://testserver"
DIALOG = "/sandbox/dialog/"
STATUS = "/sandbox/dialog/status/"


def post_dialog(client: Client, **fields: str) -> Any:
    form = {"button": "button", "origin": ORIGIN, "account": "northwind-solar"}
    return client.post(DIALOG, form | {"answer": "consent"} | fields)


def handed_over(answer: Any) -> dict[str, object]:
    [data] = re.findall(r'data-result="([^"]*)"', answer.text)
    result: dict[str, object] = json.loads(unescape(data))
    return result


def words(html: str) -> str:
    """The page with each run of blanks as one."""
    return " ".join(html.split())


def all_paths() -> list[str]:
    names = [str(pattern.name) for pattern in urlpatterns]
    needs = {"refresh": ["token"], "disconnect": ["token"], "leads": ["5"]}
    needs["unknown"] = ["account", "/v2"]
    return [reverse(f"leadexec_sandbox:{name}", args=needs.get(name)) for name in names]


# --- Where it is open ---


@pytest.mark.parametrize("path", all_paths())
def test_outside_debug_there_is_nothing(settings: Settings, path: str) -> None:
    settings.DEBUG = False
    assert Client().get(path).status_code == 404
    assert Client().post(path).status_code == 404


@pytest.mark.django_db
def test_outside_debug_it_can_be_allowed(settings: Settings) -> None:
    settings.DEBUG = False
    settings.LEADEXEC_SANDBOX = {"ALLOW_OUTSIDE_DEBUG": True}
    assert Client().get("/sandbox/").status_code == 200
    assert Client().get("/sandbox/connections/").status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("path", all_paths())
def test_nobody_has_to_be_logged_in_on_the_site(settings: Settings, path: str) -> None:
    name = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, name]
    for response in (Client().get(path), Client().post(path)):
        assert not response.headers.get("Location", "").startswith("/accounts/login/")


# --- The script ---


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/sandbox/js/le-app-button.js", "application/javascript"),
        ("/sandbox/css/le-app-button.css", "text/css"),
    ],
)
def test_the_script_and_stylesheet_are_at_the_providers_addresses(
    path: str, content_type: str
) -> None:
    answer = Client().get(path)
    assert answer["Content-Type"].startswith(content_type)
    assert "le" in answer.text


@pytest.mark.parametrize("path", ["js/le-app-button.js", "css/le-app-button.css"])
def test_pages_that_embed_only_what_allows_it_may_load_the_script_and_stylesheet(path: str) -> None:
    answer = Client().get(f"/sandbox/{path}")
    assert answer["Cross-Origin-Resource-Policy"] == "cross-origin"


@pytest.mark.django_db
def test_a_stranger_is_not_authorized() -> None:
    assert Client().get(STATUS, {"button": "button"}).json() == {"result": None, "error": None}


@pytest.mark.django_db
def test_a_returning_visitor_gets_the_same_refresh_token_without_a_dialog() -> None:
    client = Client()
    consented = handed_over(post_dialog(client))
    answer = client.get(STATUS, {"button": "button"})
    result = answer.json()["result"]
    assert result["valid"] is True
    assert result["error"] is None
    assert result["refreshToken"] == consented["refreshToken"]
    assert provider.account_of(result["authToken"]) == "northwind-solar"
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.django_db
def test_a_visitor_is_a_stranger_to_another_application() -> None:
    client = Client()
    post_dialog(client)
    assert client.get(STATUS, {"button": "other"}).json()["result"] is None


@pytest.mark.django_db
def test_a_visitor_who_has_revoked_is_a_stranger_again() -> None:
    client = Client()
    token = str(handed_over(post_dialog(client))["refreshToken"])
    provider.disconnect(token)
    assert client.get(STATUS, {"button": "button"}).json()["result"] is None


@pytest.mark.django_db
@pytest.mark.parametrize("value", ["northwind-solar", "northwind-solar:forged", ""])
def test_an_unsigned_cookie_signs_nobody_in(value: str) -> None:
    provider.authorize("northwind-solar", "button")
    client = Client()
    client.cookies[views.COOKIE] = value
    assert client.get(STATUS, {"button": "button"}).json()["result"] is None


@pytest.mark.django_db
def test_a_button_of_191_characters_is_known() -> None:
    assert not Client().get(STATUS, {"button": "x" * 191}).json().get("error")


@pytest.mark.parametrize("button", ["", "x" * 192, "nul\0"])
def test_an_unknown_button_is_an_error(button: str) -> None:
    assert Client().get(STATUS, {"button": button}).json()["error"]
    answer = Client().get(DIALOG, {"button": button, "origin": ORIGIN})
    assert answer.status_code == 400


def test_a_button_of_no_configured_application_is_an_error(settings: Settings) -> None:
    settings.LEADEXEC_SANDBOX = {"APPLICATIONS": {"app": "button"}}
    assert Client().get(STATUS, {"button": "other"}).json()["error"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("origin", "trusted"),
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:8000", True),
        ("http://testserver", True),
        ("http://testserver:81", False),
        ("http://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("http://evil@localhost", False),
        ("http://localhost:8000/path", False),
        ("ftp://localhost", False),
        ("http://[", False),
        ("null", False),
        ("*", False),
    ],
)
def test_tokens_go_only_to_this_host_and_this_machine(origin: str, trusted: bool) -> None:
    answer = Client().get(STATUS, {"button": "button"}, headers={"Origin": origin})
    assert answer.headers.get("Access-Control-Allow-Origin") == (origin if trusted else None)
    assert answer.headers.get("Access-Control-Allow-Credentials") == ("true" if trusted else None)
    dialog = Client().get(DIALOG, {"button": "button", "origin": origin})
    assert dialog.status_code == (200 if trusted else 400)
    assert post_dialog(Client(), origin=origin).status_code == (200 if trusted else 400)
    assert Grant.objects.exists() == trusted


# --- The dialog ---


@pytest.mark.django_db
def test_the_dialog_names_application_and_asker_and_offers_every_account() -> None:
    provider.create_grants("Acme <Portal>", button_id="button")
    text = Client().get(DIALOG, {"button": "button", "origin": ORIGIN}).text
    assert "Acme &lt;Portal&gt;" in text
    assert ORIGIN in text
    for account, name in provider.ACCOUNTS.items():
        assert f'value="{account}"' in text
        assert name in text


@pytest.mark.django_db
def test_the_dialog_starts_with_the_account_that_is_signed_in() -> None:
    client = Client()
    post_dialog(client, account="summit-roofing")
    text = client.get(DIALOG, {"button": "other", "origin": ORIGIN}).text
    assert 'value="summit-roofing" checked' in text
    assert text.count(" checked") == 1


@pytest.mark.django_db
def test_consent_hands_a_good_token_to_the_opener() -> None:
    answer = post_dialog(Client(), origin="http://localhost:3000")
    result = handed_over(answer)
    assert set(result) == {"valid", "refreshToken", "authToken", "error"}
    assert result["valid"] is True
    assert provider.refresh(str(result["refreshToken"]), "app")["valid"] is True
    assert 'data-origin="http://localhost:3000"' in answer.text


@pytest.mark.django_db
def test_cancel_grants_nothing_and_says_why() -> None:
    client = Client()
    result = handed_over(post_dialog(client, answer="cancel"))
    assert result["valid"] is False
    assert result["error"]
    assert "refreshToken" not in result
    assert not Grant.objects.exists()
    assert views.COOKIE not in client.cookies


@pytest.mark.django_db
def test_consent_is_for_the_demo_accounts_only() -> None:
    assert post_dialog(Client(), account="nobody").status_code == 400
    assert not Grant.objects.exists()


@pytest.mark.django_db
def test_the_dialog_keeps_its_opener() -> None:
    for answer in (
        Client().get(DIALOG, {"button": "button", "origin": ORIGIN}),
        post_dialog(Client()),
        Client().get(DIALOG),
    ):
        assert answer["Cross-Origin-Opener-Policy"] == "unsafe-none"


@pytest.mark.django_db
def test_the_cookie_is_out_of_reach_of_scripts_and_of_the_rest_of_the_site() -> None:
    client = Client()
    post_dialog(client)
    cookie = client.cookies[views.COOKIE]
    assert cookie["httponly"]
    assert cookie["path"] == "/sandbox/"
    assert cookie["samesite"] == "Lax"


@pytest.mark.parametrize("path", [DIALOG, "/sandbox/connections/", "/sandbox/control/order/"])
def test_posts_need_a_csrf_token_even_where_the_middleware_is_missing(
    settings: Settings, path: str
) -> None:
    assert Client(enforce_csrf_checks=True).post(path).status_code == 403
    settings.MIDDLEWARE = []
    assert Client(enforce_csrf_checks=True).post(path).status_code == 403


@pytest.mark.django_db
def test_no_page_has_inline_code() -> None:
    client = Client()
    pages = [post_dialog(client).text]
    pages += [client.get(DIALOG, {"button": "button", "origin": ORIGIN}).text]
    pages += [client.get(f"/sandbox/{path}").text for path in ("", "connections/", "control/")]
    for page in pages:
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|data:", page)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))


@pytest.mark.django_db
@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has had such a middleware since 6.0")
def test_a_policy_for_the_whole_site_does_not_stop_the_providers_scripts(
    settings: Settings,
) -> None:
    settings.MIDDLEWARE = ["django.middleware.csp.ContentSecurityPolicyMiddleware"]
    settings.SECURE_CSP = {"script-src": ["'nonce-of-the-site'"]}
    pages = [post_dialog(Client()), Client().get("/sandbox/"), Client().get("/page/")]
    assert ["nonce" in page["Content-Security-Policy"] for page in pages] == [False, False, True]


# --- The provider's site ---


@pytest.mark.django_db
def test_a_visitor_sees_and_revokes_only_their_own_grants() -> None:
    client = Client()
    post_dialog(client)
    mine = Grant.objects.get()
    mine.app_id = "Acme Portal"
    mine.save()
    theirs = provider.authorize("harbor-mortgage", "other-button")
    text = client.get("/sandbox/connections/").text
    assert "Acme Portal" in text
    assert "other-button" not in text
    client.post("/sandbox/connections/", {"grant": str(theirs.pk)})
    for junk in ("junk", "9" * 30, "9" * 5_000):  # int() reads no more than 4,300 digits
        assert client.post("/sandbox/connections/", {"grant": junk}).status_code == 302
    assert Grant.objects.live().count() == 2
    client.post("/sandbox/connections/", {"grant": str(mine.pk)})
    assert [grant.pk for grant in Grant.objects.live()] == [theirs.pk]
    assert "Acme Portal" not in client.get("/sandbox/connections/").text


@pytest.mark.django_db
def test_a_visitor_switches_the_account_and_signs_out() -> None:
    client = Client()
    post_dialog(client)
    client.post("/sandbox/connections/", {"account": "harbor-mortgage"})
    assert "Harbor Mortgage</strong>" in client.get("/sandbox/connections/").text
    assert client.get(STATUS, {"button": "button"}).json()["result"] is None
    client.post("/sandbox/connections/", {"account": "northwind-solar"})
    assert client.get(STATUS, {"button": "button"}).json()["result"]["valid"] is True
    client.post("/sandbox/connections/", {"sign_out": "yes"})
    assert "not signed in" in client.get("/sandbox/connections/").text
    assert Grant.objects.live().count() == 1


@pytest.mark.django_db
def test_nobody_revokes_without_being_signed_in() -> None:
    grant = provider.authorize("northwind-solar", "button")
    Client().post("/sandbox/connections/", {"grant": str(grant.pk)})
    assert Grant.objects.live().exists()


# --- The control page ---


@pytest.mark.django_db
def test_the_control_page_sets_shows_and_clears_faults() -> None:
    token, other = provider.create_grants("app", 2)
    scope = Grant.objects.earliest("pk").digest
    order = {"order": "fault", "kind": "throttle", "seconds": "30", "scope": scope}
    client = Client()
    client.post("/sandbox/control/order/", order)
    assert client.get(f"/sandbox/authorize/refreshaccesstoken/{token}").status_code == 429
    assert client.get(f"/sandbox/authorize/refreshaccesstoken/{other}").status_code == 200
    text = client.get("/sandbox/control/").text
    assert "429 Too Many Requests, 30 s" in text
    assert "refresh throttle" in text
    client.post("/sandbox/control/order/", {"order": "clear"})
    client.post("/sandbox/control/order/", {"order": "reset"})
    assert not Fault.objects.exists()
    assert faults.counts("refresh") == {}


@pytest.mark.django_db
def test_the_control_page_expires_access_tokens() -> None:
    [token] = provider.create_grants("app")
    access = provider.refresh(token, "app")["authToken"]
    Client().post("/sandbox/control/order/", {"order": "expire"})
    assert provider.account_of(access) is None


@pytest.mark.django_db
def test_the_control_page_says_what_has_to_happen_before_a_fault_is_seen() -> None:
    client = Client()
    [token] = provider.create_grants("app")
    provider.refresh(token, "app")
    assert "Takes effect" not in client.get("/sandbox/control/").text
    faults.set_fault("refuse")
    text = words(client.get("/sandbox/control/").text)
    assert "Takes effect at the next refresh or disconnect." in text
    assert "expire the access tokens now" in text
    assert "One is good." in text
    client.post("/sandbox/control/order/", {"order": "expire"})
    text = words(client.get("/sandbox/control/").text)
    assert "so the next call of an API brings a refresh" in text
    assert "None is good." in text


@pytest.mark.django_db
def test_the_start_page_tells_the_calls_of_the_apis_and_that_they_are_a_likeness() -> None:
    text = words(Client().get("/sandbox/").text)
    assert "<code>GET /sandbox/account-api/v1/leadtypes</code>" in text
    assert "<code>POST /sandbox/data-api/v1/leads/query/LEAD_TYPE_UID</code>" in text
    assert "LeadExec documents none that names the account." in text
    assert "a likeness" in text


@pytest.mark.django_db
@pytest.mark.parametrize(
    "field", [{"kind": "nonsense"}, {"seconds": "soon"}, {"call": "api"}, {"kind": ""}]
)
def test_the_control_page_takes_no_nonsense(field: dict[str, str]) -> None:
    order = {"order": "fault", "kind": "slow", "seconds": "1", "scope": "*"} | field
    assert Client().post("/sandbox/control/order/", order).status_code == 400
    assert not Fault.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(("given", "kept"), [("1e9", 300), ("-5", 0), ("nan", 0), ("", 0)])
def test_a_delay_has_its_bounds(given: str, kept: float) -> None:
    order = {"order": "fault", "kind": "slow", "seconds": given, "scope": "*"}
    Client().post("/sandbox/control/order/", order)
    assert Fault.objects.get().seconds == kept


@pytest.mark.django_db
def test_the_control_page_shows_no_token() -> None:
    [token] = provider.create_grants("app")
    faults.set_fault("refuse", token)
    assert token not in Client().get("/sandbox/control/").text
