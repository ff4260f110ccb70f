"""Converts Dataverse's JSON values (.NET's DataContractJsonSerializer) to the plain JSON that a flow gets.

| Dataverse | plain |
|---|---|
| list of `{"key", "value"}` | object |
| `Entity` | object of its attributes, `@id` and `@logicalName`; unless empty, the other members named below |
| `EntityReference` | `{"id", "logicalName", "name"}`; `keyAttributes` and `rowVersion` unless empty |
| `EntityCollection` | array of entities; empty if its `Entities` is null |
| `OptionSetValue`, `Money`, `BooleanManagedProperty`, `AliasedValue` | the bare value |
| any other array, an `OptionSetValueCollection` among them | array |
| date `/Date(ms)/`, with or without an offset | `2017-09-26T00:04:07.000Z`; text if beyond the years 1 to 9999 |
| all-zero ID of an entity or a reference | null |
| object of an unknown `__type` | object with its `__type`, its members in their plain form |

An entity's other members are `@formattedValues`, `@keyAttributes`, `@relatedEntities` and `@rowVersion`. No column's
name begins with `@`, but an attribute of an open-type parameter may have such a name. It is data like any other, and
takes the place of a member of the same name. The logical name of an open-type entity is null. Text that a user entered
as `/Date(0)/` becomes a date, too, because Dataverse writes both alike. Dataverse omits `__type` where the declaration
of the enclosing type implies it, as for members of collections. This module recognises such objects by their members.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from datetime import UTC, datetime, timedelta
from typing import TypeGuard

from pydantic import JsonValue

from flow_contracts.guid import NIL_GUID, NotGuid, parse_guid

Object = dict[str, JsonValue]

_NAMESPACE = "http://schemas.microsoft.com/xrm/2011/Contracts"
_DATE = re.compile(r"/Date\((-?[0-9]{1,15})(?:[+-][0-9]{4})?\)/")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NotDataverse(ValueError):
    """Dataverse does not write such a value. The message never quotes the value."""


def parse_optional_guid(value: JsonValue) -> str | None:
    """Parse a GUID; None for null and for all zeros. Raises `NotDataverse`."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise NotDataverse("is not a GUID")
    try:
        guid = parse_guid(value)
    except NotGuid:
        raise NotDataverse("is not a GUID") from None
    return None if guid == NIL_GUID else guid


def parse_date(text: str) -> datetime | None:
    """Parse `/Date(ms)/` to a time in UTC; None if the text is not a date of the years 1 to 9999.

    The milliseconds count in UTC. The offset only states the writer's time zone, so this function ignores it.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=int(match[1]))
    except OverflowError:
        return None


def to_plain(value: JsonValue) -> JsonValue:
    """Convert a value to its plain form. Raises `NotDataverse`."""
    if isinstance(value, str):
        at = parse_date(value)
        return value if at is None else _iso(at)
    if isinstance(value, list):
        return _plain_list(value)
    return _plain_object(value) if isinstance(value, dict) else value


def to_object(pairs: JsonValue) -> Object:
    """Convert a list of `{"key", "value"}` to a plain object; null counts as an empty list. Raises `NotDataverse`."""
    if pairs is None:
        return {}
    if not isinstance(pairs, list):
        raise NotDataverse("is not a list of keys and values")
    result: Object = {}
    for pair in pairs:
        if not _is_pair(pair):
            raise NotDataverse("has an item that is not a key and a value")
        key = str(pair["key"])
        if key in result:
            raise NotDataverse("has a key twice")
        result[key] = to_plain(pair["value"])
    return result


def _iso(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _is_pair(item: JsonValue) -> TypeGuard[Object]:
    return (
        isinstance(item, dict)
        and item.keys() - {"__type"} == {"key", "value"}  # a pair in an untyped place has one
        and isinstance(item["key"], str)
    )


def _plain_list(items: list[JsonValue]) -> JsonValue:
    if items and all(_is_pair(item) for item in items):
        return to_object(items)
    return [to_plain(item) for item in items]


def _plain_object(value: Object) -> JsonValue:
    reader = _READERS.get(_type_of(value))
    return reader(value) if reader else {name: to_plain(inner) for name, inner in value.items()}


def _type_of(value: Object) -> str:
    """Return the value's declared or recognised type; empty for an unknown type or another namespace."""
    declared = value.get("__type")
    if declared is None:
        return _recognise(value.keys())
    # Not `str(declared)`: the text of nested objects would be built again at each level.
    name, _, namespace = declared.partition(":") if isinstance(declared, str) else ("", "", "")
    return name if namespace == _NAMESPACE else ""


