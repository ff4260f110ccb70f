"""Values as Dataverse writes them in JSON (.NET's DataContractJsonSerializer), and the plain form a flow gets.

| Dataverse | plain |
|---|---|
| list of `{"key", "value"}` | object |
| `Entity` | object of its attributes, `@id` and `@logicalName`; unless empty, the other members named below |
| `EntityReference` | `{"id", "logicalName", "name"}`; `keyAttributes` and `rowVersion` unless empty |
| `EntityCollection` | array of entities |
| `OptionSetValue`, `Money`, `BooleanManagedProperty`, `AliasedValue` | the bare value |
| any other array, an `OptionSetValueCollection` among them | array |
| date `/Date(ms)/`, with or without an offset | `2017-09-26T00:04:07.000Z`; text if beyond the years 1 to 9999 |
| all-zero ID of an entity or a reference | null |
| object of an unknown `__type` | object, `__type` and all, its members in their plain form |

An entity's other members are `@formattedValues`, `@keyAttributes`, `@relatedEntities` and `@rowVersion`. No attribute's
name begins with `@`, so none of them hides an attribute. Text that a user wrote as `/Date(0)/` becomes a date, too:
Dataverse writes both alike. `__type` is left out where the reader's own declaration tells the type (members of
collections), so objects without it are recognised by their members.
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
    """The value is not one that Dataverse writes. The message never quotes a value."""


def guid(value: JsonValue) -> str | None:
    """The GUID in lower case; None for null and all zeros. Raises `NotDataverse`."""
    if value is None:
        return None
    try:
        found = parse_guid(value) if isinstance(value, str) else None
    except NotGuid:
        found = None
    if found is None:
        raise NotDataverse("is not a GUID")
    return None if found == NIL_GUID else found


def moment(text: str) -> datetime | None:
    """What `/Date(ms)/` means, in UTC; None if it is no date, or one beyond the years 1 to 9999.

    The milliseconds count in UTC, whatever the offset: that only says where the writer's clock stood.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=int(found[1]))
    except OverflowError:
        return None


def plain(value: JsonValue) -> JsonValue:
    """The plain form of a value. Raises `NotDataverse`."""
    if isinstance(value, str):
        at = moment(value)
        return value if at is None else _iso(at)
    if isinstance(value, list):
        return _plain_list(value)
    return _plain_object(value) if isinstance(value, dict) else value


def object_of(pairs: JsonValue) -> Object:
    """The plain object of a list of `{"key", "value"}`; null counts as an empty list. Raises `NotDataverse`."""
    if pairs is None:
        return {}
    if not isinstance(pairs, list):
        raise NotDataverse("has something else where a list of keys and values belongs")
    result: Object = {}
    for pair in pairs:
        if not _is_pair(pair):
            raise NotDataverse("has something else among keys and values")
        key = str(pair["key"])
        if key in result:
            raise NotDataverse("has a key twice")
        result[key] = plain(pair["value"])
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
        return object_of(items)
    return [plain(item) for item in items]


def _plain_object(value: Object) -> JsonValue:
    reader = _READERS.get(_type_of(value))
    return reader(value) if reader else {name: plain(inner) for name, inner in value.items()}


def _type_of(value: Object) -> str:
    """The name of the type that is, or must be, the value's; empty for one of another namespace or unknown."""
    declared = value.get("__type")
    if declared is None:
        return _recognised(value.keys())
    name, _, namespace = str(declared).partition(":")
    return name if namespace == _NAMESPACE else ""


def _recognised(members: Set[str]) -> str:
    if {"Attributes", "LogicalName"} <= members:
        return "Entity"
    if {"Id", "LogicalName"} <= members:
        return "EntityReference"
    return "OptionSetValue" if members == {"Value"} else ""


def _entity(value: Object) -> Object:
    own: Object = {"@id": guid(value.get("Id")), "@logicalName": _table_of(value)}
    own |= _present(
        {
            "@formattedValues": object_of(value.get("FormattedValues")),
            "@keyAttributes": object_of(value.get("KeyAttributes")),
            "@relatedEntities": _related(value.get("RelatedEntities")),
            "@rowVersion": value.get("RowVersion"),
        }
    )
    attributes = object_of(value.get("Attributes"))
    if any(name.startswith("@") for name in attributes):
        raise NotDataverse("has an attribute whose name begins with '@'")
    return own | attributes


def _reference(value: Object) -> Object:
    named: Object = {"id": guid(value.get("Id")), "logicalName": _table_of(value), "name": value.get("Name")}
    more: Object = {"keyAttributes": object_of(value.get("KeyAttributes")), "rowVersion": value.get("RowVersion")}
    return named | _present(more)


def _table_of(value: Object) -> str:
    table = value.get("LogicalName")
    if not isinstance(table, str):
        raise NotDataverse("has an entity or a reference without its LogicalName")
    return table


def _present(members: Object) -> Object:
    return {name: value for name, value in members.items() if value}


def _entities(value: Object) -> JsonValue:
    entities = value.get("Entities")
    if not isinstance(entities, list):
        raise NotDataverse("has an entity collection without its list of entities")
    return [plain(entity) for entity in entities]


def _related(pairs: JsonValue) -> JsonValue:
    """Related entities by relationship, which is not a key but an object: a table may be related to itself twice."""
    if pairs is None:
        return []
    if not isinstance(pairs, list):
        raise NotDataverse("has something else where a list of related entities belongs")
    return [_related_by(pair) for pair in pairs]


def _related_by(pair: JsonValue) -> JsonValue:
    by, related = (pair.get("key"), pair.get("value")) if isinstance(pair, dict) else (None, None)
    if not isinstance(by, dict) or not isinstance(related, dict):
        raise NotDataverse("has something else among related entities")
    return {
        "relationship": by.get("SchemaName"),
        "role": by.get("PrimaryEntityRole"),
        "entities": _entities(related),
    }


def _bare(value: Object) -> JsonValue:
    if "Value" not in value:
        raise NotDataverse("has an object without the 'Value' that its type needs")
    return plain(value["Value"])


_READERS: dict[str, Callable[[Object], JsonValue]] = {
    "AliasedValue": _bare,
    "BooleanManagedProperty": _bare,
    "Entity": _entity,
    "EntityCollection": _entities,
    "EntityReference": _reference,
    "Money": _bare,
    "OptionSetValue": _bare,
}
