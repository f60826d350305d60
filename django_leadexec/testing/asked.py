"""What was asked of LeadExec, and assertions about it."""

from collections.abc import Sequence

from ..models import LeadExecConnection
from .api import NO_JSON, Call, FakeApis, path_of
from .connecting import access_token_for
from .provider import FakeProvider


class Asked:
    """What LeadExec was asked during a test.

    Where a method takes a connection, it also takes a refresh token.
    """

    def __init__(self) -> None:
        self._provider = FakeProvider()
        self._apis = FakeApis()
        # Of connections made here, as revoking erases the token from the row.
        self._tokens: dict[int, str] = {}

    @property
    def refreshed(self) -> list[str]:
        """The refresh tokens that it was asked about, in order."""
        return self._provider.refreshed

    @property
    def revoked(self) -> list[str]:
        """The refresh tokens whose revocation it has confirmed, in order."""
        return self._provider.revoked

    @property
    def calls(self) -> list[Call]:
        """The calls to the two APIs, in order."""
        return self._apis.calls

    def assert_refreshed(self, connection: LeadExecConnection | str) -> None:
        """Fail unless LeadExec was asked for an access token of this connection."""
        self._assert_among(connection, self.refreshed, "asked for an access token of")

    def assert_revoked(self, connection: LeadExecConnection | str) -> None:
        """Fail unless LeadExec has confirmed the revocation of this connection."""
        self._assert_among(connection, self.revoked, "told to revoke")

    def assert_called(
        self,
        method: str,
        path: str,
        *,
        json: object = NO_JSON,
        query: dict[str, str] | None = None,
        connection: LeadExecConnection | str | None = None,
        times: int | None = None,
    ) -> None:
        """Fail unless this call was made, or made that many ``times``.

        ``json`` and ``query`` are what it has to have sent, ``connection`` on whose behalf.
        """
        wanted = path_of(path)
        matching = [
            call
            for call in self.calls
            if (call.method, call.path) == (method.upper(), wanted)
            and (json is NO_JSON or call.json == json)
            and (query is None or call.query == query)
            and (connection is None or self._is_by(call, connection))
        ]
        if matching if times is None else len(matching) == times:
            return
        asked = {"json": json, "query": query, "connection": connection}
        details = "".join(
            f", {name}={value!r}"
            for name, value in asked.items()
            if value is not None and value is not NO_JSON
        )
        expected = "" if times is None else f" {times} times, but {len(matching)}"
        raise AssertionError(
            f"{method.upper()} {wanted}{details} was not called{expected}. {self._describe()}"
        )

    def assert_not_called(self, method: str = "", path: str = "") -> None:
        """Fail if any call to the APIs was made, or any of this method and path."""
        matching = [
            call
            for call in self.calls
            if method.upper() in ("", call.method) and path in ("", call.path)
        ]
        if matching:
            raise AssertionError(f"{matching[0]} was called. {self._describe()}")

    def _describe(self) -> str:
        if not self.calls:
            return "No call was made."
        return "\n".join(["The calls that were made:", *map(str, self.calls)])

    def _assert_among(
        self, connection: LeadExecConnection | str, tokens: Sequence[str], done: str
    ) -> None:
        if self._token_of(connection) not in tokens:
            raise AssertionError(
                f"LeadExec was not {done} {connection}, but of {len(tokens)} others."
            )

    def _is_by(self, call: Call, connection: LeadExecConnection | str) -> bool:
        token, used = self._token_of(connection), call.access_token
        return self._provider.owners.get(used) == token or used == access_token_for(token)

    def _token_of(self, connection: LeadExecConnection | str) -> str:
        if isinstance(connection, str):
            return connection
        stored = connection.refresh_token.decrypt().reveal()
        token = stored or self._tokens.get(connection.pk)
        if not token:
            raise ValueError(
                f"{connection} has no refresh token any more. Make it by leadexec.connect(…), "
                "or pass the token itself."
            )
        return token
