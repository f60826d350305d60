"""Fixtures for a site's own tests. pytest loads them wherever the package is installed.

So this imports nothing of Django before a test asks for it. docs/testing.md shows how to use them.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .models import LeadExecConnection
    from .testing import FakeLeadExec


@pytest.fixture
def leadexec() -> "Iterator[FakeLeadExec]":
    """LeadExec without a network, which the test tells what to answer."""
    from .testing import fake_leadexec

    with fake_leadexec() as fake:
        yield fake


@pytest.fixture
def leadexec_user(db: None) -> Any:
    """A user of the site. Override it if the user model needs more than a name."""
    from .testing import make_user

    return make_user()


@pytest.fixture
def leadexec_connection(leadexec: "FakeLeadExec", leadexec_user: Any) -> "LeadExecConnection":
    """An active connection of ``leadexec_user``."""
    return leadexec.connect(leadexec_user)
