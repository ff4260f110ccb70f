"""The JSON Schema of the TOML file, for editors."""

from __future__ import annotations

from pydantic import JsonValue

from flow_worker.settings.settings import Settings


def settings_schema() -> dict[str, JsonValue]:
    """Return the schema. No setting is required in it, because each one can come from a variable instead."""
    schema: dict[str, JsonValue] = Settings.model_json_schema()
    schema = {name: _relaxed(value) for name, value in schema.items() if name != "required"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **schema,
        "title": "flow-worker settings",
        "description": "The settings of flow-worker in its TOML file.",
        "additionalProperties": False,
    }


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
