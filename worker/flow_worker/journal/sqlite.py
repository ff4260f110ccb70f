"""Keeps the journal's documents in an SQLite file, for all workers of one machine."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Self

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.kind import JOURNAL
from flow_worker.journal.sqlite_errors import is_full
from flow_worker.journal.sqlite_file import SqliteFile, SqliteLimits
from flow_worker.journal.store import PROBE_KEY, DocumentTooLarge, StoredDocument
from flow_worker.journal.transactions import Cost

_SLOW_BYTES = 256 * 1024
"""Writing a document of this size takes a millisecond. A separate thread writes larger ones."""
_ENTRY_BYTES = 40 * 1024
"""The log's growth by an entry beside its document: the pages of the table and of its two indexes."""
_PURGED_ENTRY_BYTES = 8 * 1024
_SMALL_PURGE = 20
"""Entries of one transaction on a full disk, where the log has little room."""
_PAGE = 100
"""Documents of one step of a listing."""


class SqliteStore:
    """A store in the file `path`, which several processes of one machine may share."""

    def __init__(self, file: SqliteFile, limits: SqliteLimits) -> None:
        self._file = file
        self._limits = limits
        self._run = file.run

    @classmethod
    async def open(cls, path: Path, limits: SqliteLimits) -> Self:
        """Create or open the file. Raises `InvalidSettings` if it can never be used; see `SqliteFile.open`."""
        return cls(await SqliteFile.open(path, limits, JOURNAL), limits)

    async def read(self, key: str) -> StoredDocument | None:
        """See `Store.read`."""
        stored: StoredDocument | None = await self._run(partial(_read, key=key), Cost())
        return stored

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, durable: bool = True
    ) -> str | None:
        """See `Store.write`."""
        if len(document) > self._limits.max_document_bytes:
            raise DocumentTooLarge
        operation = partial(_write, key=key, document=document, version=version, expires=expires)
        log_bytes = _ENTRY_BYTES + len(document) * 101 // 100  # every page has a header in the log
        cost = Cost(log_bytes, durable, slow=len(document) > _SLOW_BYTES, is_new=version is None)
        written: str | None = await self._run(operation, cost)
        return written

    async def documents(self) -> AsyncIterator[bytes]:
        """See `Listing.documents`. It reads in small steps: a long read keeps the workers from emptying their log."""
        last = 0
        while rows := await self._run(partial(_page, after=last), Cost()):
            for last, document in rows:  # noqa: B007 - the last one of the page begins the next
                yield document

    async def probe(self, expires: datetime) -> None:
        """See `Store.probe`."""
        await self._run(partial(_probe, expires=expires), Cost(_ENTRY_BYTES, durable=True, is_new=True))

    async def purge(self, now: datetime, limit: int) -> int:
        """See `Store.purge`. On a full disk it deletes in small steps, whose log may still find room."""
        try:
            return await self._purge(now, limit)
        except TemporarilyUnavailable as error:
            if error.__cause__ is None or not is_full(error.__cause__):
                raise
        purged = 0
        while purged < limit:
            purged += (step := await self._purge(now, _SMALL_PURGE))
            if step < _SMALL_PURGE:
                break
        return purged

    @property
    def file(self) -> SqliteFile:
        """The file, for another table beside the journal's."""
        return self._file

    @property
    def log_bytes(self) -> int | None:
        """The bytes of the write-ahead log in use; None while the file is not open."""
        return self._file.log_bytes

    async def close(self) -> None:
        """See `Store.close`."""
        await self._file.close()

    async def _purge(self, now: datetime, limit: int) -> int:
        log_bytes = min(limit * _PURGED_ENTRY_BYTES, self._limits.max_document_bytes)
        purged: int = await self._run(partial(_purge, now=now, limit=limit), Cost(log_bytes, slow=True))
        return purged


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


def _page(connection: sqlite3.Connection, after: int) -> list[tuple[int, bytes]]:
    statement = "SELECT rowid, document FROM entry WHERE rowid > ? ORDER BY rowid LIMIT ?"
    return connection.execute(statement, (after, _PAGE)).fetchall()


def _probe(connection: sqlite3.Connection, expires: datetime) -> bool:
    statement = "INSERT OR REPLACE INTO entry (document, version, expires, key) VALUES (?, ?, ?, ?)"
    connection.execute(statement, (b"", random.getrandbits(56), expires.timestamp(), PROBE_KEY))
    return True


def _purge(connection: sqlite3.Connection, now: datetime, limit: int) -> int:
    statement = "DELETE FROM entry WHERE key IN (SELECT key FROM entry WHERE expires <= ? LIMIT ?)"
    return connection.execute(statement, (now.timestamp(), limit)).rowcount
