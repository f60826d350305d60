"""For a site's own tests: LeadExec without a network. docs/testing.md shows how.

Import it in test modules only. pytest has the same as fixtures: ``django_leadexec.pytest_plugin``.
"""

from .api import Call, UnansweredCall
from .cases import LeadExecTestMixin
from .connecting import State, connect, make_user
from .fake import FakeLeadExec, fake_leadexec
from .templates import missing_from_button

__all__ = [
    "Call",
    "FakeLeadExec",
    "LeadExecTestMixin",
    "State",
    "UnansweredCall",
    "connect",
    "fake_leadexec",
    "make_user",
    "missing_from_button",
]
