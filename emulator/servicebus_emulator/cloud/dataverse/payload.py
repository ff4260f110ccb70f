"""Checks the body of a create or an update against the table's columns, and converts it to stored values.

Dataverse names the mistakes by code (Microsoft Learn, "Web service error codes"). The wording of the messages follows
answers that users published.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn, Protocol
from uuid import UUID

from pydantic import JsonValue

from servicebus_emulator.cloud.dataverse.table_definitions import ColumnDefinition
from servicebus_emulator.cloud.dataverse.tables import Table, Values, timestamp
from servicebus_emulator.cloud.dataverse.web_api_errors import (
    INTEGER_OUT_OF_RANGE,
    INVALID_ARGUMENT,
    NUMBER_OUT_OF_RANGE,
    OPTION_OUT_OF_RANGE,
    TEXT_TOO_LONG,
    WebApiError,
    invalid_payload,
)

_BIND = "@odata.bind"
_INT32 = 2**31
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EDM = {
    "String": "Edm.String",
    "Memo": "Edm.String",
    "Integer": "Edm.Int32",
    "Decimal": "Edm.Decimal",
    "Boolean": "Edm.Boolean",
    "DateTime": "Edm.DateTimeOffset",
    "Uniqueidentifier": "Edm.Guid",
    "Choice": "Edm.Int32",
    "Lookup": "Edm.Guid",
}


class LookupResolver(Protocol):
    """Finds the row that a lookup is bound to."""

    def __call__(self, link: str, target: str) -> UUID:
        """Return the row's ID. Raise `WebApiError` if the link leads to no row of the table `target`."""


@dataclass(slots=True)
class Payload:
    """The values to store, and the tables that its lookups point to, without the owner's."""

    values: Values = field(default_factory=dict)
    bound_tables: set[str] = field(default_factory=set)


def parse_object(body: bytes, table: str) -> dict[str, JsonValue]:
    """Return the body's JSON object. Raise `WebApiError` for any other body."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid_payload(table, "The body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise invalid_payload(table, "The body is no JSON object.")
    return document


def parse_payload(table: Table, document: Mapping[str, JsonValue], resolve: LookupResolver) -> Payload:
    """Return the checked values. Raise `WebApiError` at the first mistake."""
    payload = Payload()
    for name, value in document.items():
        if name.endswith(_BIND):
            _bind(table, name.removesuffix(_BIND), value, resolve, payload)
        elif "@" not in name:  # other annotations are no columns
            column = table.columns.get(name)
            if column is None or column.type == "Lookup":
                raise _undeclared(table, name)
            # Dataverse ignores the columns that it sets itself; no document promises it.
            if not column.read_only:
                payload.values[name] = convert(table, column, value)
    return payload


def require_columns(table: Table, values: Values) -> None:
    """Raise `WebApiError` if a new row lacks a required column. No document shows the code; this one is a guess."""
    for column in table.columns.values():
        if column.required and values.get(column.name) is None:
            text = f"Attribute '{column.name}' of entity '{table.name}' cannot be null."
            raise WebApiError(400, INVALID_ARGUMENT, text)


def _undeclared(table: Table, name: str) -> WebApiError:
    return invalid_payload(
        table.set_name,
        f"The property '{name[:300]}' does not exist on type 'Microsoft.Dynamics.CRM.{table.name}'. Make sure to only "
        "use property names that are defined by the type.",
    )


def _bind(table: Table, name: str, value: JsonValue, resolve: LookupResolver, payload: Payload) -> None:
    column = table.by_bind_name.get(name)
    if column is None or column.target is None:
        text = f"An undeclared property '{name[:300]}' which only has property annotations in the payload but no"
        raise invalid_payload(table.set_name, f"{text} property value was found in the payload.")
    if value is not None and not isinstance(value, str):
        raise invalid_payload(table.set_name, f"The value of '{name}{_BIND}' is no URL.")
    if column.read_only:
        return
    payload.values[column.name] = None if value is None else str(resolve(value, column.target))
    if column.name != "ownerid" and value is not None:
        payload.bound_tables.add(column.target)


def convert(table: Table, column: ColumnDefinition, value: JsonValue) -> JsonValue:
    """Return the value as it is stored. Raise `WebApiError` if the column cannot hold it."""
    if value is None:
        return None
    match column.type:
        case "String" | "Memo":
            return _text(table, column, value)
        case "Integer" | "Decimal" | "Choice":
            return _number(table, column, value)
        case "Boolean":
            return value if isinstance(value, bool) else _refuse(table, column, value)
        case "DateTime":
            return _parsed(table, column, value, _time)
        case "Uniqueidentifier" | "Lookup":
            return _parsed(table, column, value, _guid)


def _text(table: Table, column: ColumnDefinition, value: JsonValue) -> str:
    if not isinstance(value, str):
        _refuse(table, column, value)
    # .NET counts UTF-16 code units.
    if column.length is not None and len(value.encode("utf-16-le", "surrogatepass")) // 2 > column.length:
        raise WebApiError(
            400,
            TEXT_TOO_LONG,
            f"A validation error occurred. The length of the '{column.name}' attribute of the '{table.name}' entity "
            f"exceeded the maximum allowed length of '{column.length}'.",
        )
    return value


def _number(table: Table, column: ColumnDefinition, value: JsonValue) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(table, column, value)
    if column.type == "Decimal":
        in_range, code = math.isfinite(value) and _within(column, value), NUMBER_OUT_OF_RANGE
    elif not isinstance(value, int) or not -_INT32 <= value < _INT32:
        _refuse(table, column, value)
    elif column.type == "Choice":
        in_range, code = value in column.options, OPTION_OUT_OF_RANGE
    else:
        in_range, code = _within(column, value), INTEGER_OUT_OF_RANGE
    if not in_range:
        accepted = f" Accepted Values: {','.join(map(str, column.options))}" if column.options else ""
        text = f"A validation error occurred. The value {value} of '{column.name}' on record of type '{table.name}'"
        raise WebApiError(400, code, f"{text} is outside the valid range.{accepted}")
    return value


def _within(column: ColumnDefinition, value: float) -> bool:
    return (column.minimum is None or value >= column.minimum) and (column.maximum is None or value <= column.maximum)


def _parsed(table: Table, column: ColumnDefinition, value: JsonValue, parse: Callable[[str], str | None]) -> str:
    parsed = parse(value) if isinstance(value, str) else None
    return _refuse(table, column, value) if parsed is None else parsed


def _time(text: str) -> str | None:
    at = parse_time(text)
    return None if at is None else timestamp(at)


def parse_time(text: str) -> datetime | None:
    """Return the time of an Edm.DateTimeOffset in UTC; None for any other text, and beyond the years 1 to 9999.

    A time without an offset counts as UTC.
    """
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _guid(text: str) -> str | None:
    return text.lower() if _GUID.fullmatch(text) else None


def _refuse(table: Table, column: ColumnDefinition, value: JsonValue) -> NoReturn:
    literal = value if isinstance(value, str) else json.dumps(value)
    text = f"Cannot convert the literal '{literal[:100]}' to the expected type '{_EDM[column.type]}'."
    raise invalid_payload(table.set_name, text)
