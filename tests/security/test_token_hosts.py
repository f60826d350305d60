"""Where the access token goes, as the network sees it: two URL parsers have to agree.

``origin()`` reads a URL with ``urllib.parse``, ``requests`` with ``urllib3``; what counts is which
host is looked up and connected to.
"""

import random
import re
import socket
from typing import Any
from urllib.parse import unquote

import pytest
import requests
from pytest_django import Settings

from django_leadexec.exceptions import LeadExecError
from django_leadexec.provider.transport import QuietAdapter
from django_leadexec.secret import Secret
from django_leadexec.session import LeadExecSession

from ..provider import http
from ..sockets import answering, apis_at, serving
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


# An API below a path of a server that others share, as the sandbox is.

TOP = "/tenants/ours/data"
INSIDE = [
    "",
    "/",
    "/v1/leads/query/5",
    "/v1/leads?next=/../../other",
    "/v1/leads#/../../other",
    "/v1/other/../leads",
    "/v1//leads",
    "/v1/./leads/.",
    "/v1/..leads/...",
    "/v1/a%2fb",
    "/v1/100%25",
    "/v1/caf%C3%A9",
]
OUTSIDE = [
    # Beside it, or a prefix of it.
    *("/", "/tenants/ours", "/tenants/ours/database", "/tenants/ours/data.json", "/other"),
    *("/Tenants/ours/data/v1", "/tenants/ours/DATA/v1", "/x/tenants/ours/data/v1"),
    *("//tenants/ours/data/v1", "/tenants//ours/data/v1", "//evil.test/tenants/ours/data"),
    *("/tenants%2fours/data/v1", "/tenants%5cours/data/v1", "/tenants\\ours/data/v1"),
    # Out of it again, or with dots that only some servers see.
    *(f"{TOP}/..", f"{TOP}/../other", f"{TOP}/v1/../../other", f"{TOP}/./../other"),
    *(f"{TOP}/%2e%2e/other", f"{TOP}/.%2e/other", f"{TOP}/%2E./other", f"{TOP}/v1/%2e%2e/x"),
    *(f"{TOP}/%252e%252e/other", f"{TOP}/%25252e%25252e/other", f"{TOP}/%25%32%65%25%32%65/x"),
    *(f"{TOP}/%{'25' * 30}2e%2e/other", f"{TOP}/..%2fother", f"{TOP}/%2e%2e%2fother"),
    *(f"{TOP}%2f..%2fother", f"{TOP}/..%5cother", f"{TOP}/..\\other", f"{TOP}\\..\\other"),
    *(f"{TOP}/..%252fother", f"{TOP}/..%255cother", f"{TOP}/v1%5c..%5c..%5cother"),
    *(f"{TOP}/..;/other", f"{TOP}/..;a=b/other", f"{TOP}/%2e%2e;/other", f"{TOP}/..%3b/other"),
    *(f"{TOP}/..%00/other", f"{TOP}/..%09/other", f"{TOP}/%20../other", f"{TOP}/..%3f/other"),
    *(f"{TOP}/..%23/other", f"{TOP}/%c0%ae%c0%ae/other", f"{TOP}/v1/a%2fb/%2e%2e/%2e%2e/x"),
    *(f"{TOP}/a%2fb/..%2f..", f"{TOP}/a%5cb/..%2f..%2fother"),
]

# Servers that take two slashes for one go further up. requests resolves these to what lies inside.
AMBIGUOUS = [f"{TOP}//../other", f"{TOP}//..//../other", f"{TOP}/a//../../other"]


@pytest.fixture
def shared(settings: Settings) -> Any:
    """A server of which only a folder is the API."""
    with serving(answering(OK)) as server:
        settings.DEBUG = True
        settings.LEADEXEC = settings.LEADEXEC | {
            "ACCOUNT_API_URL": f"{server.url}/tenants/ours/account/",
            "DATA_API_URL": f"{server.url}{TOP}",
        }
        yield server


@pytest.mark.parametrize("rest", INSIDE)
def test_below_the_path_of_an_api_the_token_is_sent(rest: str, shared: Any) -> None:
    with LeadExecSession(lambda refused: Secret("access")) as session:
        assert session.get(f"{shared.url}{TOP}{rest}").ok
        assert session.get(f"{session.account_api}{rest}").ok
    assert [request.headers["authorization"] for request in shared.requests] == [
        "Bearer access"
    ] * 2


@pytest.mark.parametrize("path", OUTSIDE)
def test_beside_the_path_of_an_api_no_token_is_sent(path: str, shared: Any) -> None:
    tokens = Tokens("access")
    with LeadExecSession(tokens) as session, pytest.raises(LeadExecError, match="DATA_API_URL"):
        session.get(shared.url + path)
    assert tokens.refused == []
    assert shared.accepted == 0


