"""The names, types and bounds of the settings, for error messages."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

Location = tuple[str | int, ...]
_Option = Mapping[str, Any]


@functools.cache
def _schema_of(kind: type[BaseModel]) -> Mapping[str, Any]:
    return kind.model_json_schema()


class Outline:
    """The JSON Schema of a settings class, by location in the settings."""

    def __init__(self, kind: type[BaseModel]) -> None:
        schema = _schema_of(kind)
        self._definitions: Mapping[str, Any] = schema.get("$defs", {})
        self._root = self._options(schema)

    def known(self, location: Location) -> Location:
        """Return the location without the parts that only pydantic adds, such as the types of a union."""
        options = self._root
        for depth, part in enumerate(location):
            options = self._step(options, part)
            if not options:
                return location[:depth]
        return location

    def names(self, location: Location) -> list[str]:
        """Return the names of the settings in a group."""
        return [name for option in self._at(location) for name in option.get("properties", ())]

    def elsewhere(self, name: str) -> list[str]:
        """Return the paths of the settings with exactly this name, such as `identity.client_id`."""
        groups = {group: self.names((group,)) for group in self.names(())}
        return [*([name] if name in groups else []), *(f"{group}.{name}" for group in groups if name in groups[group])]

    def is_secret(self, location: Location) -> bool:
        """Return whether the setting's value is a secret."""
        return any(option.get("writeOnly") for option in self._at(location))

    def types(self, location: Location) -> set[str]:
        """Return the JSON types that the setting may have."""
        return {option["type"] for option in self._at(location) if "type" in option}

    def number(self, location: Location) -> str | None:
        """Return the numbers that the setting may be, as "a whole number from 1 to 9"; None if it is no number."""
        for option in self._at(location):
            if option.get("type") in ("integer", "number"):
                return f"{'a whole number' if option['type'] == 'integer' else 'a number'}{_bounds(option)}"
        return None

    def _at(self, location: Location) -> Sequence[_Option]:
        options = self._root
        for part in location:
            options = self._step(options, part)
        return options

    def _step(self, options: Sequence[_Option], part: str | int) -> Sequence[_Option]:
        for option in options:
            inner = option.get("items") if isinstance(part, int) else option.get("properties", {}).get(part)
            if inner is None and isinstance(part, str):
                inner = option.get("additionalProperties")
            # A part below arbitrary JSON is none of the settings.
            if isinstance(inner, Mapping) and (found := [one for one in self._options(inner) if one]):
                return found
        return ()

    def _options(self, schema: _Option) -> Sequence[_Option]:
        """Return the schema's alternatives without references and without null."""
        if "$ref" in schema:
            return self._options(self._definitions[schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            return [option for each in schema["anyOf"] for option in self._options(each)]
        return () if schema.get("type") == "null" else (schema,)


def suggestion(name: str, known: Collection[str]) -> str:
    """Return the known name that is most similar, in parentheses; an empty string if none is similar."""
    found = similar(name, known)
    return f" (did you mean '{found}'?)" if found is not None else ""


def similar(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is most similar, without regard to case and hyphens; None if none is similar."""
    plain = {each.lower().replace("-", "_"): each for each in known}
    found = difflib.get_close_matches(name.lower().replace("-", "_"), plain, 1)
    return plain[found[0]] if found else None


def _bounds(option: _Option) -> str:
    low, above, high = (option.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    most = f"at most {_plain(high)}" if high is not None else ""
    if above is not None:
        return f" above {_plain(above)}" + (f" and {most}" if most else "")
    if low is not None:
        return f" from {_plain(low)} to {_plain(high)}" if high is not None else f" of at least {_plain(low)}"
    return f" of {most}" if most else ""


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
