"""What a machine lacks is a skip with a reason, and in CI a failure."""

import pytest

from tests.needs import NEEDS, skip_for_want


def test_a_want_is_a_skip_on_a_developers_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Firefox"):
        skip_for_want("no Firefox")


def test_a_want_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must have it: no Firefox"):
        skip_for_want("no Firefox")


@pytest.mark.parametrize(("engine", "name"), [("browser", "CHROMIUM"), ("firefox", "FIREFOX")])
def test_a_browser_is_found_on_the_path_or_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, engine: str, name: str
) -> None:
    missing = NEEDS[engine].missing.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(name, raising=False)
    assert missing() is not None
    monkeypatch.setenv(name, "/opt/browser")
    assert missing() is None
