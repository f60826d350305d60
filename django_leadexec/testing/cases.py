"""LeadExec for Django's ``TestCase``."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.test import SimpleTestCase

from ..models import LeadExecConnection
from .connecting import make_user
from .fake import FakeLeadExec, fake_leadexec

if TYPE_CHECKING:
    _Base = SimpleTestCase
else:
    _Base = object


class LeadExecTestMixin(_Base):
    """Put it before ``TestCase``: ``class LeadTests(LeadExecTestMixin, TestCase)``.

    Each test has a fake of its own, ``self.leadexec``.
    """

    leadexec: FakeLeadExec

    def setUp(self) -> None:
        super().setUp()
        self.leadexec = self.enterContext(fake_leadexec())

    @cached_property
    def leadexec_user(self) -> Any:
        """A user, made at the first use."""
        return make_user()

    @cached_property
    def leadexec_connection(self) -> LeadExecConnection:
        """An active connection of ``leadexec_user``, made at the first use."""
        return self.leadexec.connect(self.leadexec_user)
