"""What both admins share: rows that can't be edited, and actions on the selected ones."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import django
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.core.exceptions import FieldDoesNotExist
from django.db import OperationalError, transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils import translation
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..conflicts import is_conflict
from ..exceptions import ConnectionBusy
from ..querysets import chunks
from ..responses import ERRORS
from ..routing import database_of
from .outcomes import REVOKED_ALREADY, sentence

Row = TypeVar("Row", bound=Model)

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

    _ModelAdmin = admin.ModelAdmin
else:

    class _ModelAdmin(admin.ModelAdmin):
        def __class_getitem__(cls, row: object) -> type:
            return cls


# How many rows the page that asks for confirmation lists.
SAMPLE = 10
# How many characters of an error the list shows.
ERROR_LENGTH = 60


class ReadOnlyAdmin(_ModelAdmin[Row]):
    """Rows that only the package writes. ``shown``: the only columns to be seen or filtered by."""

    shown: tuple[str, ...]
    ordering: ClassVar[tuple[str, ...]] = ("-pk",)
    show_full_result_count = False

    def get_fields(self, request: HttpRequest, obj: Row | None = None) -> tuple[str, ...]:
        return self.shown

    def get_readonly_fields(self, request: HttpRequest, obj: Row | None = None) -> tuple[str, ...]:
        # Even if a subclass gives the permission to change.
        return self.shown

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return False

    @admin.display(description=gettext_lazy("last error"), ordering="last_error")
    def error(self, row: Row) -> str:
        """The beginning of the error, on one line. The row's own page shows all of it."""
        text: str = getattr(row, "last_error", "")
        return text and format_html(
            '<span class="nowrap">{}</span>', Truncator(text).chars(ERROR_LENGTH)
        )

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        # Otherwise ?fingerprint__startswith= would give away a hidden column, letter by letter.
        try:
            field = self.opts.get_field(lookup.partition("__")[0])
        except FieldDoesNotExist:
            pass
        else:
            if field != self.opts.pk and field.name not in self.shown:
                return False
        return super().lookup_allowed(lookup, value, request)


class ActionAdmin(ReadOnlyAdmin[Row]):
    """Actions on selected rows: which are selected, the page that asks first, the admin's log."""

    # The longest that an action keeps its user waiting for LeadExec.
    seconds: float = 10.0
    confirmation_template: str

    # Of its parameters Django has added one in 6.1.
    def response_action(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Django's own. It says so if others keep a row locked, and then nothing is done."""
        act = partial(super().response_action, request, *args, **kwargs)
        return self._unless_locked(request, act)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Django's own. It says so if others keep the row locked, and then nothing is done."""
        act = partial(super().delete_view, request, *args, **kwargs)
        return self._unless_locked(request, act) or HttpResponseRedirect(request.get_full_path())

    def _unless_locked(
        self, request: HttpRequest, act: Callable[[], HttpResponse | None]
    ) -> HttpResponse | None:
        try:
            return act()
        except OperationalError as error:
            if not is_conflict(error, database_of()):
                raise
        self.message_user(request, str(ERRORS[ConnectionBusy].message), messages.ERROR)
        return None

    def selected(self, request: HttpRequest, queryset: QuerySet[Row]) -> Any:
        """The selected rows, on the primary database, in a query set that can lock and delete."""
        if not is_across(request):
            # Only by key: a ticked row that no longer matches the list's filter is still meant.
            keys = request.POST.getlist(ACTION_CHECKBOX_NAME)
            queryset = self.get_queryset(request).filter(pk__in=keys)
        return rows_on_primary(queryset)

    def ask(
        self,
        request: HttpRequest,
        selected: QuerySet[Any],
        rows: QuerySet[Any],
        *,
        title: str,
        action: str,
        model_count: Any = None,
    ) -> HttpResponse | None:
        """The page that names the selection and carries it: few keys, or the list's address.

        ``rows``: those of the selection that the action will change. If there are none, a message
        says so instead.
        """
        total, count = selected.count(), rows.count()
        if not count:
            text = sentence(REVOKED_ALREADY, total) or _("Nothing to do.")
            self.message_user(request, text, messages.WARNING)
            return None
        sample = list(rows.order_by("-pk")[:SAMPLE])
        across = is_across(request)
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
            # The admin demands a key even if the list's address selects the rows. It ignores it.
            "keys": [0] if across else request.POST.getlist(ACTION_CHECKBOX_NAME),
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "changelist_url": request.get_full_path(),
        }
        return TemplateResponse(request, self.confirmation_template, context)

    def log(
        self, request: HttpRequest, keys: Sequence[int], flag: int, message: "StrOrPromise" = ""
    ) -> int:
        """Write an entry to the admin's log for each row; returns how many there are.

        In the site's language: others read it than whoever has done it.
        """
        for part in chunks(keys):
            rows = all_rows(self.model).filter(pk__in=part).order_by("pk")
            with translation.override(settings.LANGUAGE_CODE):
                LogEntry.objects.log_actions(
                    cast(int, request.user.pk), list(rows), flag, str(message)
                )
        return len(keys)

    def message_on_commit(self, request: HttpRequest, text: str, using: str) -> None:
        """Show this message of success, if the transaction commits."""
        transaction.on_commit(
            lambda: self.message_user(request, text, messages.SUCCESS), using=using
        )


class TroubleFilter(admin.SimpleListFilter):
    title: Any = gettext_lazy("last error")
    parameter_name: str = "trouble"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("With an error")), ("no", _("Without an error"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "yes":
            return queryset.exclude(last_error="")
        return queryset.filter(last_error="") if self.value() == "no" else queryset


def all_rows(model: type[Model]) -> Any:
    """All rows of the primary database, whatever a proxy model or another manager leaves out."""
    concrete: Any = model._meta.concrete_model
    return concrete.objects.using(database_of())


def rows_on_primary(queryset: QuerySet[Any]) -> Any:
    """The same rows, in a plain query set of the primary database."""
    keys = queryset.using(database_of()).order_by().values("pk")
    return all_rows(queryset.model).filter(pk__in=keys)


def is_across(request: HttpRequest) -> bool:
    """Whether all that matches the list's search and filters is selected, on all pages."""
    return request.POST.get("select_across", "").lower() not in ("", "0", "false")


def is_confirmed(request: HttpRequest) -> bool:
    return request.POST.get("post") == "yes"


def note_change(request: HttpRequest, total: int) -> str:
    """A sentence that says so if the selection is no longer as large as the page had said."""
    shown = request.POST.get("shown", "")
    if not (shown.isdecimal() and len(shown) < 20) or shown == str(total):
        return ""
    return _("The selection has changed since it was confirmed: %(then)s then, %(now)s now.") % {
        "then": shown,
        "now": total,
    }
