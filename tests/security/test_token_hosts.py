"""Where the access token goes, as the network sees it: two URL parsers have to agree.

``origin()`` reads a URL with ``urllib.parse``, ``requests`` with ``urllib3``; what counts is which
host is looked up and connected to.
"""

import random
import socket
from typing import Any

import pytest
import requests
from pytest_django import Settings

from django_leadexec.exceptions import LeadExecError
from django_leadexec.session import LeadExecSession

from ..provider import http
from ..sockets import answering, serving
from ..test_session import Tokens

OK = http({})
API = "https://api.leadexec.net/leads"
HOSTS = {("api.leadexec.net", 443), ("apidata.leadexec.net", 443)}


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The hosts and ports that the process tries to reach; none of them answers."""
    seen: list[tuple[str, int]] = []

    def resolve(host: str, port: int, *args: object, **options: object) -> object:
        seen.append((host, port))
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return seen


LOOK_ALIKES = [
    "https://api.leadexec.net.evil.test/",
    "https://api.leadexec.net@evil.test/",
    "https://api.leadexec.net:443@evil.test/",
    "https://api.leadexec.net%40evil.test/",
    "https://api.leadexec.net%2f@evil.test/",
    "https://evil.test\\@api.leadexec.net/",
    "https:\\\\evil.test\\api.leadexec.net",
    "https:/\\evil.test/https://api.leadexec.net",
    "https:evil.test//api.leadexec.net/",
    "https:///evil.test/api.leadexec.net",
    "https://evil.test#@api.leadexec.net/",
    "https://evil.test?@api.leadexec.net/",
    "https://evil.test\t@api.leadexec.net.test/",
    "https://evil.test\n.api.leadexec.net/",
    "https://evil.test\0.api.leadexec.net/",
    "https://api.leadexec.net./",
    "https://api.leadexec.net.:443/",
    "https://.api.leadexec.net/",
    "https://api.leadexec.net:8443/",
    "https://api.leadexec.net:80/",
    "https://api.leadexec.net:99999/",
    "https://api.leadexec.net:-443/",
    "http://api.leadexec.net/",
    "http://api.leadexec.net:443/",
    "https://\u0430pi.leadexec.net/",
    "https://api\u2024leadexec.evil/",
    "https://xn--pi-7sb.leadexec.net/",
    "https://api.leadexec.net\u2100evil.test/",
    "https://api.leadexec.net\uff0fevil.test/",
    "https://api.leadexec.net\uff20evil.test/",
    "https://api\u00ad.leadexec.net.test/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[api.leadexec.net]/",
    "https://2130706433/",
    "https://0x7f.1/",
    "file:///etc/passwd",
    "ftp://api.leadexec.net/",
    "javascript:alert(1)",
    "httpsx://api.leadexec.net/",
]


@pytest.mark.parametrize("url", LOOK_ALIKES)
def test_a_look_alike_is_neither_given_a_token_nor_connected_to(
    url: str, looked_up: list[tuple[str, int]]
) -> None:
    tokens = Tokens("access")
    with LeadExecSession(tokens) as session, pytest.raises((LeadExecError, ValueError)):
        session.get(url)
    assert (tokens.refused, looked_up) == ([], [])


@pytest.mark.parametrize(
    "url",
    [
        API,
        "HTTPS://API.LEADEXEC.NET:443/leads",
        "https://api.leadexec%2enet/",
        "https://evil.test@api.leadexec.net/",
        "https://evil.test;@api.leadexec.net/",
        "https://evil.test:443@api.leadexec.net/https://evil.test/",
        "https://api.leadexec.net\\@evil.test",
        "https://\uff41pi.leadexec.net/",
        "https://api\u3002leadexec\uff0enet/",
    ],
)
def test_whatever_is_given_the_token_is_the_api_on_the_network_too(
    url: str, looked_up: list[tuple[str, int]]
) -> None:
    tokens = Tokens("access")
    with LeadExecSession(tokens) as session:
        try:
            session.get(url)
        except requests.ConnectionError:
            assert tokens.refused
            assert set(looked_up) <= HOSTS
        except (LeadExecError, ValueError):
            assert (tokens.refused, looked_up) == ([], [])
        else:
            pytest.fail("nothing can have answered")


PIECES = [
    *("https://", "HTTPS://", "http://", "https:", "https:/", "https:///", "//", "\\\\", "/", "\\"),
    *("api.leadexec.net", "API.leadexec.NET", "apidata.leadexec.net", "api.leadexec.net.", "x."),
    *("evil.test", "user:pw@", "user@", "@", "%40", ":", ":443", ":0443", ":80", "?", "#", ";"),
    *("%2f", "%5c", "%2e", "%00", "%", ".", "/..", "\t", "\n", "\r", " ", "\0", "\x85", "\xa0"),
    *("\u3002", "\uff0e", "\u2024", "\u2100", "\uff0f", "\uff20", "\u200b", "\xad", "\ufeff"),
    *("\uff45vil.test", "\u24d0pi.leadexec.net", "\u017f", "\u212a", "xn--", "[", "]", "[::1]"),
    *("127.0.0.1", "0x7f.1", "|", "^", "`", "&", "="),
]


def test_no_url_makes_the_two_parsers_disagree(looked_up: list[tuple[str, int]]) -> None:
    pick = random.Random(7)
    outcomes = {"connected": 0, "refused": 0}
    for _ in range(3_000):
        url = "".join(pick.choices(PIECES, k=pick.randint(1, 5)))
        if pick.random() < 0.7:
            url = f"https://{url}"
        if pick.random() < 0.3:
            url = url.replace("evil.test", "api.leadexec.net", 1)
        tokens = Tokens("access")
        looked_up.clear()
        with LeadExecSession(tokens) as session:
            try:
                session.get(url)
            except requests.ConnectionError:
                outcomes["connected"] += 1
            except (LeadExecError, ValueError):
                outcomes["refused"] += 1
        assert bool(looked_up) <= bool(tokens.refused), f"{url!r} is connected to without the check"
        assert set(looked_up) <= HOSTS, f"{url!r} is connected to as {looked_up}"
    assert outcomes["connected"] > 20
    assert outcomes["refused"] > 20


def test_a_request_that_is_changed_after_it_was_signed_goes_nowhere(
    settings: Settings,
) -> None:
    # A page's "next" link from the API's own answer, say, put into the request at hand.
    with serving(answering(OK)) as api, serving(answering(OK)) as evil:
        settings.DEBUG = True
        settings.LEADEXEC = settings.LEADEXEC | {"API_URLS": [api.url]}
        with LeadExecSession(lambda refused: "access") as session:
            signed = session.prepare_request(requests.Request("GET", api.url))
            signed.prepare_url(f"{evil.url}/next", None)
            with pytest.raises(LeadExecError, match="API_URLS"):
                session.send(signed)
        assert (api.accepted, evil.accepted) == (0, 0)


def test_a_request_of_the_sites_own_credentials_may_go_anywhere(settings: Settings) -> None:
    with serving(answering(OK)) as elsewhere, LeadExecSession(lambda refused: "access") as session:
        assert session.get(elsewhere.url, auth=("someone", "secret")).ok
        assert "access" not in repr(elsewhere.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["{evil}/", "//{host}/", "{evil}\\@{api}/", "http:{evil_path}"])
def test_no_redirect_takes_the_token_along(settings: Settings, status: int, target: str) -> None:
    with serving(answering(OK)) as evil:
        names: dict[str, Any] = {
            "evil": evil.url,
            "host": evil.url.removeprefix("http://"),
            "evil_path": evil.url.removeprefix("http:"),
            "api": "api.leadexec.net",
        }
        moved = http(
            b"", status, f"Location: {target.format(**names)}\r\nRefresh: 0;{evil.url}\r\n"
        )
        with serving(answering(moved)) as api:
            settings.DEBUG = True
            settings.LEADEXEC = settings.LEADEXEC | {"API_URLS": [api.url]}
            with LeadExecSession(lambda refused: "access") as session:
                for method in ("GET", "POST", "HEAD"):
                    response = session.request(method, api.url, allow_redirects=True)
                    assert response.status_code == status
                    assert response.next is None
        assert evil.accepted == 0


def test_a_401_that_names_another_host_is_tried_again_at_the_same(settings: Settings) -> None:
    with serving(answering(OK)) as evil:
        no = http({}, 401, f"Location: {evil.url}\r\nContent-Location: {evil.url}\r\n")
        with serving(answering(no)) as api:
            settings.DEBUG = True
            settings.LEADEXEC = settings.LEADEXEC | {"API_URLS": [api.url]}
            with LeadExecSession(lambda refused: "access") as session:
                assert session.get(api.url).status_code == 401
            assert len(api.requests) == 2
        assert evil.accepted == 0
