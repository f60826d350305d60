"""Connections and the outbox in the admin: looked at, revoked, refreshed, deleted, never edited.

Whatever calls the provider waits for the commit, a request's own (ATOMIC_REQUESTS) included, and
takes ten seconds at most. What is left then is left to refresh_leadexec_tokens.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

import django
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin import actions as admin_actions
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import connections as databases
from django.db import transaction
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext_lazy

from .conf import get_settings
from .connections import database_of
from .models import ConnectionQuerySet, LeadExecConnection, PendingRevocation, writing
from .refresh import Options, Refresher, Report

Row = TypeVar("Row", bound=Model)

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin
else:

    class _ModelAdmin(admin.ModelAdmin):
        def __class_getitem__(cls, row: object) -> type:
            return cls


logger = logging.getLogger(__name__)

CHUNK = 500
SAMPLE = 10
ERROR_LENGTH = 60

# How many of each there are; said only of those there are.
CONFIRMED = ngettext_lazy(
    "LeadExec has confirmed %(count)s revocation.",
    "LeadExec has confirmed %(count)s revocations.",
    "count",
)
QUEUED = ngettext_lazy(
    "%(count)s revocation holds on this site and is queued: refresh_leadexec_tokens goes on "
    "telling LeadExec.",
    "%(count)s revocations hold on this site and are queued: refresh_leadexec_tokens goes on "
    "telling LeadExec.",
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
REFRESHED = ngettext_lazy(
    "%(count)s connection is refreshed.", "%(count)s connections are refreshed.", "count"
)
REFUSED = ngettext_lazy(
    "LeadExec refused %(count)s connection.", "LeadExec refused %(count)s connections.", "count"
)
FAILED = ngettext_lazy(
    "%(count)s connection could not be refreshed; its last error tells why.",
    "%(count)s connections could not be refreshed; their last errors tell why.",
    "count",
)
REVOKED = ngettext_lazy(
    "%(count)s connection is revoked, which nothing refreshes.",
    "%(count)s connections are revoked, which nothing refreshes.",
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


class _ReadOnlyAdmin(_ModelAdmin[Row]):
    """Rows that machines make. ``shown`` is all that is ever seen of them, or asked about."""

    shown: tuple[str, ...]
    ordering = ("-pk",)
    show_full_result_count = False

    def get_fields(self, request: HttpRequest, obj: Row | None = None) -> tuple[str, ...]:
        return self.shown

    def get_readonly_fields(self, request: HttpRequest, obj: Row | None = None) -> tuple[str, ...]:
        # Even where a subclass allows changes.
        return self.shown

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return False

    @admin.display(description=gettext_lazy("last error"), ordering="last_error")
    def error(self, row: Row) -> str:
        """Its beginning, on one line; the row's own page has all of it."""
        text: str = getattr(row, "last_error", "")
        return text and format_html(
            '<span class="nowrap">{}</span>', Truncator(text).chars(ERROR_LENGTH)
        )

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        # Or ?fingerprint__startswith= would tell a hidden column, one letter at a time.
        try:
            field = self.opts.get_field(lookup.partition("__")[0])
        except FieldDoesNotExist:
            pass
        else:
            if field != self.opts.pk and field.name not in self.shown:
                return False
        return super().lookup_allowed(lookup, value, request)


