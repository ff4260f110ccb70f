"""Parses and applies `$filter`: comparisons, `and`, `or`, `not`, parentheses, and three functions of text.

Source: OData Version 4.01, Part 2: URL Conventions, section 5.1.1. Text ignores its case, as the collation of
Dataverse's SQL tables does. No document says how elastic tables compare; the emulator compares theirs with case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NoReturn

from pydantic import JsonValue

from servicebus_emulator.cloud.dataverse.payload import parse_time
from servicebus_emulator.cloud.dataverse.table_definitions import ColumnDefinition
from servicebus_emulator.cloud.dataverse.tables import Table, Values
from servicebus_emulator.cloud.dataverse.web_api_errors import UNKNOWN_PROPERTY, WebApiError

Predicate = Callable[[Values], bool]
Kind = Literal["string", "guid", "number", "boolean", "datetime", "null"]
_Comparable = str | float | datetime | bool | None

MAX_DEPTH = 50
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>'(?:[^']|'')*')
    | (?P<guid>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![\w-]))
    | (?P<datetime>\d{4}-\d\d-\d\d(?:T[0-9:.]+(?:Z|[+-]\d\d:\d\d))?(?![\w-]))
    | (?P<number>-?\d{1,30}(?:\.\d{1,30})?(?![\w.]))
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<mark>[(),])
    )""",
    re.VERBOSE,
)
_KINDS: dict[str, Kind] = {
    "String": "string",
    "Memo": "string",
    "Integer": "number",
    "Decimal": "number",
    "Choice": "number",
    "Boolean": "boolean",
    "DateTime": "datetime",
    "Uniqueidentifier": "guid",
    "Lookup": "guid",
}
_EDM: dict[Kind, str] = {
    "string": "Edm.String",
    "guid": "Edm.Guid",
    "number": "Edm.Int32",
    "boolean": "Edm.Boolean",
    "datetime": "Edm.DateTimeOffset",
}
_OPERATORS: dict[str, tuple[str, Callable[[int], bool]]] = {
    "eq": ("Equal", lambda order: order == 0),
    "ne": ("NotEqual", lambda order: order != 0),
    "gt": ("GreaterThan", lambda order: order > 0),
    "ge": ("GreaterThanOrEqual", lambda order: order >= 0),
    "lt": ("LessThan", lambda order: order < 0),
    "le": ("LessThanOrEqual", lambda order: order <= 0),
}
_FUNCTIONS: dict[str, Callable[[str, str], bool]] = {
    "startswith": str.startswith,
    "endswith": str.endswith,
    "contains": lambda text, part: part in text,
}


@dataclass(frozen=True, slots=True)
class _Operand:
    kind: Kind
    read: Callable[[Values], _Comparable]


def parse_filter(text: str, table: Table) -> Predicate:
    """Return the test of a row. Raise `WebApiError` for a mistake in the filter or an unknown column."""
    parser = _Parser(text, table)
    predicate = parser.disjunction(0)
    if parser.next() is not None:
        parser.refuse()
    return predicate


def comparable(column: ColumnDefinition, value: JsonValue, *, with_case: bool) -> _Comparable:
    """Return a stored value in the form that is compared."""
    if isinstance(value, str):
        if column.type == "DateTime":
            return parse_time(value)
        return value if with_case else value.casefold()
    return value if value is None or isinstance(value, bool | int | float) else str(value)


