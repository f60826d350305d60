from datetime import UTC, datetime

from django_leadexec.sandbox.models import AccessToken, CallCount, Fault, Grant


def test_no_row_shows_a_token_or_its_digest_as_text() -> None:
    grant = Grant(account="northwind-solar", button_id="b1", seed="seed", digest="digest")
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    rows = [
        grant,
        AccessToken(pk=7, grant=grant, digest="digest", expires_at=moment),
        Fault(scope="digest", kind="slow"),
        CallCount(name="refresh ok", total=3),
    ]
    assert [str(row) for row in rows] == [
        "northwind-solar for button b1",
        "access token 7",
        "slow",
        "refresh ok: 3",
    ]
    assert not [row for row in rows if "digest" in repr(row) or grant.refresh_token in repr(row)]
