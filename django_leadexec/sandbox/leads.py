"""Made-up lead types and leads. An account has the same ones each time, whenever it asks.

LeadExec tells the shape of its leads only in part (docs/protocol.md). These are a likeness.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

Lead = dict[str, Any]

# LeadExec writes the dates in leads by the account's clock. Here it is the same one all year.
ACCOUNT_CLOCK = timezone(timedelta(hours=-8))
# How many leads of one type a day has: at least, and at most.
LEADS_A_DAY = (2, 9)
# There are no leads from before.
FIRST_DAY = date(2000, 1, 1)

KINDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "Mortgage": {
        "LoanAmount": range(80_000, 900_000, 5_000),
        "CreditRating": ["Excellent", "Good", "Fair"],
        "PropertyType": ["Single family", "Condominium", "Town house"],
    },
    "Solar": {
        "MonthlyBill": range(60, 480, 5),
        "RoofShade": ["None", "Partial", "Full"],
        "OwnsHome": [True, True, False],
    },
    "Auto Insurance": {
        "VehicleYear": range(2004, 2026),
        "CurrentlyInsured": [True, False],
        "Drivers": range(1, 5),
    },
    "Roofing": {
        "RoofAge": range(2, 40),
        "Project": ["Repair", "Replacement", "Inspection"],
        "Stories": range(1, 4),
    },
}
PLACES = [
    *(("Austin", "TX"), ("Boise", "ID"), ("Dayton", "OH"), ("Fresno", "CA"), ("Mobile", "AL")),
    *(("Tampa", "FL"), ("Tucson", "AZ"), ("Yonkers", "NY")),
]
FIRST_NAMES = ["Amara", "Ben", "Chloe", "Diego", "Elif", "Farid", "Grace", "Hugo", "Iris", "Jonas"]
LAST_NAMES = ["Abbott", "Brandt", "Castillo", "Doyle", "Eriksen", "Fontaine", "Garza", "Hale"]
SOURCES = ["Search", "Partner network", "Referral", "Web form"]
CAMPAIGNS = ["Spring", "Homeowners", "Returning visitors"]
STATUSES = ["New", "Contacted", "Quoted", "Sold"]
CONSENT = "I agree to be called about my request."


@dataclass(frozen=True)
class LeadType:
    """One sort of leads that an account buys or sells."""

    uid: int
    name: str
    # Named too, because two accounts may share a UID.
    account: str


def lead_types(account: str) -> list[LeadType]:
    """The account's two lead types; the first is what its name speaks of, if it does."""
    dice = _dice(account)
    words = set(account.split("-"))
    kinds = sorted(
        dice.sample(list(KINDS), len(KINDS)), key=lambda kind: not words & set(kind.lower().split())
    )
    first = dice.randrange(100, 900)
    return [LeadType(first + number, kind, account) for number, kind in enumerate(kinds[:2])]


def find_lead_type(account: str, uid: str) -> LeadType | None:
    """The account's lead type with that UID, as it stands in a URL."""
    return next((it for it in lead_types(account) if str(it.uid) == uid), None)


def leads_between(lead_type: LeadType, start: datetime, end: datetime) -> Iterator[Lead]:
    """Leads added from ``start`` to ``end``, both aware and included, oldest first."""
    day = max(start.astimezone(UTC).date(), FIRST_DAY)
    while day <= end.astimezone(UTC).date():
        for added, lead in _leads_of(lead_type, day):
            if start <= added <= end:
                yield lead
        day += timedelta(days=1)


def _leads_of(lead_type: LeadType, day: date) -> list[tuple[datetime, Lead]]:
    dice = _dice(lead_type.account, lead_type.uid, day.toordinal())
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    seconds = sorted(dice.sample(range(24 * 3_600), dice.randint(*LEADS_A_DAY)))
    times = [midnight + timedelta(seconds=second) for second in seconds]
    return [
        (when, _make_lead(dice, lead_type, when, day.toordinal() * 100 + number))
        for number, when in enumerate(times)
    ]


def _make_lead(dice: random.Random, lead_type: LeadType, added: datetime, uid: int) -> Lead:
    first, last = dice.choice(FIRST_NAMES), dice.choice(LAST_NAMES)
    city, state = dice.choice(PLACES)
    fields: dict[str, Any] = {
        "FirstName": first,
        "LastName": last,
        "Email": f"{first}.{last}@example.com".lower(),
        "City": city,
        "State": state,
    }
    for name, values in KINDS[lead_type.name].items():
        # Not each lead has all the fields of its type.
        if dice.random() < 0.9:
            fields[name] = dice.choice(values)
    lead: Lead = {
        "UID": uid,
        "Properties": {
            "LeadSource": dice.choice(SOURCES),
            "Campaign": dice.choice(CAMPAIGNS),
            "Status": dice.choice(STATUSES),
            "Price": dice.randrange(1_200, 9_500, 50) / 100,
            "DateAdded": _write(added),
            "DateProcessed": _write(added + timedelta(seconds=dice.randint(1, 90))),
        },
        "Fields": fields,
    }
    if dice.random() < 0.4:
        lead["TCPAInformation"] = {
            "Consent": CONSENT,
            "ConsentDate": _write(added - timedelta(seconds=dice.randint(5, 300))),
        }
    return lead


def _write(when: datetime) -> str:
    return f"{when.astimezone(ACCOUNT_CLOCK):%Y-%m-%dT%H:%M:%S}"


def _dice(*seed: object) -> random.Random:
    return random.Random(repr(seed))  # noqa: S311  # nosec B311 # it must repeat itself
