"""Keeps the journal's documents in an SQLite file, for all workers of one machine.

The file must be on a local disk. WAL mode needs shared memory, which network file systems do not offer (sqlite.org,
"Write-Ahead Logging").
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.store import DocumentTooLarge, StoredDocument
from flow_worker.journal.transactions import Operation, Transactions
from flow_worker.settings import InvalidSettings

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE entry (
    key TEXT PRIMARY KEY,
    document BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires REAL NOT NULL
);
CREATE INDEX entry_expires ON entry (expires);
"""
_MAX_BYTES = 256 * 1024 * 1024
_SLOW_BYTES = 256 * 1024
"""Writing a document of this size takes a millisecond. A separate thread writes larger ones."""


class SqliteStore:
    """A store in the file `path`, which several processes of one machine may share."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, busy_seconds: float) -> None:
        self._transactions = Transactions(connection, path, busy_seconds=busy_seconds)
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, busy_seconds: float) -> Self:
        """Create or open the file. Raises `InvalidSettings` if it cannot be used.

        `busy_seconds` is the longest wait for another process that writes.
        """
        return cls(await asyncio.to_thread(connect, path, busy_seconds), path, busy_seconds=busy_seconds)

    async def read(self, key: str) -> StoredDocument | None:
        """See `Store.read`."""
        stored: StoredDocument | None = await self._run(partial(_read, key=key))
        return stored

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, durable: bool = True
    ) -> str | None:
        """See `Store.write`."""
        if len(document) > _MAX_BYTES:
            raise DocumentTooLarge
        operation = partial(_write, key=key, document=document, version=version, expires=expires)
        written: str | None = await self._run(operation, durable=durable, slow=len(document) > _SLOW_BYTES)
        return written

    async def purge(self, now: datetime, limit: int) -> int:
        """See `Store.purge`."""
        purged: int = await self._run(partial(_purge, now=now, limit=limit), slow=True)
        return purged

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True  # before the wait, so that no operation begins during it
        await self._transactions.close()

    async def _run(self, operation: Operation, *, durable: bool = False, slow: bool = False) -> Any:
        if self._closed:
            raise TemporarilyUnavailable("journal_unavailable", "the journal is closed")
        try:
            return await self._transactions.run(operation, durable=durable, slow=slow)
        except sqlite3.Error as error:  # its message names files at most, and quotes no stored value
            raise TemporarilyUnavailable("journal_unavailable", f"the journal failed: {error}") from error


def _read(connection: sqlite3.Connection, key: str) -> StoredDocument | None:
    row = connection.execute("SELECT document, version FROM entry WHERE key = ?", (key,)).fetchone()
    return None if row is None else StoredDocument(row[0], str(row[1]))


def _write(
    connection: sqlite3.Connection, key: str, document: bytes, version: str | None, expires: datetime
) -> str | None:
    # Random, not counted: a counter would start over when an entry expires and a new one takes its place. An old lease
    # could then hold a version that exists again, and would pass the comparison.
    new = random.getrandbits(56)
    values = (document, new, expires.timestamp(), key)
    if version is None:
        statement = "INSERT INTO entry (document, version, expires, key) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        changed = connection.execute(statement, values)
    else:
        statement = "UPDATE entry SET document = ?, version = ?, expires = ? WHERE key = ? AND version = ?"
        changed = connection.execute(statement, (*values, int(version)))
    return str(new) if changed.rowcount == 1 else None


def _purge(connection: sqlite3.Connection, now: datetime, limit: int) -> int:
    statement = "DELETE FROM entry WHERE key IN (SELECT key FROM entry WHERE expires <= ? LIMIT ?)"
    return connection.execute(statement, (now.timestamp(), limit)).rowcount


# --- opening ---------------------------------------------------------------------------------------------------------


def connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """Create the file if needed and return a connection for one thread at a time. Raises `InvalidSettings`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Created here with its mode, as the file holds the outputs of flows; SQLite would apply the umask.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        # check_same_thread: threads use the connection in turn. isolation_level: `Transactions` begins and ends them.
        connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from None
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, error) from None
    except InvalidSettings:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # for the schema; `Transactions` then flushes the log itself
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # also fails for a file that cannot be written
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise InvalidSettings(
                f"journal.path: '{path}' was written by a later version (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); run that version, or name another file"
            )
        if version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _unusable(path: Path, error: Exception) -> InvalidSettings:
    return InvalidSettings(
        f"journal.path: '{path}' cannot be used as the journal ({error}); name a file on a local disk that the worker "
        "may write, or move a damaged file away (the worker then calls requests under way as if for the first time)"
    )
