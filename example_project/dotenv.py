"""Secrets that the example makes for itself at its first start."""

import os
import secrets
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet

MAKERS = {
    "SECRET_KEY": lambda: secrets.token_urlsafe(50),
    "LEADEXEC_ENCRYPTION_KEYS": lambda: Fernet.generate_key().decode(),
}


def add_missing_secrets(path: Path) -> None:
    """Add to the .env file what neither it nor the environment has. Its lines stay as they are."""
    missing = [name for name in MAKERS if name not in os.environ]
    if not missing:
        return
    before = path.read_text() if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    lines = "".join(f"{name}={MAKERS[name]()}\n" for name in missing)
    # Written whole beside it first (mkstemp lets nobody else read it), then put in place.
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".env.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(before + lines)
        if before:
            Path(draft).replace(path)
        else:
            # A link never overwrites: of two first starts at once, both use the winner's keys.
            os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        Path(draft).unlink(missing_ok=True)