class _Parser:
    def __init__(self, text: str, table: Table) -> None:
        self._text = text
        self._table = table
        self._tokens = list(self._split(text))
        self._at = 0

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        position, end = 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                self._at = 0
                _refuse(f"Syntax error at position {position} in '{text}'")
            yield match.lastgroup, match[match.lastgroup]
            position = match.end()

    def next(self) -> tuple[str, str] | None:
        """Return the next token without taking it; None at the end."""
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def refuse(self) -> NoReturn:
        """Raise the error for the next token."""
        token = self.next()
        found = "the end" if token is None else f"'{token[1]}'"
        _refuse(f"Syntax error: {found} was not expected in '{self._text}'")

    def disjunction(self, depth: int) -> Predicate:
        """Parse terms joined by `or`."""
        parts = [self._conjunction(depth)]
        while self._takes("or"):
            parts.append(self._conjunction(depth))
        return parts[0] if len(parts) == 1 else lambda values: any(part(values) for part in parts)

    def _conjunction(self, depth: int) -> Predicate:
        parts = [self._negation(depth)]
        while self._takes("and"):
            parts.append(self._negation(depth))
        return parts[0] if len(parts) == 1 else lambda values: all(part(values) for part in parts)

    def _negation(self, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            _refuse("The filter is nested too deeply")
        if self._takes("not"):
            inner = self._negation(depth + 1)
            return lambda values: not inner(values)
        if self._takes("("):
            grouped = self.disjunction(depth + 1)
            self._expect(")")
            return grouped
        return self._test()

    def _test(self) -> Predicate:
        token = self.next()
        following = self._tokens[self._at + 1] if self._at + 1 < len(self._tokens) else None
        if token is not None and token[0] == "word" and following == ("mark", "("):
            return self._function(token[1])
        left = self._operand()
        operator = self.next()
        if operator is None or operator[0] != "word" or operator[1] not in _OPERATORS:
            self.refuse()
        self._at += 1
        return _comparison(left, operator[1], self._operand())

    def _function(self, name: str) -> Predicate:
        apply = _FUNCTIONS.get(name)
        if apply is None:
            _refuse(f"An unknown function with name '{name}' was found")
        self._at += 1
        self._expect("(")
        text = self._operand()
        self._expect(",")
        part = self._operand()
        self._expect(")")
        if (text.kind, part.kind) != ("string", "string"):
            _refuse(f"The function '{name}' takes two strings")

        def test(values: Values) -> bool:
            one, other = text.read(values), part.read(values)
            return isinstance(one, str) and isinstance(other, str) and apply(one, other)

        return test

    def _operand(self) -> _Operand:
        token = self.next()
        if token is None or token[0] == "mark":
            self.refuse()
        kind, text = token
        self._at += 1
        match kind:
            case "word" if text in {"true", "false"}:
                return _constant("boolean", text == "true")
            case "word" if text == "null":
                return _constant("null", None)
            case "word":
                return self._property(text)
            case "string":
                value = text[1:-1].replace("''", "'")
                return _constant("string", value if self._table.definition.elastic else value.casefold())
            case "guid":
                return _constant("guid", text.lower())
            case "number":
                return _constant("number", float(text) if "." in text else int(text))
            case _:
                return _constant("datetime", parse_time(text) or _refuse(f"'{text}' is no time"))

    def _property(self, name: str) -> _Operand:
        column = self._table.by_property.get(name)
        if column is None:
            raise unknown_property(name, self._table)
        with_case = self._table.definition.elastic
        return _Operand(
            _KINDS[column.type], lambda values: comparable(column, values.get(column.name), with_case=with_case)
        )

    def _takes(self, text: str) -> bool:
        token = self.next()
        if token is None or token[0] not in {"word", "mark"} or token[1] != text:
            return False
        self._at += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            self.refuse()


def _constant(kind: Kind, value: _Comparable) -> _Operand:
    return _Operand(kind, lambda _: value)


def _comparison(left: _Operand, operator: str, right: _Operand) -> Predicate:
    name, holds = _OPERATORS[operator]
    kinds = {left.kind, right.kind} - {"null"}
    if len(kinds) > 1:
        _refuse(
            "A binary operator with incompatible types was detected. Found operand types "
            f"'{_EDM[left.kind]}' and '{_EDM[right.kind]}' for operator kind '{name}'"
        )

    def test(values: Values) -> bool:
        one, other = left.read(values), right.read(values)
        if one is None or other is None:
            # OData, section 5.1.1.1: null equals null only, and is neither less nor greater than a value.
            return operator in {"eq", "ne"} and (one is other) == (operator == "eq")
        return holds(_order(one, other))

    return test


def _order(one: object, other: object) -> int:
    """Return -1, 0 or 1. Both have the same kind."""
    return 0 if one == other else -1 if one < other else 1  # type: ignore[operator]  # the parser compared the kinds


def unknown_property(name: str, table: Table) -> WebApiError:
    """Return the answer to a query for a column that the table lacks."""
    text = f"Could not find a property named '{name[:300]}' on type 'Microsoft.Dynamics.CRM.{table.name}'."
    return WebApiError(400, UNKNOWN_PROPERTY, text)


def _refuse(message: str) -> NoReturn:
    raise WebApiError(400, UNKNOWN_PROPERTY, f"{message[:500]}.")
