"""What the home page asks LeadExec's two APIs for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import requests

from django_leadexec.exceptions import AuthorizationRejected, LeadExecError, ProviderUnavailable
from django_leadexec.session import LeadExecSession

PAGE_SIZE = 10
# The properties that the page shows. Which properties and fields a lead has depends on its type.
SHOWN_PROPERTIES = ("DateAdded", "LeadSource", "Status")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*")


class LeadsUnavailable(Exception):
    """There are no leads to show; the message is for the visitor."""


@dataclass(frozen=True)
class LeadType:
    uid: str
    name: str


@dataclass(frozen=True)
class Lead:
    """One lead as the page shows it, with labels and texts; each has the same properties."""

    uid: str
    properties: Sequence[tuple[str, str]]
    fields: Sequence[tuple[str, str]]
    has_consent: bool


@dataclass(frozen=True)
class Page:
    leads: Sequence[Lead]
    number: int
    has_next: bool


def fetch_lead_types(session: LeadExecSession) -> list[LeadType]:
    """Raises LeadsUnavailable, and AuthorizationRejected if the user has to connect again.

    The keys are the sandbox's. LeadExec does not document what it calls them.
    """
    found = _call(session, "GET", f"{session.account_api}/v1/leadtypes")
    if not isinstance(found, list):
        raise LeadsUnavailable("LeadExec's answer is not a list of lead types.")
    return [
        LeadType(str(it["LeadTypeUID"]), str(it.get("Name") or it["LeadTypeUID"]))
        for it in found
        if isinstance(it, dict) and "LeadTypeUID" in it
    ]


def fetch_page(
    session: LeadExecSession, lead_type: LeadType, first: date, last: date, number: int
) -> Page:
    """One page of the leads that were added from ``first`` to ``last``, the newest on page 1.

    How LeadExec counts all leads of a query is not known, so it is asked for one more than the page
    shows. Raises what ``fetch_lead_types`` raises.
    """
    query = {
        "StartDate": f"{first.isoformat()}T00:00:00Z",
        "EndDate": f"{last.isoformat()}T23:59:59.999Z",
        "SortFields": ["DateAdded"],
        "SortOrder": 1,
        "Skip": (number - 1) * PAGE_SIZE,
        "Take": PAGE_SIZE + 1,
    }
    found = _call(session, "POST", f"{session.data_api}/v1/leads/query/{lead_type.uid}", query)
    leads = found.get("Leads") if isinstance(found, dict) else None
    if not isinstance(leads, list) or not all(isinstance(lead, dict) for lead in leads):
        raise LeadsUnavailable("LeadExec's answer holds no leads.")
    return Page(
        leads=[_read(lead) for lead in leads[:PAGE_SIZE]],
        number=number,
        has_next=len(leads) > PAGE_SIZE,
    )


def _read(lead: dict[str, Any]) -> Lead:
    properties, fields = _section(lead, "Properties"), _section(lead, "Fields")
    return Lead(
        uid=_show(lead.get("UID")),
        properties=[(_label(name), _show(properties.get(name))) for name in SHOWN_PROPERTIES],
        fields=[(_label(name), _show(value)) for name, value in fields.items()],
        has_consent="TCPAInformation" in lead,
    )


def _section(lead: dict[str, Any], name: str) -> dict[str, Any]:
    section = lead.get(name)
    return section if isinstance(section, dict) else {}


def _label(name: str) -> str:
    """``DateAdded`` as "Date added"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()


def _show(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return _TIME.sub(r"\1 \2", str(value))


def _call(session: LeadExecSession, method: str, url: str, body: object = None) -> Any:
    """The JSON of an answer."""
    try:
        response = session.request(method, url, json=body)
    except AuthorizationRejected:
        raise
    except ProviderUnavailable as error:
        wait = f" in {error.retry_after:.0f} seconds" if error.retry_after else " in a moment"
        raise LeadsUnavailable(
            f"LeadExec can't be reached. Your connection is kept; try again{wait}."
        ) from error
    except LeadExecError as error:
        raise LeadsUnavailable("Your connection can't be used right now.") from error
    except requests.RequestException as error:
        raise LeadsUnavailable(
            "LeadExec's API can't be reached. Your connection is kept; try again in a moment."
        ) from error
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        answer = None
    if response.ok and answer is not None:
        return answer
    if 400 <= response.status_code < 500:
        told = answer.get("message") if isinstance(answer, dict) else None
        reason = f" It says: {str(told)[:300]}" if told else ""
        raise LeadsUnavailable(f"LeadExec's API refuses this ({response.status_code}).{reason}")
    raise LeadsUnavailable(
        f"LeadExec's API does not answer as it should ({response.status_code}). Your connection is "
        "kept; try again in a moment."
    )
