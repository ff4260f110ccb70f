"""Fills the template of a flow's Response action with the run's input and ID."""

from __future__ import annotations

import json
import re

from pydantic import JsonValue

_PLACEHOLDER = re.compile(r"\{(input(?:\.[A-Za-z0-9_-]+)*|run_id)\}")


def fill(template: JsonValue, value: JsonValue, run_id: str | None) -> JsonValue:
    """Return the template with its placeholders replaced by parts of the input `value`.

    A placeholder that is the whole string keeps its value's type; inside a longer string its value becomes text. A path
    that the input lacks becomes null, or an empty string.
    """
    match template:
        case dict():
            return {name: fill(item, value, run_id) for name, item in template.items()}
        case list():
            return [fill(item, value, run_id) for item in template]
        case str():
            whole = _PLACEHOLDER.fullmatch(template)
            if whole:
                return _resolve(whole[1], value, run_id)
            return _PLACEHOLDER.sub(lambda match: _as_text(_resolve(match[1], value, run_id)), template)
        case _:
            return template


def _resolve(path: str, value: JsonValue, run_id: str | None) -> JsonValue:
    if path == "run_id":
        return run_id
    for name in path.split(".")[1:]:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _as_text(value: JsonValue) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
