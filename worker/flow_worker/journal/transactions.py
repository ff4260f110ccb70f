"""Runs operations on one SQLite connection; concurrent ones share a transaction and its wait for the disk.

SQLite needs about 30 µs for an operation. The way to a thread and back costs a busy event loop ten times that. So
operations run on the loop's own thread. Threads do only the work that may block: the disk, the wait for another process
that writes, and the transfer of the write-ahead log into the database file.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

Operation = Callable[[sqlite3.Connection], Any]

_MAX_BATCH = 256
"""Operations in one transaction."""
_CHECKPOINT_AFTER = 1000
"""Operations between two checkpoints, which transfer the log into the database file. SQLite would checkpoint about as
often by itself, but on the event loop's thread.
"""
_MAX_LOG_PAGES = 4_000
"""16 MB. SQLite restarts the log only after the transfer of all of it, and a busy worker adds to it meanwhile. Beyond
this size, writes wait for the transfer.
"""


@dataclass(frozen=True, slots=True)
class _Pending:
    operation: Operation
    durable: bool
    slow: bool
    result: asyncio.Future[Any]


_Completed = tuple[_Pending, Any]
"""An operation and its return value."""


class Transactions:
    """Runs operations on a connection that nothing else uses, for one event loop."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, busy_seconds: float) -> None:
        """`busy_seconds` is the longest wait for another process that writes."""
        self._connection = connection
        self._path = path
        self._busy_ms = int(busy_seconds * 1000)
        self._loop = asyncio.get_running_loop()
        # Not daemon threads: the end of the process must not interrupt a transaction.
        self._threads = ThreadPoolExecutor(2, "journal")
        # A daemon thread: it only flushes, and an operation that is not flushed has not been reported as durable.
        self._to_sync: SimpleQueue[list[_Completed] | None] = SimpleQueue()
        self._syncer = Thread(target=self._keep_syncing, name="journal disk", daemon=True)
        self._syncer.start()
        self._pending: list[_Pending] = []
        self._unsynced: list[_Completed] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_lent = self._is_syncing = self._is_checkpointing = False
        self._log_descriptor: int | None = None
        self._since_checkpoint = 0
        # The loop's thread must never block: SQLite reports a busy database at once, and a thread then waits for it.
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA synchronous = NORMAL")  # a commit does not wait for the disk; see `_sync`

    async def run(self, operation: Operation, *, durable: bool = False, slow: bool = False) -> Any:
        """Return the operation's return value once it is committed. A cancelled operation is not begun.

        With `durable`, return only once it also survives a power cut. `slow` keeps the operation off the loop's
        thread. Raises whatever the operation raises, and `sqlite3.Error`. An error fails all operations of the same
        transaction.
        """
        if not self._pending and not self._is_lent:
            # In the next turn of the loop: all operations that come in this turn share the transaction.
            self._loop.call_soon(self._commit)
        pending = _Pending(operation, durable, slow, self._loop.create_future())
        self._pending.append(pending)
        return await pending.result

    async def close(self) -> None:
        """Finish the operations under way, then close the connection."""
        # A loop, because the end of one operation, flush or checkpoint may start the next.
        while self._pending or self._tasks or self._is_syncing:
            await asyncio.gather(asyncio.sleep(0.001), *self._tasks)
        self._to_sync.put(None)
        await asyncio.to_thread(self._syncer.join)
        await asyncio.to_thread(self._threads.shutdown)
        if self._log_descriptor is not None:
            os.close(self._log_descriptor)
        await asyncio.to_thread(self._connection.close)  # the last connection transfers the log into the file

    # --- committing ----------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Run the pending operations here, or in a thread if they are slow or another process is writing."""
        if self._is_lent:
            return  # the thread's end schedules the next commit
        # A result that is done here belongs to a cancelled caller: its operation has not begun and must not.
        batch = [pending for pending in self._pending[:_MAX_BATCH] if not pending.result.done()]
        del self._pending[:_MAX_BATCH]
        if any(pending.slow for pending in batch):
            self._lend(batch)
            return
        try:
            self._committed(_run_batch(self._connection, batch))
        except Exception as error:  # noqa: BLE001 - an operation's error belongs to its callers
            if _is_busy(error):
                self._lend(batch)
                return
            _fail(batch, error)
        self._commit_next()

    def _lend(self, batch: Sequence[_Pending]) -> None:
        """Lend the connection to a thread that runs the batch. Until the thread ends, operations only queue up."""
        self._is_lent = True
        self._start(self._commit_in_thread(batch))

    async def _commit_in_thread(self, batch: Sequence[_Pending]) -> None:
        try:
            self._committed(await self._in_thread(self._run_batch_patiently, batch))
        except Exception as error:  # noqa: BLE001 - an operation's error belongs to its callers
            _fail(batch, error)
        finally:
            self._is_lent = False
            self._commit_next()

    def _run_batch_patiently(self, batch: Sequence[_Pending]) -> list[_Completed]:
        """Run the batch, but wait for other processes. Only a thread may do that."""
        self._connection.execute(f"PRAGMA busy_timeout = {self._busy_ms}")
        try:
            return _run_batch(self._connection, batch)
        finally:
            self._connection.execute("PRAGMA busy_timeout = 0")

    def _committed(self, completed: Sequence[_Completed]) -> None:
        _resolve([(pending, value) for pending, value in completed if not pending.durable])
        self._unsynced += [(pending, value) for pending, value in completed if pending.durable]
        # One flush at a time: `_synced` starts the next one for everything that was committed meanwhile.
        if not self._is_syncing:
            self._sync()
        self._since_checkpoint += len(completed)
        if self._since_checkpoint >= _CHECKPOINT_AFTER and not self._is_checkpointing:
            self._is_checkpointing = True
            self._start(self._checkpoint())

    def _commit_next(self) -> None:
        if self._pending:
            self._loop.call_soon(self._commit)

    # --- the disk ------------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        """Flush the committed operations to the disk: a transaction is durable once the log is on the disk.

        SQLite's own way, `synchronous = FULL`, would hold the connection, and every other write, until then. Here
        further transactions commit during the flush, and the next flush covers all of them.
        """
        completed, self._unsynced = self._unsynced, []
        self._is_syncing = bool(completed)
        if completed:
            self._to_sync.put(completed)

    def _keep_syncing(self) -> None:
        """Run in one dedicated thread: the way through an executor and back costs as much as the disk."""
        while (completed := self._to_sync.get()) is not None:
            failure = None
            try:
                os.fsync(self._log_file())
            except OSError as error:
                failure = sqlite3.OperationalError(f"the disk did not keep the journal's log: {error}")
            self._loop.call_soon_threadsafe(self._synced, completed, failure)

    def _synced(self, completed: Sequence[_Completed], failure: sqlite3.OperationalError | None) -> None:
        if failure is None:
            _resolve(completed)
        else:
            _fail([pending for pending, _ in completed], failure)
        self._sync()

    def _log_file(self) -> int:
        """Return the log's file descriptor.

        The log stays one file while a connection is open (sqlite.org, "WAL-mode File Format"). SQLite's locks are on
        other files, so closing this descriptor releases none of them.
        """
        if self._log_descriptor is None:
            self._log_descriptor = os.open(f"{self._path}-wal", os.O_RDWR)
        return self._log_descriptor

    async def _checkpoint(self) -> None:
        self._since_checkpoint = 0
        try:
            pages = await self._in_thread(_checkpoint_passively, self._path)
            if pages > _MAX_LOG_PAGES and not self._is_lent:
                await self._restart_log()
        except sqlite3.Error:
            pass  # the log is as safe as the database file, and the next checkpoint comes soon
        finally:
            self._is_checkpointing = False

    async def _restart_log(self) -> None:
        """Transfer the rest of the log while this process does not write; otherwise the rest might never end."""
        self._is_lent = True
        try:
            await self._in_thread(_run_checkpoint, self._connection, "RESTART")
        finally:
            self._is_lent = False
            self._commit_next()

    # --- threads -------------------------------------------------------------------------------------------------

    def _in_thread(self, work: Callable[..., Any], *arguments: object) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(self._threads, work, *arguments)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _run_batch(connection: sqlite3.Connection, batch: Sequence[_Pending]) -> list[_Completed]:
    """Run the operations in one transaction: all of them, or none."""
    if not batch:
        return []
    # IMMEDIATE takes the write lock at once. A transaction that reads first and writes later could fail in the middle:
    # SQLite does not wait for the write lock if the transaction has read before.
    connection.execute("BEGIN IMMEDIATE")
    try:
        completed = [(pending, pending.operation(connection)) for pending in batch]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have rolled back already
            connection.execute("ROLLBACK")
        raise
    return completed


def _is_busy(error: Exception) -> bool:
    """Return whether another process was writing.

    The upper bytes of the code hold details (sqlite.org, "Result and Error Codes").
    """
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _resolve(completed: Sequence[_Completed]) -> None:
    for pending, value in completed:
        if not pending.result.done():
            pending.result.set_result(value)


def _fail(batch: Sequence[_Pending], error: Exception) -> None:
    for pending in batch:
        if not pending.result.done():
            pending.result.set_exception(error)


def _checkpoint_passively(path: Path) -> int:
    """Transfer the log over a separate connection, so that writes can continue. Return the log's pages."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return _run_checkpoint(connection, "PASSIVE")
    finally:
        connection.close()


def _run_checkpoint(connection: sqlite3.Connection, mode: str) -> int:
    pages: int = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[1]
    return pages
