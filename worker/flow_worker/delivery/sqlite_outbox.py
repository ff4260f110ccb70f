"""Keeps the outbox in a table of the journal's SQLite file, in the journal's own transactions.

Workers of earlier versions do not know the table. So it is no part of the file's schema: the first write creates it.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from flow_worker.delivery.store import Row, StoredRow
from flow_worker.journal.sqlite_file import SqliteFile
from flow_worker.journal.transactions import Cost

_T = TypeVar("_T")
_ROW_BYTES = 40 * 1024
"""The log's growth by a row beside its document: the pages of the table and of its two indexes."""
_PURGED_ROW_BYTES = 8 * 1024
_PAGE = 100
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS delivery (key TEXT PRIMARY KEY, sink TEXT NOT NULL, document BLOB NOT NULL, "
    "version INTEGER NOT NULL, due REAL, expires REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS delivery_due ON delivery (sink, due) WHERE due IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS delivery_expires ON delivery (expires)",
)


class SqliteOutbox:
    """An `OutboxStore` in the file of an SQLite journal, which stays the journal's."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def read(self, key: str) -> StoredRow | None:
        """See `OutboxStore.read`."""
        stored: StoredRow | None = await self._read(partial(_read, key=key), None)
        return stored

    async def write(self, row: Row, version: str | None) -> str | None:
        """See `OutboxStore.write`. On a full disk, the results of begun requests come before new records."""
        cost = Cost(_ROW_BYTES + len(row.document) * 101 // 100, is_new=version is None)
        written: str | None = await self._file.run(
            partial(_with_table, partial(_write, row=row, version=version)), cost
        )
        return written

    async def delete(self, key: str, version: str) -> bool:
        """See `OutboxStore.delete`."""
        operation = partial(_delete, key=key, version=int(version))
        is_deleted: bool = await self._file.run(partial(_without_table, operation, False), Cost(_PURGED_ROW_BYTES))
        return is_deleted

    async def due(self, sink: str, now: datetime, limit: int) -> list[StoredRow]:
        """See `OutboxStore.due`."""
        found: list[StoredRow] = await self._read(partial(_due, sink=sink, now=now.timestamp(), limit=limit), [])
        return found

    async def sinks(self) -> list[str]:
        """See `OutboxStore.sinks`."""
        found: list[str] = await self._read(_sinks, [])
        return found

    async def rows(self) -> AsyncIterator[StoredRow]:
        """See `OutboxStore.rows`. It reads in small steps: a long read keeps the workers from emptying their log."""
        page: list[tuple[int, StoredRow]] = await self._read(partial(_page, after=0), [])
        while page:
            for _, row in page:
                yield row
            page = await self._read(partial(_page, after=page[-1][0]), [])

    async def purge(self, now: datetime, limit: int) -> int:
        """See `OutboxStore.purge`."""
        operation = partial(_purge, now=now.timestamp(), limit=limit)
        cost = Cost(limit * _PURGED_ROW_BYTES, slow=True)
        purged: int = await self._file.run(partial(_without_table, operation, 0), cost)
        return purged

    async def close(self) -> None:
        """See `OutboxStore.close`."""

    async def _read(self, operation: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        found: _T = await self._file.run(partial(_without_table, operation, otherwise), Cost())
        return found


def _with_table(operation: Callable[[sqlite3.Connection], _T], connection: sqlite3.Connection) -> _T:
    """Run the operation; if the file has no table yet, create it in the same transaction."""
    try:
        return operation(connection)
    except sqlite3.OperationalError as error:
        if not _is_missing(error):
            raise
    for statement in _SCHEMA:
        connection.execute(statement)
    return operation(connection)


def _without_table(operation: Callable[[sqlite3.Connection], _T], otherwise: _T, connection: sqlite3.Connection) -> _T:
    """Run the operation; return `otherwise` if the file has no table yet."""
    try:
        return operation(connection)
    except sqlite3.OperationalError as error:
        if not _is_missing(error):
            raise
    return otherwise


def _is_missing(error: sqlite3.OperationalError) -> bool:
    return str(error) == "no such table: delivery"


def _read(connection: sqlite3.Connection, key: str) -> StoredRow | None:
    row = connection.execute("SELECT document, version FROM delivery WHERE key = ?", (key,)).fetchone()
    return None if row is None else StoredRow(key, row[0], str(row[1]))


def _write(connection: sqlite3.Connection, row: Row, version: str | None) -> str | None:
    new = random.getrandbits(56)  # random, not counted: a deleted record may come back
    due = None if row.due is None else row.due.timestamp()
    values: tuple[Any, ...] = (row.sink, row.document, new, due, row.expires.timestamp(), row.key)
    if version is None:
        statement = (
            "INSERT INTO delivery (sink, document, version, due, expires, key) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING"
        )
    else:
        statement = (
            "UPDATE delivery SET sink = ?, document = ?, version = ?, due = ?, expires = ? WHERE key = ? "
            "AND version = ?"
        )
        values = (*values, int(version))
    return str(new) if connection.execute(statement, values).rowcount == 1 else None


def _delete(connection: sqlite3.Connection, key: str, version: int) -> bool:
    return connection.execute("DELETE FROM delivery WHERE key = ? AND version = ?", (key, version)).rowcount == 1


def _due(connection: sqlite3.Connection, sink: str, now: float, limit: int) -> list[StoredRow]:
    statement = "SELECT key, document, version FROM delivery WHERE sink = ? AND due <= ? ORDER BY due LIMIT ?"
    return [
        StoredRow(key, text, str(version)) for key, text, version in connection.execute(statement, (sink, now, limit))
    ]


def _sinks(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT DISTINCT sink FROM delivery WHERE due IS NOT NULL")]


def _page(connection: sqlite3.Connection, after: int) -> list[tuple[int, StoredRow]]:
    statement = "SELECT rowid, key, document, version FROM delivery WHERE rowid > ? ORDER BY rowid LIMIT ?"
    rows = connection.execute(statement, (after, _PAGE)).fetchall()
    return [(number, StoredRow(key, text, str(version))) for number, key, text, version in rows]


def _purge(connection: sqlite3.Connection, now: float, limit: int) -> int:
    statement = "DELETE FROM delivery WHERE key IN (SELECT key FROM delivery WHERE expires <= ? LIMIT ?)"
    return connection.execute(statement, (now, limit)).rowcount
