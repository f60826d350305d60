"""The body of a lead query: read with errors that name the field, and carried out."""

import json
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from .leads import Lead

LONGEST = timedelta(days=366)
MOST_TAKEN = 1_000
TAKEN_BY_DEFAULT = 50
DATE_WANTED = "a time in ISO 8601 and universal time, such as '2026-01-31T00:00:00Z'"

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gte": operator.ge,
    "$gt": operator.gt,
    "$lte": operator.le,
    "$lt": operator.lt,
}
OPERATORS = (*COMPARISONS, "$in")

# The name of a field, an operator, and what it compares with.
Condition = tuple[str, str, Any]


class BadQueryError(Exception):
    """The body can't be used. ``field`` is the path of what is wrong in it; "" is all of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, kw_only=True)
class LeadQuery:
    """A query that has been read. ``fields`` is empty for all of them."""

    start: datetime
    end: datetime
    conditions: tuple[Condition, ...] = ()
    fields: tuple[str, ...] = ()
    sort_fields: tuple[str, ...] = ()
    is_descending: bool = False
    skip: int = 0
    take: int = TAKEN_BY_DEFAULT

    def select(self, leads: Iterable[Lead]) -> list[Lead]:
        """The leads to answer with: those that match, sorted, and of these one page."""
        found = [lead for lead in leads if self._matches(_flat(lead))]
        names = self.sort_fields or ("DateAdded", "UID")
        found.sort(
            key=lambda lead: [_sort_key(_flat(lead).get(name)) for name in names],
            reverse=self.is_descending,
        )
        return [self._cut(lead) for lead in found[self.skip : self.skip + self.take]]

    def _matches(self, values: Mapping[str, Any]) -> bool:
        return all(
            name in values and _holds(values[name], operator_name, operand)
            for name, operator_name, operand in self.conditions
        )

    def _cut(self, lead: Lead) -> Lead:
        if not self.fields:
            return lead
        kept = {name: value for name, value in lead["Fields"].items() if name in self.fields}
        return lead | {"Fields": kept}


def read_query(body: bytes) -> LeadQuery:
    """Raises BadQueryError."""
    try:
        given = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadQueryError("", "The body is not JSON.") from None
    if not isinstance(given, dict):
        raise BadQueryError("", "The body is not a JSON object.")
    for name in given:
        if name not in READERS:
            known = ", ".join(READERS)
            raise BadQueryError(name, f"{name!r} is not known. Known are {known}.")
    read = {name: reader(name, given.get(name)) for name, reader in READERS.items()}
    start, end = read["StartDate"], read["EndDate"]
    if end < start:
        raise BadQueryError("EndDate", "EndDate lies before StartDate.")
    if end - start > LONGEST:
        raise BadQueryError(
            "EndDate", f"The sandbox looks at {LONGEST.days} days at most. EndDate is too late."
        )
    return LeadQuery(
        start=start,
        end=end,
        conditions=read["Query"],
        fields=read["Fields"],
        sort_fields=read["SortFields"],
        is_descending=bool(read["SortOrder"]),
        skip=read["Skip"],
        take=read["Take"],
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # Python alone would read NaN and Infinity


def _read_date(name: str, value: object) -> datetime:
    if value is None:
        raise BadQueryError(name, f"{name} is missing. It is {DATE_WANTED}.")
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
            return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise BadQueryError(name, f"{name} has to be {DATE_WANTED}.")


def _read_names(name: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadQueryError(name, f"{name} has to be a list of names of fields.")
    # LeadExec's own example has a list with one empty name.
    return tuple(item for item in value if item)


def _whole(least: int, most: int, default: int) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise BadQueryError(name, f"{name} has to be a whole number from {least} to {most}.")

    return read


def _read_conditions(name: str, value: object) -> tuple[Condition, ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise BadQueryError(
            name, f"{name} has to be an object: {{'LoanAmount': {{'$gte': 150000}}}}."
        )
    conditions: list[Condition] = []
    for field, wanted in value.items():
        path = f"{name}.{field}"
        if field.startswith("$"):
            raise BadQueryError(
                path, f"The sandbox knows no {field!r} there, only names of fields."
            )
        if not isinstance(wanted, dict):
            conditions.append((field, "$in", [_read_scalar(path, wanted)]))
            continue
        if not wanted:
            raise BadQueryError(path, f"{path} is an empty object.")
        conditions += [
            (field, operator_name, _read_operand(f"{path}.{operator_name}", operator_name, operand))
            for operator_name, operand in wanted.items()
        ]
    return tuple(conditions)


def _read_operand(path: str, operator_name: str, operand: object) -> Any:
    if operator_name not in OPERATORS:
        known = ", ".join(OPERATORS)
        raise BadQueryError(path, f"The sandbox knows no {operator_name!r}, only {known}.")
    if operator_name == "$in":
        if not isinstance(operand, list):
            raise BadQueryError(path, f"{path} has to be a list.")
        return [_read_scalar(path, item) for item in operand]
    if isinstance(operand, bool) or not isinstance(operand, str | int | float):
        raise BadQueryError(path, f"{path} has to be a number or a text.")
    return operand


def _read_scalar(path: str, value: object) -> Any:
    if isinstance(value, dict | list):
        raise BadQueryError(
            path, f"{path} can be compared with texts, numbers, true, false and null."
        )
    return value


READERS: Mapping[str, Callable[[str, object], Any]] = {
    "StartDate": _read_date,
    "EndDate": _read_date,
    "Query": _read_conditions,
    "Fields": _read_names,
    "SortFields": _read_names,
    # LeadExec's own example has a 0. That 1 turns it round is a guess.
    "SortOrder": _whole(0, 1, 0),
    "Skip": _whole(0, 1_000_000, 0),
    "Take": _whole(0, MOST_TAKEN, TAKEN_BY_DEFAULT),
}


def _flat(lead: Lead) -> dict[str, Any]:
    return {"UID": lead["UID"], **lead["Properties"], **lead["Fields"]}


def _holds(value: Any, operator_name: str, operand: Any) -> bool:
    if operator_name == "$in":
        return any(_kind(value) == _kind(item) and value == item for item in operand)
    return _kind(value) == _kind(operand) and COMPARISONS[operator_name](value, operand)


def _kind(value: object) -> str:
    """Values of two kinds are never equal, nor one of them more: 1 is not true."""
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__


def _sort_key(value: Any) -> tuple[str, Any]:
    # Leads without the field come first.
    return ("", 0) if value is None else (_kind(value), value)
