from typing import Any

from .scenario import Browser


def more() -> dict[str, Any]:
    """The script is told addresses with both prefixes."""
    state = Browser().state()
    return {"prefixed": state["callback_url"] == "/below/here/en/leadexec/callback/"}
