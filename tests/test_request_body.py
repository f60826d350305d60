"""What a posted body may be."""

import json

import pytest
from django.test import RequestFactory

from django_leadexec.request_body import BodyTooLarge, take_json


def take(length: int) -> dict[str, object]:
    """Take a JSON object out of a body of ``length`` bytes."""
    body = json.dumps({"next": "/", "more": 1}).ljust(length)
    request = RequestFactory().post("/", body, content_type="application/json")
    return take_json(request, {"next": str})


def test_a_body_may_have_16_kib_as_the_manual_says_and_no_byte_more() -> None:
    assert take(16_384) == {"next": "/"}
    with pytest.raises(BodyTooLarge, match="16384"):
        take(16_385)
