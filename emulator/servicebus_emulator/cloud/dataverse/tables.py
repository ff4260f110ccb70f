"""A table with its system columns, and the rows of all tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from pydantic import JsonValue

from servicebus_emulator.cloud.dataverse.table_definitions import (
    BUILT_IN,
    SYSTEM_USERS,
    ColumnDefinition,
    ColumnType,
    TableDefinition,
)

Action = Literal["Create", "Read", "Write", "Delete", "Append", "AppendTo", "Assign"]
Values = dict[str, JsonValue]
"""The values of a row by the columns' logical names. IDs are in lower case, times in UTC to the second."""

MAX_ROWS = 100_000
"""The rows that the emulator keeps of each table; it drops the oldest beyond that."""


def _system(name: str, type_: ColumnType, target: str | None = None) -> ColumnDefinition:
    return ColumnDefinition(name=name, type=type_, target=target, read_only=name != "ownerid")


_USER = SYSTEM_USERS.logical_name
_SYSTEM_COLUMNS = (
    _system("createdon", "DateTime"),
    _system("modifiedon", "DateTime"),
    _system("createdby", "Lookup", _USER),
    _system("createdonbehalfby", "Lookup", _USER),
    _system("modifiedby", "Lookup", _USER),
    _system("modifiedonbehalfby", "Lookup", _USER),
    _system("ownerid", "Lookup", _USER),
    _system("versionnumber", "Integer"),
)
_STATE_COLUMNS = (
    ColumnDefinition(name="statecode", type="Choice", options=(0, 1)),
    ColumnDefinition(name="statuscode", type="Choice", options=(1, 2)),
)


class Table:
    """A table: its columns by name and by their names in queries."""

    def __init__(self, definition: TableDefinition) -> None:
        self.definition = definition
        self.id_column = definition.id_column
        states: tuple[ColumnDefinition, ...] = () if definition.elastic or definition in BUILT_IN else _STATE_COLUMNS
        row_id = ColumnDefinition(name=self.id_column, type="Uniqueidentifier")
        # A definition may replace a system column, such as `statuscode` with options of its own.
        columns: tuple[ColumnDefinition, ...] = (row_id, *_SYSTEM_COLUMNS, *states, *definition.columns)
        self.columns = {column.name: column for column in columns}
        self.by_property = {column.property_name: column for column in self.columns.values()}
        self.by_bind_name = {column.bind_name: column for column in self.columns.values() if column.type == "Lookup"}

    @property
    def name(self) -> str:
        """The logical name."""
        return self.definition.logical_name

    @property
    def set_name(self) -> str:
        """The entity set."""
        return self.definition.set_name

    def privilege(self, action: Action) -> str:
        """Return the privilege that an action needs."""
        return f"prv{action}{self.definition.privilege_name or self.name}"

    def defaults(self) -> Values:
        """Return the values that Dataverse gives a new row."""
        return {"statecode": 0, "statuscode": 1} if "statecode" in self.columns else {}


@dataclass(slots=True)
class Row:
    """A row. `values` lacks the columns that were never set: they are null."""

    id: UUID
    version: int
    values: Values = field(default_factory=dict)

    @property
    def etag(self) -> str:
        """The version as an entity tag."""
        return f'W/"{self.version}"'


class Tables:
    """All tables by entity set, and their rows."""

    def __init__(self, definitions: Iterable[TableDefinition]) -> None:
        self._rows: dict[str, dict[UUID, Row]] = {}
        self._versions = itertools.count(1_000_001)
        self._by_set: dict[str, Table] = {}
        self._by_name: dict[str, Table] = {}
        self.redefine(definitions)

    def redefine(self, definitions: Iterable[TableDefinition]) -> None:
        """Replace the tables; the rows of those that remain are kept."""
        tables = [Table(definition) for definition in (*BUILT_IN, *definitions)]
        self._by_set = {table.set_name: table for table in tables}
        self._by_name = {table.name: table for table in tables}
        self._rows = {name: rows for name, rows in self._rows.items() if name in self._by_set}

    def by_set(self, set_name: str) -> Table | None:
        """Return the table of this entity set."""
        return self._by_set.get(set_name)

    def by_name(self, logical_name: str) -> Table | None:
        """Return the table with this logical name."""
        return self._by_name.get(logical_name)

    def rows(self, table: Table) -> Iterator[Row]:
        """Return the rows, oldest first."""
        return iter(list(self._rows.get(table.set_name, {}).values()))

    def get(self, table: Table, row_id: UUID) -> Row | None:
        """Return the row with this ID."""
        return self._rows.get(table.set_name, {}).get(row_id)

    def find(self, table: Table, key: Mapping[str, JsonValue]) -> Row | None:
        """Return the row with these column values. Text ignores its case, as the keys of Dataverse do."""
        return next((row for row in self.rows(table) if _has(row.values, key)), None)

    def put(self, table: Table, row_id: UUID, values: Values) -> Row:
        """Create the row, or merge values into it."""
        rows = self._rows.setdefault(table.set_name, {})
        version = next(self._versions)
        now = timestamp()
        row = rows.get(row_id)
        if row is None:
            row = rows[row_id] = Row(row_id, version, table.defaults() | {"createdon": now})
            if len(rows) > MAX_ROWS:
                del rows[next(iter(rows))]
        row.values |= {"modifiedon": now} | values | {table.id_column: str(row_id), "versionnumber": version}
        row.version = version
        return row

    def delete(self, table: Table, row_id: UUID | None = None) -> int:
        """Delete the row, or without an ID all rows; return their number."""
        rows = self._rows.get(table.set_name, {})
        if row_id is not None:
            return 0 if rows.pop(row_id, None) is None else 1
        count = len(rows)
        rows.clear()
        return count


def timestamp(at: datetime | None = None) -> str:
    """Return a time as Dataverse does: in UTC, to the second."""
    return f"{(at or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _has(values: Values, key: Mapping[str, JsonValue]) -> bool:
    return all(_same(values.get(name), value) for name, value in key.items())


def _same(one: JsonValue, other: JsonValue) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one.casefold() == other.casefold()
    return one == other
