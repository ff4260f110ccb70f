"""Applies a flow's JSON Schema to an input.

The process that checks expensive inputs imports this module, so it imports little: that process starts faster.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, extend, validator_for
from referencing import Registry

_MAX_QUOTED_CHARACTERS = 200
_CHARACTERS_PER_UNIT = 64
_BITS_PER_UNIT = 64


def compile_schema(schema: Mapping[str, Any] | bool) -> Validator:
    """Return a validator of the schema's own draft. It retrieves nothing: its registry is empty.

    For `uniqueItems`, jsonschema compares each item with each other one. This validator compares hashes instead.
    """
    kind = extend(  # type: ignore[no-untyped-call]  # jsonschema ships no types for `extend`
        validator_for(schema, default=Draft202012Validator), {"uniqueItems": _unique_items}
    )
    registry: Registry[Any] = Registry()
    validator: Validator = kind(schema, registry=registry)
    return validator


def fault_of(validator: Validator, value: Any) -> str | None:
    """Return the first fault of a value: its place and the rule, but not the value. None if the value is valid."""
    try:
        fault = next(iter(validator.iter_errors(value)), None)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - also an error of the library must not make the worker try the input for ever
        # For example, 10**400 overflows a float, and deep nesting the stack.
        return "the schema cannot be applied to its values"
    if fault is None:
        return None
    return f"{_shortened(fault.json_path)} fails '{fault.validator}': {_shortened(fault.validator_value)}"


def size_of(value: object, enough: int) -> int:
    """Return the size of a value, by which the cost of a check grows, or a number above `enough`.

    Each value and each name counts one, and more if it is long.
    """
    size, waiting = 0, [value]
    while waiting and size <= enough:
        size += 1
        match waiting.pop():
            case str(text):
                size += len(text) // _CHARACTERS_PER_UNIT
            case int(number):
                size += number.bit_length() // _BITS_PER_UNIT
            case list(items) if len(items) <= enough:
                waiting += items
            case dict(members) if len(members) <= enough:
                waiting += members
                waiting += members.values()
            case list() | dict():
                return enough + 1
    return size


def _unique_items(validator: Validator, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if wanted and validator.is_type(instance, "array") and len({_canonical(item) for item in instance}) < len(instance):
        yield ValidationError("has equal items")


def _canonical(value: Any) -> str:
    """Return the same text for values that JSON Schema calls equal: 1 equals 1.0 and does not equal true."""
    return json.dumps(_with_whole_numbers(value), sort_keys=True)


def _with_whole_numbers(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_with_whole_numbers(item) for item in value]
        case dict():
            return {name: _with_whole_numbers(item) for name, item in value.items()}
        case _:
            return value


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_QUOTED_CHARACTERS else text[:_MAX_QUOTED_CHARACTERS] + "…"
