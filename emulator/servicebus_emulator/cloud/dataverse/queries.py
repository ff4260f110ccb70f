"""The query options of a table: `$select`, `$filter`, `$orderby`, `$top`, `$count`, and pages of rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from servicebus_emulator.cloud.dataverse.filters import Predicate, comparable, parse_filter, unknown_property
from servicebus_emulator.cloud.dataverse.table_definitions import ColumnDefinition
from servicebus_emulator.cloud.dataverse.tables import Row, Table
from servicebus_emulator.cloud.dataverse.web_api_errors import BAD_REQUEST, UNKNOWN_PROPERTY, WebApiError, not_emulated

MAX_PAGE = 5000
"""The rows of an answer of a standard table (Microsoft Learn, "Query data using the Web API")."""
_KNOWN = frozenset({"$select", "$filter", "$orderby", "$top", "$count", "$skiptoken"})
_NOT_EMULATED = frozenset({"$expand", "$apply", "$search", "$skip", "fetchXml", "savedQuery", "userQuery"})


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query."""

    select: tuple[ColumnDefinition, ...]
    """The columns of the answer."""
    selected: tuple[str, ...]
    """The names in `$select`; empty: all columns."""
    where: Predicate
    order: tuple[tuple[ColumnDefinition, bool], ...]
    """Columns, and whether they descend."""
    top: int | None
    count: bool
    skip: int
    given: Mapping[str, str]
    """The options as the URL has them, decoded."""


def options(raw_query: str) -> dict[str, str]:
    """Return the query options by name, decoded. Raise `WebApiError` for an option given twice or not in UTF-8."""
    found: dict[str, str] = {}
    for part in raw_query.split("&") if raw_query else ():
        raw_name, _, raw_value = part.partition("=")
        name, value = _decoded(raw_name), _decoded(raw_value)
        if name in found:
            raise WebApiError(400, BAD_REQUEST, f"Query option '{name[:100]}' was specified more than once.")
        if name:
            found[name] = value
    return found


def _decoded(text: str) -> str:
    try:
        return unquote(text.replace("+", " "), errors="strict")
    except UnicodeDecodeError:
        raise WebApiError(400, BAD_REQUEST, "The URL is not UTF-8.") from None


def parse_query(raw_query: str, table: Table) -> Query:
    """Return the query. Raise `WebApiError` for a mistake, and for an option that the emulator lacks."""
    given = options(raw_query)
    for name in given:
        if name in _NOT_EMULATED:
            raise not_emulated(f"the query option '{name}'")
        if name not in _KNOWN:
            raise WebApiError(400, BAD_REQUEST, f"The query parameter {name[:100]} is not supported.")
    selected = tuple(_names(given.get("$select", "")))
    known = table.by_property.values()
    text = given.get("$filter")
    return Query(
        select=tuple(_property(name, table) for name in selected) if selected else tuple(known),
        selected=selected,
        where=(lambda _: True) if text is None else parse_filter(text, table),
        order=tuple(_ordering(part, table) for part in _names(given.get("$orderby", ""))),
        top=_number(given, "$top"),
        count=given.get("$count") == "true",
        skip=_number(given, "$skiptoken") or 0,
        given=given,
    )


def page_size(prefer: Mapping[str, str]) -> int:
    """Return the greatest number of rows in an answer."""
    asked = prefer.get("odata.maxpagesize", "")
    return min(int(asked), MAX_PAGE) if re.fullmatch(r"[1-9][0-9]{0,8}", asked) else MAX_PAGE


def preferences(header: Iterable[str]) -> dict[str, str]:
    """Return the preferences of the header `Prefer` (RFC 7240), names in lower case."""
    parts = (part.partition("=") for line in header for part in line.split(","))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in parts}


def sort(rows: Iterable[Row], query: Query, table: Table) -> list[Row]:
    """Return the rows in the order of the query; equal ones keep theirs."""
    ordered = list(rows)
    for column, descending in reversed(query.order):
        ordered.sort(key=_key(column, with_case=table.definition.elastic), reverse=descending)
    return ordered


def _key(column: ColumnDefinition, *, with_case: bool) -> Callable[[Row], tuple[bool, float | str]]:
    def key(row: Row) -> tuple[bool, float | str]:
        value = comparable(column, row.values.get(column.name), with_case=with_case)
        if value is None:
            return False, ""  # SQL Server puts null first
        return True, value.timestamp() if isinstance(value, datetime) else value

    return key


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _property(name: str, table: Table) -> ColumnDefinition:
    column = table.by_property.get(name) or table.columns.get(name)
    # A lookup's own name in `$select` is accepted: Dataverse then returns its `_name_value`.
    if column is None:
        raise unknown_property(name, table)
    return column


def _ordering(part: str, table: Table) -> tuple[ColumnDefinition, bool]:
    name, _, direction = part.partition(" ")
    if direction.strip() not in {"", "asc", "desc"}:
        raise WebApiError(400, UNKNOWN_PROPERTY, f"Syntax error in '$orderby': '{part[:200]}'.")
    column = table.by_property.get(name)
    if column is None:
        raise unknown_property(name, table)
    return column, direction.strip() == "desc"


def _number(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise WebApiError(400, BAD_REQUEST, f"Invalid value '{text[:50]}' for {name} query option found.")
    return int(text)
