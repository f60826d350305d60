"""The recorder that the other tests here trust sees what it is meant to see."""

import base64
import hashlib
import html
import json
import logging
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from django.core import mail
from django.http import HttpResponse

from ..factories import make_user
from . import canaries
from .leak_recorder import recording_leaks

CANARY = canaries.make_canary("Token")

DISGUISES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper case": str.upper,
    "reversed": lambda text: text[::-1],
    "percent": lambda text: quote(text, safe=""),
    "percent, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "percent, each character": lambda text: "".join(f"%{ord(letter):02X}" for letter in text),
    "form": quote_plus,
    "HTML": html.escape,
    "HTML, each character": lambda text: "".join(f"&#{ord(letter)};" for letter in text),
    "JSON": json.dumps,
    "JSON, each character": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
    "repr of bytes, each byte": lambda text: "".join(f"\\x{ord(letter):02x}" for letter in text),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "hex, reversed": lambda text: text[::-1].encode().hex(),
    "hex with blanks": lambda text: text.encode().hex(" "),
    "numbers": lambda text: str(list(text.encode())),
    "UTF-16": lambda text: text.encode("utf-16-le").decode("latin-1"),
    "its beginning": lambda text: text[:12],
    "its end": lambda text: text[-12:],
    "several lines": lambda text: f"{text[:5]}\n{text[5:]}",
    **{
        f"base64 at {offset}": lambda text, offset=offset: base64.b64encode(  # type: ignore[misc]
            b"x" * offset + text.encode() + b"y"
        ).decode()
        for offset in range(6)
    },
    **{
        f"base64url at {offset}": lambda text, offset=offset: base64.urlsafe_b64encode(  # type: ignore[misc]
            b"x" * offset + text.encode()
        ).decode()
        for offset in range(3)
    },
    **{
        f"base32 at {offset}": lambda text, offset=offset: base64.b32encode(  # type: ignore[misc]
            b"x" * offset + text.encode()
        ).decode()
        for offset in range(5)
    },
    "base64, reversed": lambda text: base64.b64encode(text[::-1].encode()).decode(),
    "SHA-256 without a key": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "SHA-1 without a key": lambda text: hashlib.sha1(text.encode()).hexdigest(),  # noqa: S324
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_a_canary_is_known_in_disguise(disguise: Callable[[str], str]) -> None:
    assert canaries.find(f"something {disguise(CANARY)} something", CANARY)


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_another_is_not_mistaken_for_it(disguise: Callable[[str], str]) -> None:
    assert not canaries.find(disguise(canaries.make_canary("Other")), CANARY)


@pytest.mark.django_db
def test_the_recorder_sees_each_place() -> None:
    # One each, as what one place has shown is not looked for in the next.
    places = ("log", "output", "warning", "mail", "answer", "table", "repr", "traceback")
    hidden = {place: canaries.make_canary(place) for place in places}
    with recording_leaks(*hidden.values(), mails=True) as recorder:
        logging.getLogger("some.library").debug("%s", hidden["log"])
        print(hidden["output"])  # noqa: T201
        warnings.warn(hidden["warning"], stacklevel=1)
        mail.mail_admins("subject", hidden["mail"])
        recorder.examine_response(HttpResponse(hidden["answer"]))
        make_user(hidden["table"])
        recorder.examine_storage()
        recorder.show([hidden["repr"]])
        with pytest.raises(ValueError, match="nothing") as caught:
            call_from_elsewhere(hidden["traceback"])
        recorder.examine(caught.value)
    for place, canary in hidden.items():
        assert any(place in found for found in recorder.leaks(canary)), place


def call_from_elsewhere(token: str) -> None:
    """Fail in a frame that is no test's, with the token among its locals."""
    namespace: dict[str, Any] = {}
    source = "def fail(token):\n    raise ValueError('nothing')"
    exec(compile(source, "elsewhere.py", "exec"), namespace)  # noqa: S102
    namespace["fail"](token)
