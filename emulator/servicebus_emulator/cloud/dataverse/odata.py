"""As much of OData's URLs as calls of functions need: segments, inline parameters, parameter aliases, literals.

Source: OData Version 4.01, Part 2: URL Conventions, sections 2, 4.5.3 and 5.1.1.14.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote
from uuid import UUID

_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_STRING = re.compile(r"'((?:[^']|'')*)'")
_CALL = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)\((.*)\)", re.DOTALL)
_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""


class Malformed(ValueError):
    """The URL is none of OData's; the message says where."""


@dataclass(frozen=True, slots=True)
class Call:
    """A segment such as `Name(first=1,@second)`; its arguments are literals as they stood in the URL."""

    name: str
    arguments: tuple[str, ...]
    named: Mapping[str, str]

    def literal(self, name: str) -> str:
        """An argument that must be there. Raises `Malformed`."""
        try:
            return self.named[name]
        except KeyError:
            return _refuse(f"The parameter '{name}' of '{self.name}' is missing")


def segments(raw_path: str) -> list[str]:
    """A path's segments: taken apart first and decoded then, since a segment may hold an encoded slash."""
    return [_decoded(segment) for segment in raw_path.strip("/").split("/")]


def aliases(raw_query: str) -> dict[str, str]:
    """The parameter aliases in a query, `@id` to its literal."""
    pairs = (part.partition("=") for part in raw_query.split("&") if part)
    named = {_decoded(name): _decoded(value) for name, _, value in pairs}
    return {name: value for name, value in named.items() if name.startswith("@")}


def call(segment: str, given: Mapping[str, str]) -> Call:
    """Read `Name(…)`, its aliases replaced by what they are `given` as. Raises `Malformed`."""
    found = _CALL.fullmatch(segment)
    if found is None:
        _refuse(f"'{segment}' calls no function")
    name, inside = found[1], found[2]
    arguments = _split(inside) if inside.strip() else []
    named: dict[str, str] = {}
    for argument in arguments:
        parameter, equals, value = argument.partition("=")
        if equals and not parameter.lstrip().startswith(tuple(_QUOTES)):
            if parameter.strip() in named:
                _refuse(f"The parameter '{parameter.strip()}' is given twice")
            named[parameter.strip()] = _resolved(value.strip(), given)
    return Call(name, tuple(arguments), named)


def string(literal: str) -> str:
    """`'it''s'`. Raises `Malformed`."""
    found = _STRING.fullmatch(literal)
    return found[1].replace("''", "'") if found else _refuse(f"'{literal}' is no string")


def guid(literal: str) -> UUID:
    """A GUID, which has no quotes. Raises `Malformed`."""
    return UUID(literal) if _GUID.fullmatch(literal) else _refuse(f"'{literal}' is no GUID")


def boolean(literal: str) -> bool:
    """`true` or `false`. Raises `Malformed`."""
    return literal == "true" if literal in {"true", "false"} else _refuse(f"'{literal}' is no boolean")


def strings(literal: str) -> list[str]:
    """A collection: a JSON array, or one of texts in single quotes, as some write it. Raises `Malformed`."""
    if not (literal.startswith("[") and literal.endswith("]")):
        _refuse(f"'{literal}' is no collection")
    try:
        values = json.loads(literal)
    except (ValueError, RecursionError):
        values = [string(part.strip()) for part in _split(literal[1:-1])]
    if not all(isinstance(value, str) for value in values):
        _refuse(f"'{literal}' is no collection of strings")
    return list(values)


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return _refuse("The URL is not UTF-8")


def _resolved(value: str, given: Mapping[str, str]) -> str:
    if not value.startswith("@"):
        return value
    return given[value] if value in given else _refuse(f"The parameter alias '{value}' has no value")


def _split(text: str) -> list[str]:
    """Apart at the commas that are neither in quotes nor in brackets. A doubled quote closes and opens again."""
    parts, begin, depth, quote = [], 0, 0, ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[begin:position])
            begin = position + 1
    if quote or depth:
        _refuse("A quote or a bracket is not closed")
    return [*parts, text[begin:]]


def _refuse(message: str) -> NoReturn:
    raise Malformed(f"{message[:300]}.")
