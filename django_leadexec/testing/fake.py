"""What a test holds: LeadExec, which it tells what to answer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from django.contrib.auth.models import AbstractBaseUser
from django.test import Client
from django.urls import reverse

from ..clock import seconds_from_now
from ..models import LeadExecConnection
from ..provider import client
from ..provider.replies import Unavailable
from .api import NO_JSON, Call
from .asked import Asked
from .commits import visible_commits
from .connecting import State, connect, new_refresh_token


class FakeLeadExec(Asked):
    """LeadExec, as a test wants it. It honours every refresh token until it is told otherwise."""

    # Connections

    def connect(
        self,
        user: AbstractBaseUser,
        status: State = "active",
        *,
        refresh_token: str | None = None,
        account_id: str = "",
        using: str | None = None,
    ) -> LeadExecConnection:
        """A connection of this user in any state; ``testing.connect`` says which there are."""
        row = connect(user, status, refresh_token=refresh_token, account_id=account_id, using=using)
        if row.refresh_token:
            self._tokens[row.pk] = self._token_of(row)
        return row

    def click(self, browser: Client, refresh_token: str | None = None, **body: object) -> Any:
        """Post what the page posts after a visitor has clicked the button and consented.

        Returns the callback's response. ``body``: more of what the page posts, as ``next="/"``.
        """
        page = browser.get(reverse("leadexec:state")).json()
        content = {
            "token": refresh_token or new_refresh_token(),
            "gesture": True,
            "visitor": page["visitor"],
            **body,
        }
        return browser.post(
            reverse("leadexec:callback"),
            content,
            "application/json",
            headers={"X-CSRFToken": page["csrf_token"]},
        )

    def expire(self, connection: LeadExecConnection) -> None:
        """End the stored access token now, so that the next use gets a fresh one."""
        past = seconds_from_now(-60)
        rows = LeadExecConnection.objects.using(connection._state.db).filter(pk=connection.pk)
        rows.write(expires_at=past, refresh_after=past)
        connection.refresh_from_db()

    # What LeadExec's server answers

    def refuse(self, connection: LeadExecConnection | str) -> None:
        """Say no to it from now on, as if its user had revoked it at LeadExec.

        It is noticed when an access token is next asked for.
        """
        self._provider.refused.add(self._token_of(connection))

    def accept(self, connection: LeadExecConnection | str) -> None:
        """Say yes to it again."""
        self._provider.refused.discard(self._token_of(connection))

    def go_down(self, retry_after: float | None = None) -> None:
        """Be unavailable from now on; ``retry_after`` in seconds."""
        self._provider.trouble = Unavailable("down for the test", retry_after)

    def throttle(self, retry_after: float = 60) -> None:
        """Answer 429 with this Retry-After, in seconds, from now on."""
        self._provider.trouble = Unavailable("HTTP 429", retry_after)

    def come_back(self) -> None:
        """Answer again. Connections that have just failed still wait for their next try."""
        self._provider.trouble = None

    @property
    def token_lifetime(self) -> float:
        """Seconds that the access tokens live which it gives from now on."""
        return self._provider.lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: float) -> None:
        self._provider.lifetime = seconds

    # What LeadExec's APIs answer

    def answer(
        self,
        method: str,
        path: str,
        json: object | Callable[[Call], object] = NO_JSON,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: str | bytes = b"",
        error: Exception | None = None,
        times: int | None = None,
    ) -> None:
        """Answer this call from now on, or only that many ``times``.

        ``path`` begins with ``/``, or is a URL below one of the two APIs. With a query it fits only
        calls with the same query. ``json`` may be a function that gets the ``Call``. ``error`` is
        raised instead, for example ``requests.ConnectTimeout()``.
        Of the answers that fit, the one that was added last counts.
        """
        self._apis.prepare(
            method,
            path,
            json,
            status=status,
            headers=headers,
            body=body,
            error=error,
            times=times,
        )


@contextmanager
def fake_leadexec() -> Iterator[FakeLeadExec]:
    """Let a fake answer for LeadExec, in every thread of this process, and nothing else.

    Inside ``TestCase``, what the package does after a commit is done as if the test's own
    transaction was not there: ``testing.commits``.
    """
    fake = FakeLeadExec()
    with (
        mock.patch.object(client, "client_for", return_value=fake._provider),
        fake._apis.installed(),
        visible_commits(),
    ):
        yield fake
