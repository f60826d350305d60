"""What the admin says about the outcome of an action: one sentence for each count above zero."""

import logging
from collections.abc import Iterable
from typing import Any

from django.contrib import messages
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as _
from django.utils.translation import ngettext_lazy

from ..refresh.chosen import ChosenReport

logger: logging.Logger = logging.getLogger(__name__)

CONFIRMED = ngettext_lazy(
    "LeadExec has confirmed %(count)s revocation.",
    "LeadExec has confirmed %(count)s revocations.",
    "count",
)
QUEUED = ngettext_lazy(
    "%(count)s revocation holds on this site and is queued: refresh_leadexec_tokens goes on "
    "sending it to LeadExec.",
    "%(count)s revocations hold on this site and are queued: refresh_leadexec_tokens goes on "
    "sending them to LeadExec.",
    "count",
)
REVOKED_ALREADY = ngettext_lazy(
    "%(count)s connection was revoked already.",
    "%(count)s connections were revoked already.",
    "count",
)
DELETED = ngettext_lazy(
    "%(count)s connection is deleted.", "%(count)s connections are deleted.", "count"
)
LET_GO = ngettext_lazy(
    "%(count)s pending revocation is deleted without LeadExec's confirmation.",
    "%(count)s pending revocations are deleted without LeadExec's confirmation.",
    "count",
)
REFRESHED = ngettext_lazy(
    "%(count)s connection is refreshed.", "%(count)s connections are refreshed.", "count"
)
REFUSED = ngettext_lazy(
    "LeadExec refused %(count)s connection.", "LeadExec refused %(count)s connections.", "count"
)
FAILED = ngettext_lazy(
    "%(count)s connection could not be refreshed; its last error says why.",
    "%(count)s connections could not be refreshed; their last errors say why.",
    "count",
)
REVOKED = ngettext_lazy(
    "%(count)s connection is revoked and can't be refreshed.",
    "%(count)s connections are revoked and can't be refreshed.",
    "count",
)
FOREIGN = ngettext_lazy(
    "%(count)s connection belongs to another application ID.",
    "%(count)s connections belong to another application ID.",
    "count",
)
LEFT = ngettext_lazy(
    "%(count)s connection was not reached; refresh_leadexec_tokens refreshes it when it is due.",
    "%(count)s connections were not reached; refresh_leadexec_tokens refreshes them when they "
    "are due.",
    "count",
)


def sentence(text: Any, count: int) -> str:
    """``text`` with this count; empty if the count is zero."""
    return str(text % {"count": count}) if count > 0 else ""


def join(sentences: Iterable[str]) -> str:
    return " ".join(filter(None, sentences))


def sent_sentences(confirmed: int, queued: int) -> tuple[str, int]:
    """The message about revocations that were sent, and its level."""
    text = join([sentence(CONFIRMED, confirmed), sentence(QUEUED, queued)])
    return text, messages.WARNING if queued else messages.SUCCESS


def refresh_sentences(report: ChosenReport) -> tuple[str, int]:
    """The message about connections that were refreshed, and its level."""
    sentences = [
        sentence(REFRESHED, report.refreshed),
        sentence(REFUSED, report.rejected),
        sentence(FAILED, report.failed),
        sentence(REVOKED, report.revoked),
        sentence(FOREIGN, report.foreign),
        sentence(LEFT, report.left),
    ]
    if report.everybody_refused:
        sentences.append(
            _(
                "LeadExec refused every connection, so nothing was marked as rejected. Is "
                "LEADEXEC['APP_ID'] right?"
            )
        )
    is_smooth = not (report.rejected or report.failed or report.foreign or report.left)
    return join(sentences) or _("Nothing to do."), (
        messages.SUCCESS if is_smooth else messages.WARNING
    )


def failure_sentence(error: Exception) -> str:
    """What kept an action from calling the provider. An unexpected error is also logged.

    Actions catch every error of their calls: what they did before is committed, and an error page
    would hide that.
    """
    if isinstance(error, ImproperlyConfigured):
        return _("LeadExec was not asked. %(problem)s") % {"problem": error}
    # Only the type: the error's text, or a traceback with locals, could show a token.
    logger.error("Calling LeadExec from the admin failed: %s.", type(error).__name__)
    return _("LeadExec could not be asked: %(problem)s.") % {"problem": type(error).__name__}
