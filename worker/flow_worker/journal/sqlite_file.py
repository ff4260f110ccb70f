"""An SQLite file that several processes of one machine share: opened once it is possible, and again after a failure.

The file must be on a local disk. WAL mode needs shared memory, which network file systems do not offer (sqlite.org,
"Write-Ahead Logging").
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.kind import FileKind
from flow_worker.journal.opening import OpenJournal, open_file
from flow_worker.journal.reading import Reading
from flow_worker.journal.sqlite_errors import is_busy
from flow_worker.journal.transactions import Cost, Operation, Transactions
from flow_worker.settings import InvalidSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_REOPEN_EVERY_SECONDS = 0.5
_FAILURES = (sqlite3.Error, OSError, InvalidSettings)


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


class SqliteFile:
    """The file `path` of one kind."""

    def __init__(self, path: Path, limits: SqliteLimits, kind: FileKind) -> None:
        self._path = path
        self._limits = limits
        self._kind = kind
        self._transactions: Transactions | None = None
        self._reading: Reading | None = None
        self._opening: asyncio.Task[Transactions] | None = None
        self._open_again_at = float("-inf")
        self._closed = False

    @classmethod
    async def open(cls, path: Path, limits: SqliteLimits, kind: FileKind) -> Self:
        """Create or open the file. Raises `InvalidSettings` if it can never be used.

        The process also starts if the disk is full or the file is locked now; each operation then tries to open it.
        """
        file = cls(path, limits, kind)
        try:
            await file._opened()
        except TemporarilyUnavailable as error:
            message = f"The {kind.process} cannot open the {kind.name} yet: {error}"
            log(_log, logging.WARNING, kind.unreachable_event, message)
        return file

    @property
    def log_bytes(self) -> int | None:
        """The bytes of the write-ahead log in use; None while the file is not open."""
        return None if self._transactions is None else self._transactions.log_bytes

    async def run(self, operation: Operation, cost: Cost) -> Any:
        """Return the operation's return value once it is committed; see `Transactions.run`.

        Raises `TemporarilyUnavailable`.
        """
        self._require_open()
        try:
            transactions = self._transactions or await self._opened()
            return await transactions.run(operation, cost)
        except _FAILURES as error:
            raise self._unavailable(error) from error

    async def read(self, operation: Operation) -> Any:
        """Run one statement that only reads a little, at once and beside the writes. Raises `TemporarilyUnavailable`.

        It sees every transaction that is committed.
        """
        self._require_open()
        try:
            return (self._reading or await self._open_reading()).run(operation)
        except _FAILURES as error:
            if not is_busy(error):  # as it is while another process recovers the log of a killed one
                raise self._unavailable(error) from error
        return await self.run(operation, Cost())

    async def has_changed(self) -> bool:
        """Return whether any process has committed since the last call. Raises `TemporarilyUnavailable`."""
        self._require_open()
        try:
            return (self._reading or await self._open_reading()).has_changed()
        except _FAILURES as error:
            raise self._unavailable(error) from error

    async def _open_reading(self) -> Reading:
        transactions = await self._opened()
        if self._reading is None:  # another task may have opened it meanwhile
            self._reading = Reading(transactions.files)
        return self._reading

    def _require_open(self) -> None:
        if self._closed:
            raise TemporarilyUnavailable(self._kind.code, f"the {self._kind.name} is closed")

    def _unavailable(self, error: Exception) -> TemporarilyUnavailable:
        # SQLite's message names files at most, and quotes no stored value. Settings: the file was usable by its kind at
        # the start, and may be again.
        text = str(error) if isinstance(error, InvalidSettings) else f"the {self._kind.name} failed: {error}"
        return TemporarilyUnavailable(self._kind.code, text)

    async def close(self) -> None:
        """Finish the operations under way, then close the file."""
        self._closed = True  # before the wait, so that no operation begins during it
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._reading is not None:
            self._reading.close()
        if self._transactions is not None:
            await self._transactions.close()

    async def _opened(self) -> Transactions:
        """Open the file, once for all operations that wait for it."""
        if self._opening is None or (self._opening.done() and time.monotonic() > self._open_again_at):
            self._opening = asyncio.create_task(self._open(), name=f"open the {self._kind.name}")
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
            kind=self._kind,
        )
        try:
            self._transactions = Transactions(await asyncio.to_thread(opening), busy_seconds=limits.busy_seconds)
        finally:
            self._open_again_at = time.monotonic() + _REOPEN_EVERY_SECONDS
        return self._transactions
