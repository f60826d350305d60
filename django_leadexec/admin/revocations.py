"""The outbox in the admin: to be looked at, tried now, or let go."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..leases import writing
from ..outbox import OutboxQuerySet, PendingRevocation
from ..querysets import chunks
from ..refresh.chosen import send_chosen
from .base import ActionAdmin, all_rows, is_confirmed, note_change
from .outcomes import LET_GO, failure_sentence, join, sent_sentences, sentence

logger: logging.Logger = logging.getLogger(__name__)

SENT = gettext_lazy("Sent to LeadExec by hand.")
RELEASED = gettext_lazy("Let go without LeadExec's confirmation.")


class OverdueFilter(admin.SimpleListFilter):
    title: Any = gettext_lazy("state")
    parameter_name: str = "overdue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Overdue")), ("no", _("Not overdue"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        overdue = PendingRevocation.objects.overdue().values("pk")
        if self.value() == "yes":
            return queryset.filter(pk__in=overdue)
        return queryset.exclude(pk__in=overdue) if self.value() == "no" else queryset


@admin.register(PendingRevocation)
class PendingRevocationAdmin(ActionAdmin[PendingRevocation]):
    list_display: tuple[str, ...] = (
        "app_id",
        "requested_at",
        "state",
        "retry_after",
        "attempts",
        "error",
    )
    list_filter: ClassVar[tuple[Any, ...]] = (OverdueFilter,)
    shown: tuple[str, ...] = (
        "app_id",
        "requested_at",
        "state",
        "retry_after",
        "attempts",
        "last_error",
    )
    actions: tuple[str, ...] = ("try_now", "let_go")
    confirmation_template = "admin/django_leadexec/pendingrevocation/confirmation.html"

    def has_delete_permission(
        self, request: HttpRequest, obj: PendingRevocation | None = None
    ) -> bool:
        # An entry that is deleted leaves a token that may work for ever: see let_go().
        return False

    def has_try_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("django_leadexec.change_pendingrevocation")

    def has_release_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("django_leadexec.release_pendingrevocation")

    @admin.display(description=gettext_lazy("state"), ordering="requested_at")
    def state(self, entry: PendingRevocation) -> str:
        return _("overdue") if entry.is_overdue() else _("waiting")

    @admin.action(permissions=["try"], description=gettext_lazy("Try now"))
    def try_now(self, request: HttpRequest, queryset: QuerySet[PendingRevocation]) -> None:
        """Send the selected revocations to LeadExec, due or not."""
        selected: OutboxQuerySet = self.selected(request, queryset)
        using = selected.db

        def send() -> None:
            try:
                confirmed, queued = send_chosen(keys, using, self.seconds)
            except Exception as error:  # noqa: BLE001 - the message says what happened
                self.message_user(request, failure_sentence(error), messages.ERROR)
                return
            text, level = sent_sentences(confirmed, queued)
            self.message_user(request, text or _("Nothing to do."), level)

        with writing(PendingRevocation, using):
            # Read once, as others may match by the time they are sent. The oldest come first.
            keys = list(selected.order_by("requested_at", "pk").values_list("pk", flat=True))
            # Before they are sent: what the provider confirms is deleted.
            self.log(request, keys, CHANGE, SENT)
            transaction.on_commit(send, using=using)

    @admin.action(
        permissions=["release"], description=gettext_lazy("Let go without LeadExec's confirmation")
    )
    def let_go(
        self, request: HttpRequest, queryset: QuerySet[PendingRevocation]
    ) -> HttpResponse | None:
        """Delete the selected entries. Nobody sends them any more, so their tokens may live on."""
        selected: OutboxQuerySet = self.selected(request, queryset)
        if not is_confirmed(request):
            title = _("Let go of pending revocations?")
            return self.ask(request, selected, selected, title=title, action="let_go")
        with writing(PendingRevocation, selected.db):
            keys = list(selected.order_by("pk").values_list("pk", flat=True))
            count = 0
            for part in chunks(keys):
                count += self._let_go(request, part)
            text = join([sentence(LET_GO, count), note_change(request, count)])
            self.message_on_commit(request, text or _("Nothing to do."), selected.db)
        return None

    def _let_go(self, request: HttpRequest, keys: Sequence[int]) -> int:
        # Locked, so that no entry is logged as let go which is confirmed at the same time.
        entries: OutboxQuerySet = all_rows(self.model).filter(pk__in=keys).order_by("pk")
        rows = entries.read_locked()
        self.log(request, [row.pk for row in rows], DELETION, RELEASED)
        entries.with_keys_of(rows).delete()

        def warn() -> None:
            for row in rows:
                logger.warning(
                    "The pending revocation %s of application %s was let go by user %s: its token "
                    "may go on working at LeadExec.",
                    row.pk,
                    row.app_id,
                    request.user.pk,
                )

        transaction.on_commit(warn, using=entries.db)
        return len(rows)