def _recognise(members: Set[str]) -> str:
    if {"Attributes", "LogicalName"} <= members:
        return "Entity"
    if {"Id", "LogicalName"} <= members:
        return "EntityReference"
    return "OptionSetValue" if members == {"Value"} else ""


def _plain_entity(value: Object) -> Object:
    own: Object = {"@id": parse_optional_guid(value.get("Id")), "@logicalName": _table_of(value)}
    own |= _without_empty(
        {
            "@formattedValues": to_object(value.get("FormattedValues")),
            "@keyAttributes": to_object(value.get("KeyAttributes")),
            "@relatedEntities": _plain_related_entities(value.get("RelatedEntities")),
            "@rowVersion": value.get("RowVersion"),
        }
    )
    return own | to_object(value.get("Attributes"))


def _plain_reference(value: Object) -> Object:
    named: Object = {
        "id": parse_optional_guid(value.get("Id")),
        "logicalName": _table_of(value),
        "name": value.get("Name"),
    }
    more: Object = {"keyAttributes": to_object(value.get("KeyAttributes")), "rowVersion": value.get("RowVersion")}
    return named | _without_empty(more)


def _table_of(value: Object) -> str | None:
    """Return the table's logical name; None for an entity or a reference that belongs to no table."""
    table = value.get("LogicalName")
    if not isinstance(table, str | None) or "LogicalName" not in value:
        raise NotDataverse("has an entity or a reference without its LogicalName")
    return table


def _without_empty(members: Object) -> Object:
    return {name: value for name, value in members.items() if value}


def _plain_entities(value: Object) -> JsonValue:
    entities = value.get("Entities", "")
    if entities is None:
        return []
    if not isinstance(entities, list):
        raise NotDataverse("has an entity collection without its list of entities")
    return [to_plain(entity) for entity in entities]


def _plain_related_entities(pairs: JsonValue) -> JsonValue:
    """Return the related entities, each list with its relationship and role.

    The role is necessary, because a table can have two roles in a relationship with itself.
    """
    if pairs is None:
        return []
    if not isinstance(pairs, list):
        raise NotDataverse("is not a list of related entities")
    return [_plain_related_pair(pair) for pair in pairs]


def _plain_related_pair(pair: JsonValue) -> JsonValue:
    by, related = (pair.get("key"), pair.get("value")) if isinstance(pair, dict) else (None, None)
    if not isinstance(by, dict) or not isinstance(related, dict):
        raise NotDataverse("has an item that is not a relationship and its entities")
    if isinstance(by.get("PrimaryEntityRole"), bool):
        raise NotDataverse("has a boolean as the role of a relationship")
    return {
        "relationship": by.get("SchemaName"),
        "role": by.get("PrimaryEntityRole"),
        "entities": _plain_entities(related),
    }


def _plain_number(value: Object) -> JsonValue:
    """Return the value of a type that holds a number. To Python, a boolean is a number; to Dataverse it is none."""
    if isinstance(value.get("Value"), bool):
        raise NotDataverse("has a boolean where its type needs a number")
    return _plain_bare_value(value)


def _plain_bare_value(value: Object) -> JsonValue:
    if "Value" not in value:
        raise NotDataverse("has an object without the 'Value' that its type needs")
    return to_plain(value["Value"])


_READERS: dict[str, Callable[[Object], JsonValue]] = {
    "AliasedValue": _plain_bare_value,
    "BooleanManagedProperty": _plain_bare_value,
    "Entity": _plain_entity,
    "EntityCollection": _plain_entities,
    "EntityReference": _plain_reference,
    "Money": _plain_number,
    "OptionSetValue": _plain_number,
}
