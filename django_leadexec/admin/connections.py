"""Connections in the admin: to be looked at, refreshed, revoked and deleted."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin import actions as admin_actions
from django.contrib.admin.models import CHANGE, DELETION
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_user_model
from django.db import connections as databases
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..leases import writing
from ..models import ConnectionQuerySet, LeadExecConnection
from ..querysets import RevokedBatch, chunks
from ..refresh.chosen import refresh_chosen, send_batch
from ..routing import database_of
from .base import ActionAdmin, TroubleFilter, all_rows, is_confirmed, note_change, rows_on_primary
from .outcomes import (
    DELETED,
    REVOKED_ALREADY,
    failure_sentence,
    join,
    refresh_sentences,
    sent_sentences,
    sentence,
)

REVOKED_AT_LEADEXEC = gettext_lazy("Revoked at LeadExec.")
# How many rows one query set names by their keys. SQLite takes 32,766 values in a statement.
MOST_KEYS = 30_000


@admin.register(LeadExecConnection)
class LeadExecConnectionAdmin(ActionAdmin[LeadExecConnection]):
    list_display: tuple[str, ...] = (
        "user",
        "account_id",
        "status",
        "expires_at",
        "refresh_after",
        "error",
    )
    list_filter: ClassVar[tuple[Any, ...]] = ("status", TroubleFilter, "refreshed_at")
    list_select_related: ClassVar[tuple[str, ...]] = ("user",)
    date_hierarchy: ClassVar[str] = "created_at"
    shown: tuple[str, ...] = (
        *("user", "account_id", "app_id", "status"),
        *("created_at", "refreshed_at", "expires_at", "refresh_after"),
        *("rejected_at", "revoked_at", "attempts", "last_error"),
    )
    actions: tuple[str, ...] = ("revoke_selected", "refresh_selected", "delete_selected")
    confirmation_template = "admin/django_leadexec/leadexecconnection/confirmation.html"

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        """The account, and the user's name and e-mail address, as far as they can be searched."""
        user = get_user_model()
        names = dict.fromkeys([user.USERNAME_FIELD, user.get_email_field_name()])
        return ["account_id", *filter(_is_searchable, (f"user__{name}" for name in names))]

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changelist = super().get_changelist_instance(request)
        database = databases[changelist.queryset.db]
        is_local = timezone.get_current_timezone_name() == database.timezone_name
        if settings.USE_TZ and not (is_local or database.features.has_zoneinfo_database):
            # MySQL and MariaDB know no other time zone until their tables of them are loaded.
            # Without the hierarchy the list works; with it, it would be a server error.
            changelist.date_hierarchy = None
        return changelist

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("django_leadexec.revoke_leadexecconnection")

    def has_refresh_permission(self, request: HttpRequest) -> bool:
        """The permission to change connections, because a refresh writes tokens and states."""
        return request.user.has_perm("django_leadexec.change_leadexecconnection")

    def has_delete_selected_permission(self, request: HttpRequest) -> bool:
        """The permission to delete, on a site that has not disabled deleting in bulk."""
        offered = {name for name, _function in self.admin_site.actions}
        return "delete_selected" in offered and self.has_delete_permission(request)

    @admin.action(permissions=["revoke"], description=gettext_lazy("Revoke at LeadExec"))
    def revoke_selected(
        self, request: HttpRequest, queryset: QuerySet[LeadExecConnection]
    ) -> HttpResponse | None:
        """Stop all use of the selected connections, and have LeadExec revoke them."""
        selected: ConnectionQuerySet = self.selected(request, queryset)
        if not is_confirmed(request):
            rows = selected.live().select_related("user")
            title, action = _("Revoke at LeadExec?"), "revoke_selected"
            return self.ask(request, selected, rows, title=title, action=action)
        with writing(LeadExecConnection, selected.db):
            total = selected.count()
            batch = selected.move_to_outbox()
            count = self.log(request, batch.connection_keys, CHANGE, REVOKED_AT_LEADEXEC)
            notes = [sentence(REVOKED_ALREADY, total - count), note_change(request, total)]
            self._send_on_commit(request, batch, notes)
        return None

    @admin.action(permissions=["refresh"], description=gettext_lazy("Refresh now"))
    def refresh_selected(
        self, request: HttpRequest, queryset: QuerySet[LeadExecConnection]
    ) -> None:
        """Refresh the selected connections, due or not."""
        selected: ConnectionQuerySet = self.selected(request, queryset)

        def refresh() -> None:
            try:
                report = refresh_chosen(selected, self.seconds)
            except Exception as error:  # noqa: BLE001 - the message says what happened
                self.message_user(request, failure_sentence(error), messages.ERROR)
            else:
                self.message_user(request, *refresh_sentences(report))

        transaction.on_commit(refresh, using=selected.db)

    @admin.action(
        permissions=["delete_selected"],
        description=gettext_lazy("Delete selected %(verbose_name_plural)s"),
    )
    def delete_selected(
        self, request: HttpRequest, queryset: QuerySet[LeadExecConnection]
    ) -> HttpResponse | None:
        """Delete the selected connections, and have LeadExec revoke them.

        Django's own action of this name would post every key, which fails from 1,000 rows on.
        """
        selected: ConnectionQuerySet = self.selected(request, queryset)
        _tree, model_count, perms_needed, protected = self.get_deleted_objects(selected, request)
        if perms_needed or protected:
            page: HttpResponse | None = admin_actions.delete_selected(self, request, selected)
            return page
        if not is_confirmed(request):
            return self.ask(
                request,
                selected,
                selected.select_related("user"),
                title=_("Delete connections?"),
                action="delete_selected",
                model_count=model_count,
            )
        with writing(LeadExecConnection, selected.db):
            keys = list(selected.order_by("pk").values_list("pk", flat=True))
            count = self.log(request, keys, DELETION)
            text = join([sentence(DELETED, count), note_change(request, count)])
            self.message_on_commit(request, text, selected.db)
            # By key: others may match by now, and what is deleted has to be what is logged.
            for part in chunks(keys, MOST_KEYS):
                self.delete_queryset(request, all_rows(self.model).filter(pk__in=part))
        return None

    def delete_model(self, request: HttpRequest, obj: LeadExecConnection) -> None:
        self.delete_queryset(request, LeadExecConnection.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[LeadExecConnection]) -> None:
        rows: ConnectionQuerySet = rows_on_primary(queryset)
        with writing(LeadExecConnection, rows.db):
            batch, _deleted = rows.revoke_and_delete()
            self._send_on_commit(request, batch)

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: int) -> HttpResponse:
        response = super().response_delete(request, obj_display, obj_id)
        if not (isinstance(response, HttpResponseRedirect) and self.has_view_permission(request)):
            return response
        # Django leads back to the index, because nobody has the permission to change rows here.
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"
        url = add_preserved_filters(
            {"opts": self.opts, "preserved_filters": self.get_preserved_filters(request)},
            reverse(name, current_app=self.admin_site.name),
        )
        return HttpResponseRedirect(url)

    def _send_on_commit(
        self, request: HttpRequest, batch: RevokedBatch, notes: Sequence[str] = ()
    ) -> None:
        """Once the transaction commits, send its revocations and say how many are confirmed."""
        count = batch.entries().count()

        def send() -> None:
            queued, problem = count, ""
            if count:
                try:
                    queued = send_batch(batch, self.seconds)
                except Exception as error:  # noqa: BLE001 - the message says what happened
                    problem = failure_sentence(error)
            sent, level = sent_sentences(count - queued, queued)
            if text := join([sent, *notes, problem]):
                self.message_user(request, text, level)

        transaction.on_commit(send, using=batch.using)


def _is_searchable(lookup: str) -> bool:
    """Whether the users' table has such a column, and can search in it.

    Encrypted columns often can't: they have no such lookup, or refuse it with an error.
    """
    rows = LeadExecConnection.objects.using(database_of())
    try:
        rows.filter(**{f"{lookup}__icontains": "x"}).query.sql_with_params()
    except Exception:  # noqa: BLE001 - each package of encrypted fields raises an error of its own
        return False
    return True
