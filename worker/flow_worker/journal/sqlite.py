"""Keeps the journal's documents in an SQLite file, for all workers of one machine.

The file must be on a local disk. WAL mode needs shared memory, which network file systems do not offer (sqlite.org,
"Write-Ahead Logging").
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.opening import OpenJournal, open_file
from flow_worker.journal.sqlite_errors import is_full
from flow_worker.journal.store import PROBE_KEY, DocumentTooLarge, StoredDocument
from flow_worker.journal.transactions import Cost, Operation, Transactions
from flow_worker.settings import InvalidSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_SLOW_BYTES = 256 * 1024
"""Writing a document of this size takes a millisecond. A separate thread writes larger ones."""
_ENTRY_BYTES = 40 * 1024
"""The log's growth by an entry beside its document: the pages of the table and of its two indexes."""
_PURGED_ENTRY_BYTES = 8 * 1024
_SMALL_PURGE = 20
"""Entries of one transaction on a full disk, where the log has little room."""
_REOPEN_EVERY_SECONDS = 0.5
_PAGE = 100
"""Documents of one step of a listing."""


@dataclass(frozen=True, slots=True)
class SqliteLimits:
    """The waits and sizes of a store."""

    busy_seconds: float
    """The longest wait for another process that writes."""
    max_log_bytes: int
    reserve_bytes: int

    @property
    def max_document_bytes(self) -> int:
        """The largest document: a part of the log, so that the log never grows beyond its bound for one document."""
        return self.max_log_bytes * 3 // 4


class SqliteStore:
    """A store in the file `path`, which several processes of one machine may share."""

    def __init__(self, path: Path, limits: SqliteLimits) -> None:
        self._path = path
        self._limits = limits
        self._transactions: Transactions | None = None
        self._opening: asyncio.Task[Transactions] | None = None
        self._open_again_at = float("-inf")
        self._closed = False

    @classmethod
    async def open(cls, path: Path, limits: SqliteLimits) -> Self:
        """Create or open the file. Raises `InvalidSettings` if it can never be used.

        The worker also starts if the disk is full or the file is locked now; each operation then tries to open it.
        """
        store = cls(path, limits)
        try:
            await store._opened()
        except TemporarilyUnavailable as error:
            message = f"The worker cannot open the journal yet: {error}"
            log(_log, logging.WARNING, "journal.unreachable", message)
        return store

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
    def log_bytes(self) -> int | None:
        """The bytes of the write-ahead log in use; None while the file is not open."""
        return None if self._transactions is None else self._transactions.log_bytes

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True  # before the wait, so that no operation begins during it
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._transactions is not None:
            await self._transactions.close()

    async def _purge(self, now: datetime, limit: int) -> int:
        log_bytes = min(limit * _PURGED_ENTRY_BYTES, self._limits.max_document_bytes)
        purged: int = await self._run(partial(_purge, now=now, limit=limit), Cost(log_bytes, slow=True))
        return purged

    async def _run(self, operation: Operation, cost: Cost) -> Any:
        if self._closed:
            raise TemporarilyUnavailable("journal_unavailable", "the journal is closed")
        try:
            transactions = self._transactions or await self._opened()
            return await transactions.run(operation, cost)
        except (sqlite3.Error, OSError) as error:  # the message names files at most, and quotes no stored value
            raise TemporarilyUnavailable("journal_unavailable", f"the journal failed: {error}") from error
        except InvalidSettings as error:  # the file was usable by its kind at the start, and may be again
            raise TemporarilyUnavailable("journal_unavailable", str(error)) from error

    # --- opening -----------------------------------------------------------------------------------------------------

    async def _opened(self) -> Transactions:
        """Open the file, once for all operations that wait for it."""
        if self._opening is None or (self._opening.done() and time.monotonic() > self._open_again_at):
            self._opening = asyncio.create_task(self._open(), name="open the journal")
        # The shield protects the opening from the deadline of one operation: a connection would stay open unused.
        return await asyncio.shield(self._opening)

    async def _open(self) -> Transactions:
        limits = self._limits
        opening: Callable[[], OpenJournal] = partial(
            open_file,
            self._path,
            busy_seconds=limits.busy_seconds,
            max_log_bytes=limits.max_log_bytes,
            reserve_bytes=limits.reserve_bytes,
        )
        try:
            self._transactions = Transactions(await asyncio.to_thread(opening), busy_seconds=limits.busy_seconds)
        finally:
            self._open_again_at = time.monotonic() + _REOPEN_EVERY_SECONDS
        return self._transactions


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
