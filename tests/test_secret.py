"""What a secret shows to whatever looks at all of an object."""

from typing import Any

import pytest

from django_leadexec.secret import Secret

TEXT = "canary-0123456789"


def test_no_attribute_of_a_secret_is_its_text() -> None:
    """Serializers such as jsonpickle, and some debuggers, walk through the attributes."""
    secret: Any = Secret(TEXT)
    attributes = [getattr(secret, name) for name in dir(secret)]
    assert TEXT not in attributes
    assert TEXT not in repr(attributes)
    assert TEXT not in repr(secret.__getstate__())
    assert secret.reveal() == TEXT


@pytest.mark.parametrize("text", [None, b"canary", "canary\udc80"])
def test_what_can_be_no_token_is_refused_without_being_shown(text: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Secret(text)
    traceback: Any = caught.value.__traceback__
    assert "canary" not in f"{caught.value!r} {traceback.tb_next.tb_frame.f_locals!r}"
