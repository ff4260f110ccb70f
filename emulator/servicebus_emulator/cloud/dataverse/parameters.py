"""Checks the body of an action's call against the action's parameters.

Source: Microsoft Learn, "Create and use Custom APIs" (types of parameters), "Use Web API actions".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from pydantic import JsonValue

from servicebus_emulator.cloud.dataverse.custom_api_definitions import ParameterDefinition, ParameterType
from servicebus_emulator.cloud.dataverse.payload import parse_object, parse_time
from servicebus_emulator.cloud.dataverse.web_api_errors import invalid_payload

_INT32 = 2**31
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def parse_parameters(action: str, parameters: Iterable[ParameterDefinition], body: bytes) -> dict[str, JsonValue]:
    """Return the given parameters. Raise `WebApiError` for an unknown, a missing or an unsuitable one."""
    known = {parameter.name: parameter for parameter in parameters}
    given = {name: value for name, value in _object(action, body).items() if "@" not in name}
    for name, value in given.items():
        if name not in known:
            text = f"The parameter '{name[:300]}' in the request payload is not a valid parameter for the operation"
            raise invalid_payload("", f"{text} '{action}'.")
        if value is not None and not _FITS[known[name].type](value):
            text = f"Cannot convert a value of the parameter '{name}' to the expected type '{known[name].type}'."
            raise invalid_payload("", text)
    for name, parameter in known.items():
        if not parameter.optional and given.get(name) is None:
            # No document shows the code of this answer.
            raise invalid_payload("", f"The required parameter '{name}' of '{action}' is missing.")
    return given


def _object(action: str, body: bytes) -> Mapping[str, JsonValue]:
    return parse_object(body, action) if body else {}


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: JsonValue) -> bool:
    return isinstance(value, str)


_FITS: Mapping[ParameterType, Callable[[JsonValue], bool]] = {
    "String": _is_text,
    "Integer": lambda value: isinstance(value, int) and not isinstance(value, bool) and -_INT32 <= value < _INT32,
    "Boolean": lambda value: isinstance(value, bool),
    "Guid": lambda value: isinstance(value, str) and _GUID.fullmatch(value) is not None,
    "DateTime": lambda value: isinstance(value, str) and parse_time(value) is not None,
    "Decimal": _is_number,
    "Float": _is_number,
    "StringArray": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "Entity": lambda value: isinstance(value, dict),
}