class TroubleFilter(admin.SimpleListFilter):
    title = gettext_lazy("last error")
    parameter_name = "trouble"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("With an error")), ("no", _("Without an error"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "yes":
            return queryset.exclude(last_error="")
        return queryset.filter(last_error="") if self.value() == "no" else queryset


class GivenUpFilter(admin.SimpleListFilter):
    title = gettext_lazy("state")
    parameter_name = "given_up"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("no", _("Still tried")), ("yes", _("Given up"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in ("yes", "no"):
            return queryset
        return queryset.filter(retry_after__isnull=self.value() == "yes")


@admin.register(LeadExecConnection)
class LeadExecConnectionAdmin(_ReadOnlyAdmin[LeadExecConnection]):
    list_display = ("user", "account_id", "status", "expires_at", "refresh_after", "error")
    list_filter = ("status", TroubleFilter, "refreshed_at")
    list_select_related = ("user",)
    date_hierarchy = "created_at"
    shown = (
        *("user", "account_id", "app_id", "status"),
        *("created_at", "refreshed_at", "expires_at", "refresh_after"),
        *("rejected_at", "revoked_at", "attempts", "last_error"),
    )
    actions = ("revoke_selected", "refresh_selected", "delete_selected")
    # How long an action may keep its user waiting for LeadExec.
    seconds = 10.0
    confirmation_template = "admin/django_leadexec/leadexecconnection/confirmation.html"

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        """The account, and the user's name and e-mail address, whatever the user model."""
        user = get_user_model()
        names = dict.fromkeys([user.USERNAME_FIELD, user.get_email_field_name()])
        return ["account_id", *(f"user__{name}" for name in names if _is_column(user, name))]

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changelist = super().get_changelist_instance(request)
        database = databases[changelist.queryset.db]
        is_local = timezone.get_current_timezone_name() == database.timezone_name
        if settings.USE_TZ and not (is_local or database.features.has_zoneinfo_database):
            # MySQL and MariaDB know no other time zone until their tables of them are loaded:
            # a list without the hierarchy, instead of a server error.
            changelist.date_hierarchy = None
        return changelist

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("django_leadexec.revoke_leadexecconnection")

    def has_refresh_permission(self, request: HttpRequest) -> bool:
        """A refresh writes tokens and states: it takes the permission to change connections."""
        return request.user.has_perm("django_leadexec.change_leadexecconnection")

    def has_delete_selected_permission(self, request: HttpRequest) -> bool:
        """The permission to delete, on a site that has not disabled deleting in bulk."""
        offered = {name for name, _function in self.admin_site.actions}
        return "delete_selected" in offered and self.has_delete_permission(request)

    @admin.action(permissions=["revoke"], description=gettext_lazy("Revoke at LeadExec"))
    def revoke_selected(
        self, request: HttpRequest, queryset: QuerySet[LeadExecConnection]
    ) -> HttpResponse | None:
        """Stop all use of the selected connections, and tell LeadExec."""
        chosen = self._chosen(request, queryset)
        if not _is_confirmed(request):
            return self._ask(
                request,
                chosen,
                title=_("Revoke at LeadExec?"),
                action="revoke_selected",
                rows=chosen.live(),
            )
        with writing(chosen.db):
            total = chosen.count()
            requested_at = chosen.move_to_outbox()
            rows = LeadExecConnection.objects.using(chosen.db).filter(revoked_at=requested_at)
            count = self._log(request, rows, CHANGE, _("Revoked at LeadExec."))
            notes = [_say(REVOKED_ALREADY, total - count), _note_change(request, total)]
            self._tell_on_commit(request, chosen.db, requested_at, notes)
        return None

    @admin.action(permissions=["refresh"], description=gettext_lazy("Refresh now"))
    def refresh_selected(
        self, request: HttpRequest, queryset: QuerySet[LeadExecConnection]
    ) -> None:
        """Refresh the selected connections, due or not."""
        chosen = self._chosen(request, queryset)
        transaction.on_commit(lambda: self._refresh(request, chosen), using=chosen.db)

    @admin.action(
        permissions=["delete_selected"],
        description=gettext_lazy("Delete selected %(verbose_name_plural)s"),
    )
    def delete_selected(
        self, request: HttpRequest, queryset: QuerySet[LeadExecConnection]
    ) -> HttpResponse | None:
        """Delete the selected connections, and tell LeadExec.

        Django's own action of this name would post every key, and be refused from 1,000 on.
        """
        chosen = self._chosen(request, queryset)
        _tree, model_count, perms_needed, protected = self.get_deleted_objects(chosen, request)
        if perms_needed or protected:
            page: HttpResponse | None = admin_actions.delete_selected(self, request, chosen)
            return page
        if not _is_confirmed(request):
            return self._ask(
                request,
                chosen,
                title=_("Delete connections?"),
                action="delete_selected",
                rows=chosen,
                model_count=model_count,
            )
        with writing(chosen.db):
            count = self._log(request, chosen, DELETION)
            text = _join([_say(DELETED, count), _note_change(request, count)])
            transaction.on_commit(
                lambda: self.message_user(request, text, messages.SUCCESS), using=chosen.db
            )
            self.delete_queryset(request, chosen)
        return None

    def delete_model(self, request: HttpRequest, obj: LeadExecConnection) -> None:
        self.delete_queryset(request, LeadExecConnection.objects.filter(pk=obj.pk))

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: int) -> HttpResponse:
        response = super().response_delete(request, obj_display, obj_id)
        if not (isinstance(response, HttpResponseRedirect) and self.has_view_permission(request)):
            return response
        # Django leads to the index whoever has no permission to change, which here nobody has.
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"
        url = add_preserved_filters(
            {"opts": self.opts, "preserved_filters": self.get_preserved_filters(request)},
            reverse(name, current_app=self.admin_site.name),
        )
        return HttpResponseRedirect(url)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[LeadExecConnection]) -> None:
        chosen = _rows(queryset)
        with writing(chosen.db):
            # The keys first: a row that is revoked may no longer be what was asked for.
            keys = list(chosen.order_by("pk").values_list("pk", flat=True))
            requested_at = chosen.move_to_outbox()
            rows = LeadExecConnection.objects.using(chosen.db)
            for start in range(0, len(keys), CHUNK):
                rows.filter(pk__in=keys[start : start + CHUNK]).delete()
            self._tell_on_commit(request, chosen.db, requested_at)

    def _chosen(
        self, request: HttpRequest, queryset: QuerySet[LeadExecConnection]
    ) -> ConnectionQuerySet:
        if not _is_across(request):
            # By key alone: a row that has left the page's filter since is still the one ticked.
            keys = request.POST.getlist(ACTION_CHECKBOX_NAME)
            queryset = self.get_queryset(request).filter(pk__in=keys)
        return _rows(queryset)

    def _ask(
        self,
        request: HttpRequest,
        chosen: ConnectionQuerySet,
        *,
        title: str,
        action: str,
        rows: ConnectionQuerySet,
        model_count: Any = None,
    ) -> HttpResponse | None:
        """The page that names the selection and carries it: few keys, or the list's address.

        ``rows``: those of the selection that the action will change.
        """
        total, count = chosen.count(), rows.count()
        if not count:
            text = _say(REVOKED_ALREADY, total) or _("Nothing to do.")
            self.message_user(request, text, messages.WARNING)
            return None
        sample = list(rows.select_related("user").order_by("-pk")[:SAMPLE])
        across = _is_across(request)
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "lists_crumbs": django.VERSION >= (6, 1),
            "action": action,
            "total": total,
            "already": total - count,
            "count": count,
            "sample": sample,
            "unlisted": count - len(sample),
            "model_count": dict(model_count or {}).items(),
            "across": across,
            # The admin wants a key even where it goes by the list's address, and ignores it.
            "keys": [0] if across else request.POST.getlist(ACTION_CHECKBOX_NAME),
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "changelist_url": request.get_full_path(),
        }
        return TemplateResponse(request, self.confirmation_template, context)

    def _log(
        self, request: HttpRequest, rows: ConnectionQuerySet, flag: int, message: str = ""
    ) -> int:
        """An entry in the admin's log for each row; returns how many there were."""
        count = last = 0
        rows = rows.only("status").order_by("pk")
        while chunk := list(rows.filter(pk__gt=last)[:CHUNK]):
            last, count = chunk[-1].pk, count + len(chunk)
            LogEntry.objects.log_actions(cast(int, request.user.pk), chunk, flag, message)
        return count

    def _tell_on_commit(
        self,
        request: HttpRequest,
        using: str,
        requested_at: datetime,
        notes: Sequence[str] = (),
    ) -> None:
        """Tell LeadExec of one transaction's revocations, and the user what came of it."""
        entries = PendingRevocation.objects.using(using).filter(requested_at=requested_at)
        count = entries.count()

        def tell() -> None:
            queued, problem = count, ""
            if count:
                result = _run(Options(using=using, chosen=None, revocations=entries), self.seconds)
                if isinstance(result, str):
                    problem = result
                else:
                    # Whoever told LeadExec of it, what has left the outbox is confirmed.
                    queued = entries.count()
            text = _join([_say(CONFIRMED, count - queued), _say(QUEUED, queued), *notes, problem])
            if text:
                level = messages.WARNING if queued else messages.SUCCESS
                self.message_user(request, text, level)

        transaction.on_commit(tell, using=using)

    def _refresh(self, request: HttpRequest, chosen: ConnectionQuerySet) -> None:
        options = Options(using=chosen.db, chosen=chosen, revocations=None, everything=True)
        status = LeadExecConnection.Status
        before = dict(chosen.values_list("status").annotate(Count("pk")))
        result = _run(options, self.seconds)
        if isinstance(result, str):
            self.message_user(request, result, messages.ERROR)
            return
        foreign = chosen.live().exclude(app_id=get_settings().app_id).count()
        asked = result.refreshed + result.rejected + result.failed
        revoked = before.pop(status.REVOKED, 0)
        left = max(sum(before.values()) - foreign - asked, 0)
        parts = [
            _say(REFRESHED, result.refreshed),
            _say(REFUSED, result.rejected),
            _say(FAILED, result.failed),
            _say(REVOKED, revoked),
            _say(FOREIGN, foreign),
            _say(LEFT, left),
        ]
        if result.everybody_refused:
            parts.append(
                _(
                    "LeadExec refused all it was asked about, which is not believed yet: is "
                    "LEADEXEC['APP_ID'] right?"
                )
            )
        smooth = not (result.rejected or result.failed or foreign or left)
        level = messages.SUCCESS if smooth else messages.WARNING
        self.message_user(request, _join(parts) or _("Nothing to do."), level)


@admin.register(PendingRevocation)
class PendingRevocationAdmin(_ReadOnlyAdmin[PendingRevocation]):
    list_display = ("app_id", "requested_at", "next_try", "attempts", "error")
    list_filter = (GivenUpFilter,)
    shown = ("app_id", "requested_at", "retry_after", "attempts", "last_error")
    actions = None

    def has_delete_permission(
        self, request: HttpRequest, obj: PendingRevocation | None = None
    ) -> bool:
        # An entry that is deleted leaves a token that works for ever.
        return False

    @admin.display(description=gettext_lazy("next try"), ordering="retry_after")
    def next_try(self, entry: PendingRevocation) -> datetime | str:
        return entry.retry_after or _("given up")


def _run(options: Options, seconds: float) -> Report | str:
    """What a run did, or what stopped it, fit for the page.

    Nothing escapes: what came before is committed, and a server error would hide it.
    """
    try:
        return Refresher(replace(options, seconds=seconds, hurried=True)).run()
    except ImproperlyConfigured as error:
        return _("LeadExec was not asked. %(problem)s") % {"problem": error}
    except Exception as error:  # noqa: BLE001 - see above
        # The type alone: a traceback with locals could show a token.
        logger.error("Calling LeadExec from the admin failed: %s.", type(error).__name__)
        return _("LeadExec could not be asked: %(problem)s.") % {"problem": type(error).__name__}


def _rows(queryset: QuerySet[LeadExecConnection]) -> ConnectionQuerySet:
    """The same rows, in a query set that can be locked and deleted from, on the primary."""
    using = database_of()
    keys = queryset.using(using).order_by().values("pk")
    return LeadExecConnection.objects.using(using).filter(pk__in=keys)


def _is_column(user: type[Model], name: str) -> bool:
    try:
        return not user._meta.get_field(name).is_relation
    except FieldDoesNotExist:
        return False


def _is_across(request: HttpRequest) -> bool:
    return request.POST.get("select_across", "").lower() not in ("", "0", "false")


def _is_confirmed(request: HttpRequest) -> bool:
    return request.POST.get("post") == "yes"


def _note_change(request: HttpRequest, total: int) -> str:
    """Says so if what was confirmed is no longer as many as the page had counted."""
    shown = request.POST.get("shown", "")
    if not (shown.isdecimal() and len(shown) < 20) or shown == str(total):
        return ""
    return _("The selection has changed since it was confirmed: %(then)s then, %(now)s now.") % {
        "then": shown,
        "now": total,
    }


def _say(text: Any, count: int) -> str:
    return str(text % {"count": count}) if count > 0 else ""


def _join(parts: Sequence[str]) -> str:
    return " ".join(part for part in parts if part)
