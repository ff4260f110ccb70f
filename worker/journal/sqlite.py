"""The journal's documents in an SQLite file: for all workers on one machine, with nothing to install.

One thread owns the connection. Operations that wait at the same time share one transaction, and so its wait for the
disk. The file must lie on a local disk: WAL mode needs shared memory, which network file systems do not give
(sqlite.org, "Write-Ahead Logging").
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from worker.errors import NotKnownYet
from worker.journal.store import Stored, TooLarge
from worker.settings import InvalidSettings

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE entry (
    key TEXT PRIMARY KEY,
    document BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX entry_expires ON entry (expires);
"""
_MOST_TOGETHER = 256
"""Operations in one transaction."""
_MOST_BYTES = 256 * 1024 * 1024

Work = Callable[[sqlite3.Connection], Any]


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work
    lasting: bool
    """It must outlive a power cut."""
    done: Future[Any] = field(default_factory=Future)


class SqliteStore:
    """A store in the file `path`. Several processes of one machine may share it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        # Not a daemon: a process that ends must not tear a transaction.
        self._thread = threading.Thread(target=self._serve, name="journal")
        self._thread.start()

    @classmethod
    async def open(cls, path: Path, *, busy_seconds: float) -> Self:
        """Make or open the file. `busy_seconds`: how long to wait for another process. Raises `InvalidSettings`."""
        return cls(await asyncio.to_thread(connect, path, busy_seconds))

    async def read(self, key: str) -> Stored | None:
        """See `Store.read`."""
        found: Stored | None = await self._done(lambda connection: _read(connection, key))
        return found

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, lasting: bool = True
    ) -> str | None:
        """See `Store.write`."""
        if len(document) > _MOST_BYTES:
            raise TooLarge
        written: str | None = await self._done(
            lambda connection: _write(connection, key, document, version, expires), lasting=lasting
        )
        return written

    async def purge(self, now: datetime, most: int) -> int:
        """See `Store.purge`."""
        purged: int = await self._done(lambda connection: _purge(connection, now, most))
        return purged

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _done(self, work: Work, *, lasting: bool = False) -> Any:
        if self._closed:
            raise NotKnownYet("journal_unavailable", "the journal is closed")
        job = _Job(work, lasting)
        self._jobs.put(job)
        return await asyncio.wrap_future(job.done)  # a job whose caller is gone before it is begun is not begun

    # --- in the thread -------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        with closing(self._connection):
            open_ = True
            while open_:
                waiting = self._waiting()
                open_ = None not in waiting
                jobs = [job for job in waiting if job is not None and job.done.set_running_or_notify_cancel()]
                _together(self._connection, jobs)

    def _waiting(self) -> list[_Job | None]:
        """All jobs there are, at least one; None as the last one: there will be no more."""
        waiting = [self._jobs.get()]
        while waiting[-1] is not None and len(waiting) < _MOST_TOGETHER:
            try:
                waiting.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        return waiting


def _together(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
    """Do the jobs in one transaction: all of them, or none. Nobody hears of success before it is kept."""
    if not jobs:
        return
    try:
        # In WAL mode only FULL waits for the disk at each commit (sqlite.org, "PRAGMA synchronous"), and that is dear.
        connection.execute(f"PRAGMA synchronous = {'FULL' if any(job.lasting for job in jobs) else 'NORMAL'}")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            results = [job.work(connection) for job in jobs]
    except Exception as error:  # noqa: BLE001 - whatever it was, the callers must hear of it and the thread must live on
        _all_failed(jobs, error)
    else:
        for job, result in zip(jobs, results, strict=True):
            job.done.set_result(result)


def _all_failed(jobs: Sequence[_Job], error: Exception) -> None:
    # The message of an sqlite3 error names files at most; it never quotes what is stored.
    known = isinstance(error, sqlite3.Error)
    for job in jobs:
        job.done.set_exception(NotKnownYet("journal_unavailable", f"the journal failed: {error}") if known else error)


def _read(connection: sqlite3.Connection, key: str) -> Stored | None:
    row = connection.execute("SELECT document, version FROM entry WHERE key = ?", (key,)).fetchone()
    return None if row is None else Stored(row[0], str(row[1]))


def _write(
    connection: sqlite3.Connection, key: str, document: bytes, version: str | None, expires: datetime
) -> str | None:
    # An entry that expires and is made anew must not get a version that it had before, so versions are random.
    new = int.from_bytes(os.urandom(7), "big")
    values = (document, new, expires.timestamp(), key)
    if version is None:
        statement = "INSERT INTO entry (document, version, expires, key) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        changed = connection.execute(statement, values)
    else:
        statement = "UPDATE entry SET document = ?, version = ?, expires = ? WHERE key = ? AND version = ?"
        changed = connection.execute(statement, (*values, int(version)))
    return str(new) if changed.rowcount == 1 else None


def _purge(connection: sqlite3.Connection, now: datetime, most: int) -> int:
    statement = "DELETE FROM entry WHERE key IN (SELECT key FROM entry WHERE expires <= ? LIMIT ?)"
    return connection.execute(statement, (now.timestamp(), most)).rowcount


# --- opening ---------------------------------------------------------------------------------------------------------


def connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """A connection to the file, which is made if need be, for one thread at a time. Raises `InvalidSettings`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds flows' outputs; SQLite would ask the umask
        # The thread takes the connection over; isolation_level None: it begins its transactions itself.
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
    connection.execute("PRAGMA synchronous = FULL")
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # also tells a file that cannot be written
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise InvalidSettings(
                f"journal.path: '{path}' was written by a later version (schema {found}, this one knows "
                f"{SCHEMA_VERSION}); run that version, or name another file"
            )
        if found == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _unusable(path: Path, error: Exception) -> InvalidSettings:
    return InvalidSettings(
        f"journal.path: '{path}' cannot be used as the journal ({error}); name a file on a local disk that the worker "
        "may write, or move a damaged one away (requests under way are then called as if for the first time)"
    )
