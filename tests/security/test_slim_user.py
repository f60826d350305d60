"""A site may have a user model with nothing but what Django asks for."""

import os
import subprocess
import sys


def test_a_user_model_without_staff_and_permissions_will_do() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.security.slim.visit"],
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.security.slim.settings",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.split() == [
        *("confirm_required", "ignored", "signed_in", "signed_in", "rejected"),
    ]
