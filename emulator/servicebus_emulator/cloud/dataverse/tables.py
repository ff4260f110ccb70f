"""A table with its system columns, and the rows of all tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from pydantic import JsonValue

from servicebus_emulator.cloud.dataverse.table_definitions import (
    BUILT_IN,
    FLOW_RUNS,
    SYSTEM_USERS,
    ColumnDefinition,
    ColumnType,
    TableDefinition,
)

Action = Literal["Create", "Read", "Write", "Delete", "Append", "AppendTo", "Assign"]
Values = dict[str, JsonValue]
"""The values of a row by the columns' logical names. IDs are in lower case, times in UTC to the second."""

_KeyValues = tuple[JsonValue, ...]

MAX_ROWS = 100_000
"""The rows that the emulator keeps of each table; it drops the oldest beyond that."""
MAX_FLOW_RUNS = 10_000
"""The same for the runs of flows, as for the calls that a flow keeps."""


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
        self.max_rows = MAX_FLOW_RUNS if definition is FLOW_RUNS else MAX_ROWS
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


class _Rows:
    """The rows of a table, with an index of each alternate key."""

    def __init__(self, table: Table) -> None:
        self.by_id: dict[UUID, Row] = {}
        self._by_key: dict[tuple[str, ...], dict[_KeyValues, UUID]] = {}
        self.index(table)

    def index(self, table: Table) -> None:
        """Build the indexes again, for the keys that the table has now."""
        self._by_key = {tuple(sorted(columns)): {} for columns in table.definition.keys.values()}
        for row in self.by_id.values():
            self.add(row)

    def add(self, row: Row) -> None:
        """Add a row, or add it again after a change of its values."""
        self.by_id[row.id] = row
        for columns, ids in self._by_key.items():
            ids[_key_values(row.values, columns)] = row.id

    def remove(self, row_id: UUID) -> bool:
        """Remove a row; return whether there was one."""
        row = self.by_id.pop(row_id, None)
        if row is not None:
            self.forget_keys(row)
        return row is not None

    def forget_keys(self, row: Row) -> None:
        """Take a row out of the indexes, before a change of its values."""
        for columns, ids in self._by_key.items():
            values = _key_values(row.values, columns)
            if ids.get(values) == row.id:
                del ids[values]

    def find(self, key: Mapping[str, JsonValue]) -> Row | None:
        """Return the row with these values of a key's columns."""
        columns = tuple(sorted(key))
        row_id = self._by_key[columns].get(_key_values(key, columns))
        return None if row_id is None else self.by_id[row_id]


class Tables:
    """All tables by entity set, and their rows."""

    def __init__(self, definitions: Iterable[TableDefinition]) -> None:
        self._rows: dict[str, _Rows] = {}
        self._versions = itertools.count(1_000_001)
        self._by_set: dict[str, Table] = {}
        self._by_name: dict[str, Table] = {}
        self._refresh: dict[str, Callable[[], object]] = {}
        self.redefine(definitions)

    def refresh_before_reading(self, set_name: str, refresh: Callable[[], object]) -> None:
        """Call `refresh` before the rows of an entity set are read or deleted."""
        self._refresh[set_name] = refresh

    def redefine(self, definitions: Iterable[TableDefinition]) -> None:
        """Replace the tables; the rows of those that remain are kept."""
        tables = [Table(definition) for definition in (*BUILT_IN, *definitions)]
        self._by_set = {table.set_name: table for table in tables}
        self._by_name = {table.name: table for table in tables}
        kept = self._rows
        self._rows = {table.set_name: kept.get(table.set_name) or _Rows(table) for table in tables}
        for table in tables:
            self._rows[table.set_name].index(table)

    def by_set(self, set_name: str) -> Table | None:
        """Return the table of this entity set."""
        return self._by_set.get(set_name)

    def by_name(self, logical_name: str) -> Table | None:
        """Return the table with this logical name."""
        return self._by_name.get(logical_name)

    def rows(self, table: Table) -> Iterator[Row]:
        """Return the rows, oldest first."""
        return iter(list(self._fresh(table).by_id.values()))

    def get(self, table: Table, row_id: UUID) -> Row | None:
        """Return the row with this ID."""
        return self._fresh(table).by_id.get(row_id)

    def find(self, table: Table, key: Mapping[str, JsonValue]) -> Row | None:
        """Return the row with these values of an alternate key. Text ignores its case, as Dataverse's keys do."""
        return self._fresh(table).find(key)

    def put(self, table: Table, row_id: UUID, values: Values) -> Row:
        """Create the row, or merge values into it."""
        rows = self._rows[table.set_name]
        version = next(self._versions)
        now = timestamp()
        row = rows.by_id.get(row_id)
        if row is None:
            row = Row(row_id, version, table.defaults() | {"createdon": now})
            if len(rows.by_id) >= table.max_rows:
                rows.remove(next(iter(rows.by_id)))
        else:
            rows.forget_keys(row)
        row.values |= {"modifiedon": now} | values | {table.id_column: str(row_id), "versionnumber": version}
        row.version = version
        rows.add(row)
        return row

    def delete(self, table: Table, row_id: UUID | None = None) -> int:
        """Delete the row, or without an ID all rows; return their number."""
        rows = self._fresh(table)
        if row_id is not None:
            return int(rows.remove(row_id))
        count = len(rows.by_id)
        self._rows[table.set_name] = _Rows(table)
        return count

    def _fresh(self, table: Table) -> _Rows:
        if (refresh := self._refresh.get(table.set_name)) is not None:
            refresh()
        return self._rows[table.set_name]


def timestamp(at: datetime | None = None) -> str:
    """Return a time as Dataverse does: in UTC, to the second."""
    return f"{(at or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _key_values(values: Mapping[str, JsonValue], columns: tuple[str, ...]) -> _KeyValues:
    found = (values.get(name) for name in columns)
    return tuple(value.casefold() if isinstance(value, str) else value for value in found)
