"""Translates the errors of pydantic into one line for each fault: setting, value found, values allowed, remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsError

from flow_worker.settings.outline import Location, Outline, suggestion

PREFIX = "FLOW_WORKER_"
SENDER_VARIABLES = {"FLOW_WORKER_CLAIM", "FLOW_WORKER_REPLY_KEY"}
"""Secrets of one request, which no TOML file may contain."""
_TABLE = "must be a table"
_BOOLEAN = "must be true or false"
_MESSAGES = {
    "bool_parsing": _BOOLEAN,
    "bool_type": _BOOLEAN,
    "dict_type": _TABLE,
    "missing": "required",
    "model_attributes_type": _TABLE,
    "model_type": _TABLE,
    "path_type": "must be a path in quotes",
    "string_too_short": "must not be empty",
    "string_type": "must be text in quotes",
    "too_short": "must not be empty",
}
_PATTERNS = {
    "^[A-Za-z][A-Za-z0-9]{2,62}$": "must be 3 to 63 letters and digits, and begin with a letter",
    "^prv[A-Za-z0-9_]{1,200}$": "must be the name of a privilege: prv, then letters, digits and underscores",
}
"""By pattern, what it means."""
_WITHOUT_VALUE = {"missing", "string_too_short", "too_short", "tuple_type"}
_MAX_SHOWN_CHARACTERS = 20
"""A longer value can be a secret in the wrong place, so messages do not repeat it."""
_ID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
"""The form of a tenant's or client's ID, which is longer and no secret."""


def fault_lines(error: ValidationError, kind: type[BaseModel], variables: Mapping[str, str]) -> list[str]:
    """Return one line for each fault in the settings of this class. `variables` may have set some of them."""
    outline, faults = Outline(kind), error.errors()
    # Each alternative of a union reports its own fault, and the lines are the same then.
    return list(
        dict.fromkeys(_line(fault, outline, variables) for fault in faults if not _is_consequence(fault, faults))
    )


def _is_consequence(fault: ErrorDetails, faults: Sequence[ErrorDetails]) -> bool:
    """Return whether another fault causes this one: pydantic drops invalid items and then calls the list too short."""
    place = fault["loc"]
    return fault["type"] == "too_short" and any(
        other["loc"][: len(place)] == place for other in faults if other["loc"] != place
    )


def _line(fault: ErrorDetails, outline: Outline, variables: Mapping[str, str]) -> str:
    if not fault["loc"]:
        return _message(fault)
    if fault["type"] == "extra_forbidden":
        return f"{_unknown(fault['loc'], outline, variables)}; `flow-worker schema settings` lists all settings"
    location = outline.known(fault["loc"])
    text = f"{_place(location)}: {_text(fault, location, outline)}"
    if fault["type"] == "value_error" and isinstance(fault["input"], Mapping) and outline.names(location):
        return text  # a rule of the whole group, which says which of its settings to change
    variable = _variable(location)
    if variable in SENDER_VARIABLES:
        return f"{text}; set {variable}"
    return f"{text}; set {variable} or {'.'.join(map(str, _head(location)))} in the TOML file"


def _unknown(location: Location, outline: Outline, variables: Mapping[str, str]) -> str:
    """Name a misspelt setting as it was written, and the setting that was probably meant."""
    *group, name = location
    variable = PREFIX + "__".join(map(str, location)).upper()
    known = outline.names(tuple(group))
    if variable in variables:
        before = variable[: -len(str(name))]
        return f"{variable}: no such setting{suggestion(variable, [before + each.upper() for each in known])}"
    hint = suggestion(str(name), known)
    if not hint and (paths := outline.elsewhere(str(name))):
        table = "" if "." in paths[0] else ", before the first table"
        hint = f" (did you mean '{paths[0]}'{table}?)"
    return f"{_place(location)}: no such setting{hint}"


def _text(fault: ErrorDetails, location: Location, outline: Outline) -> str:
    kind, value = fault["type"], _shown(fault["input"], location, outline)
    if kind == "value_error":
        text = _message(fault)
        return text if value is None or value in text else f"{text}; found {value}"
    found = "" if value is None or kind in _WITHOUT_VALUE else f", not {value}"
    if kind == "tuple_type":
        example = json.dumps([fault["input"]], ensure_ascii=False) if value is not None else '["a", "b"]'
        return f"must be a list, such as {example}"
    if location != fault["loc"] and outline.types(location) == {"object", "boolean"}:
        return f"must be a table, true or false{found}"
    number = outline.number(location)
    return f"must be {number}{found}" if number and kind != "missing" else f"{_message(fault)}{found}"


def _message(fault: ErrorDetails) -> str:
    text = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(str(fault["ctx"]["pattern"])) or f"must match {fault['ctx']['pattern']}"
    return _MESSAGES.get(fault["type"]) or re.sub(r"^(Input|String|Value) should", "must", text)


def _shown(value: object, location: Location, outline: Outline) -> str | None:
    """Return the value found for a message; None if it can be a secret, or is a list or table."""
    if not isinstance(value, str | int | float) or outline.is_secret(location):
        return None
    is_short = len(str(value)) <= _MAX_SHOWN_CHARACTERS or _ID.fullmatch(str(value))
    if not is_short:
        return None
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _head(location: Location) -> Location:
    """Return the location up to the first list: neither a variable nor TOML can address one item of it."""
    return location[: next((at for at, part in enumerate(location) if isinstance(part, int)), len(location))]


def _place(location: Location) -> str:
    """Return the setting's name, such as `claims.scopes`, or `entry 1 of claims.scopes`."""
    head = _head(location)
    name = ".".join(str(part) for part in head)
    if head == location:
        return name
    entry = f"entry {int(location[len(head)]) + 1} of {name}"
    rest = ".".join(str(part) for part in location[len(head) + 1 :])
    return f"{rest} in {entry}" if rest else entry


def _variable(location: Location) -> str:
    """Return the variable that sets the field. A flow's name can hold characters that a variable's cannot."""
    path = location[:1] if location[0] == "flows" else _head(location)
    return PREFIX + "__".join(str(part) for part in path).upper() + (" (as JSON)" if len(path) < len(location) else "")


def not_json(error: SettingsError, kind: type[BaseSettings], variables: Mapping[str, str]) -> str:
    """Translate the error of pydantic-settings, which names a field and a source class, into the variable's name."""
    found = re.search(r'field "(\w+)"', str(error))
    field = found[1] if found else ""
    outline = Outline(kind)
    for name, value in variables.items():
        location = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if not name.startswith(PREFIX) or location[0] != field or _is_json(value):
            continue
        types = outline.types(location) if outline.known(location) == location else set()
        if "array" in types:
            return f'{name}: not JSON; write a list in a variable as JSON, such as \'["a", "b"]\''
        if "object" in types:
            return f'{name}: not JSON; write a table in a variable as JSON, such as \'{{"name": "value"}}\''
    variable = PREFIX + (field.upper() or "…")
    return f'{variable} or {variable}__…: not JSON; write lists and tables in variables as JSON, such as \'["a", "b"]\''


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
