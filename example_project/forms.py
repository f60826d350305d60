from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.http import QueryDict

from .leads import LeadType

DAYS = 30


class DayField(forms.DateField):
    """A day, by the browser's own widget."""

    input_formats = ["%Y-%m-%d"]

    def __init__(self, label: str) -> None:
        attributes = {"type": "date"}
        super().__init__(label=label, widget=forms.DateInput(attributes, format="%Y-%m-%d"))


class LeadsForm(forms.Form):
    """Which leads to show. What is not asked for has a default: the last 30 days."""

    lead_type = forms.ChoiceField(label="Lead type")
    first = DayField("From")
    last = DayField("To")

    def __init__(self, asked: QueryDict, lead_types: Sequence[LeadType]) -> None:
        # LeadExec is asked in universal time.
        today = datetime.now(UTC).date()
        defaults = {
            "lead_type": lead_types[0].uid,
            "first": (today - timedelta(days=DAYS)).isoformat(),
            "last": today.isoformat(),
        }
        super().__init__(
            {name: asked.get(name) or defaults[name] for name in defaults}, label_suffix=""
        )
        choices = [(it.uid, it.name) for it in lead_types]
        self.fields["lead_type"] = forms.ChoiceField(label="Lead type", choices=choices)

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if "first" in values and "last" in values and values["first"] > values["last"]:
            self.add_error("last", "This day is before the first one.")
        return values
