"""Parses the OData URLs of function calls: segments, inline parameters, parameter aliases and literals.

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
_MAX_MESSAGE = 300


class MalformedUrl(ValueError):
    """The URL violates OData's grammar; the message says where."""


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A segment such as `Name(first=1,@second)`. Its arguments are literals as the URL has them."""

    name: str
    arguments: tuple[str, ...]
    named: Mapping[str, str]

    def literal(self, name: str) -> str:
        """Return a required argument. Raise `MalformedUrl` if it is missing."""
        try:
            return self.named[name]
        except KeyError:
            return _refuse(f"The parameter '{name}' of '{self.name}' is missing")


def segments(raw_path: str) -> list[str]:
    """Split a path into decoded segments. Raise `MalformedUrl` unless they are UTF-8."""
    # Splitting comes first: an encoded slash is part of its segment.
    return [_decoded(segment) for segment in raw_path.strip("/").split("/")]


def aliases(raw_query: str) -> dict[str, str]:
    """Return the query's parameter aliases, `@id` to its literal. Raise `MalformedUrl` unless they are UTF-8."""
    pairs = (part.partition("=") for part in raw_query.split("&") if part)
    named = {_decoded(name): _decoded(value) for name, _, value in pairs}
    return {name: value for name, value in named.items() if name.startswith("@")}


def call(segment: str, literals: Mapping[str, str]) -> FunctionCall:
    """Parse `Name(…)` and replace aliases by their `literals`. Raise `MalformedUrl` for any other segment."""
    match = _CALL.fullmatch(segment)
    if match is None:
        _refuse(f"'{segment}' calls no function")
    name, inside = match[1], match[2]
    arguments = _split(inside) if inside.strip() else []
    named: dict[str, str] = {}
    for argument in arguments:
        parameter, equals, value = argument.partition("=")
        if equals and not parameter.lstrip().startswith(tuple(_QUOTES)):
            if parameter.strip() in named:
                _refuse(f"The parameter '{parameter.strip()}' is given twice")
            named[parameter.strip()] = _resolved(value.strip(), literals)
    return FunctionCall(name, tuple(arguments), named)


def string(literal: str) -> str:
    """Return the value of a string literal such as `'it''s'`. Raise `MalformedUrl` for any other literal."""
    match = _STRING.fullmatch(literal)
    return match[1].replace("''", "'") if match else _refuse(f"'{literal}' is no string")


def guid(literal: str) -> UUID:
    """Return the value of a GUID literal, which has no quotes. Raise `MalformedUrl` for any other literal."""
    return UUID(literal) if _GUID.fullmatch(literal) else _refuse(f"'{literal}' is no GUID")


def boolean(literal: str) -> bool:
    """Return the value of `true` or `false`. Raise `MalformedUrl` for any other literal."""
    return literal == "true" if literal in {"true", "false"} else _refuse(f"'{literal}' is no boolean")


def strings(literal: str) -> list[str]:
    """Return a collection of strings. Raise `MalformedUrl` for any other literal.

    The collection is a JSON array (OData), or has strings in single quotes, as some clients write it.
    """
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


def _resolved(value: str, literals: Mapping[str, str]) -> str:
    if not value.startswith("@"):
        return value
    return literals[value] if value in literals else _refuse(f"The parameter alias '{value}' has no value")


def _split(text: str) -> list[str]:
    """Split at the commas outside quotes and brackets. A doubled quote closes its string and opens it again."""
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
    raise MalformedUrl(f"{message[:_MAX_MESSAGE]}.")
