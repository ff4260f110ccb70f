"""The JSON Schema of the TOML file, for editors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from flow_worker.settings.settings import Settings


def settings_schema() -> dict[str, JsonValue]:
    """Return the schema. No setting is required in it, because each one can come from a variable instead."""
    schema: dict[str, JsonValue] = Settings.model_json_schema()
    descriptions = _descriptions()
    for path, setting in settings_in(schema):
        if (description := descriptions.get(path)) is not None:
            setting["description"] = description
    schema = {name: _relaxed(value) for name, value in schema.items() if name != "required"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **schema,
        "title": "flow-worker settings",
        "description": "The settings of flow-worker in its TOML file.",
        "additionalProperties": False,
    }


_Setting = tuple[str, dict[str, Any]]


def settings_in(schema: Mapping[str, Any]) -> Iterator[_Setting]:
    """Yield the path and the schema of each setting, groups included; those of one flow are below `flows`."""
    yield from _below(schema, schema.get("$defs", {}), "")


def _below(part: Mapping[str, Any], definitions: Mapping[str, Any], before: str) -> Iterator[_Setting]:
    for name, setting in part.get("properties", {}).items():
        path = f"{before}{name}"
        yield path, setting
        for group in _groups(setting, definitions):
            yield from _below(group, definitions, f"{path}.")


def _groups(setting: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the tables that a setting may be, or that its list or table holds."""
    if "$ref" in setting:
        yield definitions[setting["$ref"].rpartition("/")[2]]
    for inner in (*setting.get("anyOf", ()), *setting.get("allOf", ())):
        yield from _groups(inner, definitions)
    for inner in (setting.get("items"), setting.get("additionalProperties")):
        if isinstance(inner, Mapping):
            yield from _groups(inner, definitions)


def _descriptions() -> dict[str, str]:
    """Return what docs/reference/settings.md says about each setting."""
    found: dict[str, str] = json.loads(Path(__file__).with_name("descriptions.json").read_text(encoding="utf-8"))
    return found


def _relaxed(schema: JsonValue) -> JsonValue:
    """Return the schema without `required` and without the titles, which only repeat the names."""
    if isinstance(schema, list):
        return [_relaxed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _relaxed(value)
        for name, value in schema.items()
        if not (name == "required" and isinstance(value, list)) and not (name == "title" and isinstance(value, str))
    }
