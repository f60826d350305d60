"""Where the callback and its pages send a browser: never out of the site."""

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from ..factories import make_connection, make_user
from ..provider import Provider
from ..visitor import (
    CALLBACK,
    CONNECT,
    DISCONNECT,
    LOGIN,
    agree,
    callback_body,
    post,
)

pytestmark = pytest.mark.django_db(transaction=True)


ELSEWHERE = [
    "//evil.test",
    "///evil.test",
    "////evil.test",
    "/\\evil.test",
    "\\/evil.test",
    "\\\\evil.test",
    "/\t/evil.test",
    "/\n/evil.test",
    "\t//evil.test",
    "\x00//evil.test",
    "\x08//evil.test",
    " //evil.test",
    "/page/\r\nSet-Cookie: a=b",
    "http:///evil.test",
    "http:evil.test",
    "http:/evil.test",
    "http:\\\\evil.test",
    "HTTP://evil.test",
    "https://evil.test/",
    "https://testserver@evil.test/",
    "https://evil.test\\@testserver/",
    "https://testserver.evil.test/",
    "https://evil.test#@testserver/",
    "http://testserver:8000/",
    "http://ⓣestserver/",
    "//testserver@evil.test",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\nscript:alert(1)",
    "\x01javascript:alert(1)",
    "javascript://testserver/%0aalert(1)",
    "data:text/html,x",
    "vbscript:x",
    "file:///etc/passwd",
    "ftp://testserver/",
    "http://[",
    "http://[::1",
    "//[",
    "http://testserver]/",
    "\ud800",
    "/\ud800",
    "/\u202e",
]


class TestRedirects:
    @pytest.mark.parametrize("wanted", ELSEWHERE, ids=ascii)
    def test_the_callback_sends_nobody_elsewhere(
        self, client: Client, victim: Any, provider: Provider, wanted: str
    ) -> None:
        assert post(client, "t", next=wanted).json() == {"status": "connected", "redirect": None}

    @pytest.mark.parametrize("wanted", ELSEWHERE, ids=ascii)
    def test_the_confirm_page_sends_nobody_elsewhere(
        self, client: Client, provider: Provider, wanted: str
    ) -> None:
        post(client, "t", next=wanted)
        client.force_login(make_user(), backend=LOGIN)
        assert agree(client)["Location"] == "/page/"

    @pytest.mark.parametrize("wanted", [it for it in ELSEWHERE if "\ud800" not in it], ids=ascii)
    def test_the_forms_send_nobody_elsewhere(
        self, client: Client, victim: Any, provider: Provider, wanted: str
    ) -> None:
        make_connection("mine", user=victim)
        assert client.get(CONNECT, {"next": wanted})["Location"] == "/page/"
        assert client.post(DISCONNECT, {"next": wanted})["Location"] == "/page/"

    @pytest.mark.parametrize(
        ("referer", "after"),
        [
            ("http://testserver/leads/", "/leads/"),
            ("http://evil.test/leads/", "/page/"),
            ("http://testserver//evil.test/", "/page/"),
            ("http://testserver/\\evil.test/", "/page/"),
            ("http://testserver@evil.test/", "/page/"),
            ("http://[", "/page/"),
            ("http://[::1", "/page/"),
            ("http://testserver]/", "/page/"),
            ("http://ⓣestserver\u2100/", "/page/"),
            ("//testserver//evil.test", "/page/"),
            ("javascript:alert(1)", "/page/"),
            ("", "/page/"),
        ],
    )
    def test_a_referer_sends_nobody_elsewhere(
        self, client: Client, victim: Any, provider: Provider, referer: str, after: str
    ) -> None:
        make_connection("mine", user=victim)
        response = client.post(DISCONNECT, headers={"Referer": referer})
        assert response["Location"] == after

    @pytest.mark.parametrize("wanted", ["http://testserver/page/", "http://testserver/"])
    def test_a_page_over_https_goes_on_over_https(
        self, client: Client, victim: Any, provider: Provider, wanted: str
    ) -> None:
        for secure, redirect in ((True, None), (False, wanted)):
            response = client.post(
                CALLBACK,
                json.dumps(callback_body(client, next=wanted)),
                content_type="application/json",
                secure=secure,
            )
            assert response.json()["redirect"] == redirect

    def test_a_host_that_is_forged_is_refused(
        self, client: Client, victim: Any, provider: Provider
    ) -> None:
        response = client.post(
            CALLBACK,
            json.dumps(callback_body(client, next="http://evil.test/")),
            content_type="application/json",
            headers={"Host": "evil.test"},
        )
        assert response.status_code == 400
        assert not provider.calls


def test_no_answer_is_a_redirect_that_a_script_would_follow(
    client: Client, provider: Provider, settings: Settings
) -> None:
    for clicked in (True, False):
        assert post(client, "t", clicked).status_code == 200
    assert reverse("leadexec:callback") == CALLBACK