@pytest.mark.parametrize("path", [*OUTSIDE, *AMBIGUOUS, f"{TOP}/v1/../leads"])
def test_a_path_that_requests_has_not_resolved_may_not_lead_up(path: str, shared: Any) -> None:
    with LeadExecSession(lambda refused: Secret("access")) as session:
        signed = session.prepare_request(requests.Request("GET", session.data_api))
        signed.url = shared.url + path
        with pytest.raises(LeadExecError, match="DATA_API_URL"):
            session.send(signed)
    assert shared.accepted == 0


@pytest.mark.parametrize("path", AMBIGUOUS)
def test_dots_are_resolved_before_the_server_sees_them(path: str, shared: Any) -> None:
    with LeadExecSession(lambda refused: Secret("access")) as session:
        assert session.get(shared.url + path).ok
    [request] = shared.requests
    assert request.target.startswith(f"{TOP}/")
    assert ".." not in request.target


def readings(path: str) -> set[str]:
    """What servers may take a path for: decoded or not, with or without backslashes."""
    found = {path}
    while True:
        more = {unquote(reading) for reading in found}
        more |= {reading.replace("%2e", ".").replace("%2E", ".") for reading in found}
        more |= {reading.replace("\\", "/") for reading in found}
        more |= {re.sub(r"[;\x00][^/]*", "", reading) for reading in found}
        if more <= found:
            return found
        found |= more


def resolve(path: str, *, merge_slashes: bool) -> str:
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            kept[-1:] = []
        elif segment != "." and not (merge_slashes and segment == ""):
            kept.append(segment)
    return "/" + "/".join(kept)


def test_no_path_leads_out_of_an_api_in_any_reading(settings: Settings) -> None:
    pick = random.Random(11)
    pieces = [
        *("/", "/", "/", "//", ".", "..", "..", "%2e", "%2E", "%2e%2e", "%252e", "%25", "2e", "2f"),
        *("%2f", "%5c", "\\", ";", ";a", "%00", "%3b", "a", "v1", "tenants", "ours", "data"),
    ]
    settings.LEADEXEC = settings.LEADEXEC | {
        "ACCOUNT_API_URL": "https://api.test/tenants/ours/account",
        "DATA_API_URL": f"https://api.test{TOP}",
    }
    outcomes = {"sent": 0, "refused": 0}
    sent: list[str] = []

    def answer(adapter: object, request: requests.PreparedRequest, **options: Any) -> Any:
        sent.append(request.path_url)
        raise requests.ConnectionError

    with (
        LeadExecSession(lambda refused: Secret("access")) as session,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(QuietAdapter, "send", answer)
        for _ in range(3_000):
            path = f"{TOP}/" + "".join(pick.choices(pieces, k=pick.randint(1, 7)))
            try:
                session.get(f"https://api.test{path}")
            except requests.ConnectionError:
                outcomes["sent"] += 1
            except LeadExecError:
                outcomes["refused"] += 1
    for target in sent:
        for reading in readings(target):
            for merge_slashes in (False, True):
                resolved = resolve(reading, merge_slashes=merge_slashes)
                assert f"{resolved}/".startswith(f"{TOP}/"), f"{target!r} may be {resolved!r}"
    assert outcomes["sent"] > 200
    assert outcomes["refused"] > 200


def test_a_request_that_is_changed_after_it_was_signed_goes_nowhere(
    settings: Settings,
) -> None:
    # A page's "next" link from the API's own answer, say, put into the request at hand.
    with serving(answering(OK)) as api, serving(answering(OK)) as evil:
        settings.DEBUG = True
        settings.LEADEXEC = settings.LEADEXEC | apis_at(api.url)
        with LeadExecSession(lambda refused: Secret("access")) as session:
            signed = session.prepare_request(requests.Request("GET", api.url))
            signed.prepare_url(f"{evil.url}/next", None)
            with pytest.raises(LeadExecError, match="DATA_API_URL"):
                session.send(signed)
        assert (api.accepted, evil.accepted) == (0, 0)


def test_a_request_of_the_sites_own_credentials_may_go_anywhere(settings: Settings) -> None:
    with (
        serving(answering(OK)) as elsewhere,
        LeadExecSession(lambda refused: Secret("access")) as session,
    ):
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
            settings.LEADEXEC = settings.LEADEXEC | apis_at(api.url)
            with LeadExecSession(lambda refused: Secret("access")) as session:
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
            settings.LEADEXEC = settings.LEADEXEC | apis_at(api.url)
            with LeadExecSession(
                lambda refused: Secret("next" if refused else "access")
            ) as session:
                assert session.get(api.url).status_code == 401
            assert len(api.requests) == 2
        assert evil.accepted == 0
