"""A site may have a user model with nothing but what Django asks for."""

from ..processes import run_scenario


def test_a_user_model_without_staff_and_permissions_will_do() -> None:
    assert run_scenario("tests.security.slim").split() == [
        *("confirm_required", "ignored", "signed_in", "signed_in", "rejected"),
    ]
