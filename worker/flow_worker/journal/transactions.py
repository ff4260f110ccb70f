"""Runs operations on one SQLite connection; concurrent ones share a transaction and its wait for the disk.

SQLite needs about 30 µs for an operation. The way to a thread and back costs a busy event loop ten times that. So
operations run on the loop's own thread. Threads do only the work that may block: the disk, the wait for another process
that writes, and the transfer of the write-ahead log into the database file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

from flow_worker.journal.opening import OpenJournal
from flow_worker.journal.sqlite_errors import DiskIsFull, LogIsFull, is_busy, is_full
from flow_worker.journal.store import StoreReplaced
from flow_worker.journal.write_ahead_log import CheckpointBlocked
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

Operation = Callable[[sqlite3.Connection], Any]

_MAX_BATCH = 256
"""Operations in one transaction."""
_CHECKPOINT_PAUSE_SECONDS = 0.1
"""Between two attempts to empty a large log. Beyond the log's bound every write attempts it."""
_EMPTY_BUSY_SECONDS = 0.05
"""How long an attempt below the bound waits for other processes, while this process does not write."""


# Not frozen, here and below: the worker creates one of each for every operation, and a frozen one takes twice as long.
@dataclass(slots=True)
class Cost:
    """What an operation may need of the disk."""

    log_bytes: int = 0
    """An upper estimate of the log's growth; 0 for an operation that only reads."""
    durable: bool = False
    """The operation must survive a power cut."""
    slow: bool = False
    """The operation takes longer than the event loop may wait."""
    is_new: bool = False
    """The operation begins a new request."""


@dataclass(slots=True)
class _Pending:
    operation: Operation
    cost: Cost
    result: asyncio.Future[Any]


_Completed = tuple[_Pending, Any]
"""An operation and its return value."""


class Transactions:
    """Runs operations on a connection that nothing else uses, for one event loop."""

    def __init__(self, journal: OpenJournal, *, busy_seconds: float) -> None:
        """`busy_seconds` is the longest wait for another process that writes."""
        self._connection = connection = journal.connection
        self.files = journal.files
        self._log = journal.log
        self._busy_seconds = busy_seconds
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
        self._is_emptying_due = self._is_log_doubtful = False
        self._next_checkpoint = float("-inf")
        self._replaced: StoreReplaced | None = None
        # The loop's thread must never block: SQLite reports a busy database at once, and a thread then waits for it.
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA synchronous = NORMAL")  # a commit does not wait for the disk; see `_sync`

    async def run(self, operation: Operation, cost: Cost) -> Any:
        """Return the operation's return value once it is committed. A cancelled operation is not begun.

        Raises whatever the operation raises, `sqlite3.Error`, and `StoreReplaced`. An error fails all operations of the
        same transaction.
        """
        if self._replaced is not None:
            raise StoreReplaced(self._replaced.code, self._replaced.message)
        if not self._pending and not self._is_lent:
            # In the next turn of the loop: all operations that come in this turn share the transaction.
            self._loop.call_soon(self._commit)
        pending = _Pending(operation, cost, self._loop.create_future())
        self._pending.append(pending)
        return await pending.result

    @property
    def log_bytes(self) -> int:
        """The bytes of the write-ahead log in use, by an estimate that is never too low."""
        return self._log.size

    async def close(self) -> None:
        """Finish the operations under way, then close the connection."""
        # A loop, because the end of one operation, flush or checkpoint may start the next.
        while self._pending or self._tasks or self._is_syncing:
            await asyncio.gather(asyncio.sleep(0.001), *self._tasks)
        self._to_sync.put(None)
        await asyncio.to_thread(self._syncer.join)
        await asyncio.to_thread(self._threads.shutdown)
        self._log.close()
        await asyncio.to_thread(self._connection.close)  # the last connection transfers the log into the file

    # --- committing ----------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Run the pending operations here, or in a thread if they must wait."""
        if self._is_lent:
            return  # the thread's end schedules the next commit
        batch = self._next_batch()
        if self._is_log_doubtful or any(pending.cost.slow for pending in batch):
            self._lend(batch)
            return
        try:
            self._committed(self._run_batch(batch))
        except Exception as error:  # noqa: BLE001 - an operation's error belongs to its callers
            if isinstance(error, LogIsFull) or is_busy(error) or is_full(error):
                self._lend(batch)
                return
            self._failed(batch, error)
        self._commit_next()

    def _next_batch(self) -> list[_Pending]:
        """Take the next operations: so many that the log can hold them beside others."""
        batch: list[_Pending] = []
        taken = log_bytes = 0
        for pending in self._pending[:_MAX_BATCH]:
            log_bytes += pending.cost.log_bytes
            if batch and log_bytes > self._log.max_bytes // 4:
                break
            taken += 1
            # A result that is done here belongs to a cancelled caller: its operation has not begun and must not.
            if not pending.result.done():
                batch.append(pending)
        del self._pending[:taken]
        return batch

    def _run_batch(self, batch: Sequence[_Pending]) -> list[_Completed]:
        """Run the operations in one transaction: all of them, or none."""
        if not batch:
            return []
        connection = self._connection
        # IMMEDIATE takes the write lock at once. A transaction that reads first and writes later could fail in the
        # middle: SQLite does not wait for the write lock if the transaction has read before.
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Under the lock, so that no process commits between the measurement and this transaction.
            self.files.verify_often()
            if log_bytes := sum(pending.cost.log_bytes for pending in batch):
                self._log.require_room(connection, log_bytes)
            # Callers may have given up during the wait for the lock. Nobody would act under the lease of such a caller.
            waited_for = [pending for pending in batch if not pending.result.done()]
            completed = [(pending, pending.operation(connection)) for pending in waited_for]
            if log_bytes and not self._log.is_reserve_whole():
                self._log.require_space(connection, has_new=_has_new(completed))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # some errors have rolled back already
                connection.execute("ROLLBACK")
            raise
        return completed

    def _lend(self, batch: Sequence[_Pending]) -> None:
        """Lend the connection to a thread that runs the batch. Until the thread ends, operations only queue up."""
        self._is_lent = True
        self._start(self._commit_in_thread(batch))

    async def _commit_in_thread(self, batch: Sequence[_Pending]) -> None:
        try:
            self._committed(await self._in_thread(self._run_batch_patiently, batch))
        except Exception as error:  # noqa: BLE001 - an operation's error belongs to its callers
            self._failed(batch, error)
        finally:
            self._is_lent = False
            self._commit_next()

    def _committed(self, completed: Sequence[_Completed]) -> None:
        _resolve([(pending, value) for pending, value in completed if not pending.cost.durable])
        self._unsynced += [(pending, value) for pending, value in completed if pending.cost.durable]
        # One flush at a time: `_synced` starts the next one for everything that was committed meanwhile.
        if not self._is_syncing:
            self._sync()
        if not self._is_checkpointing and time.monotonic() > self._next_checkpoint and self._log.is_large():
            self._is_checkpointing = True
            self._start(self._checkpoint())
        elif self._log.wants_refill and not self._is_lent:
            self._lend([])

    def _failed(self, batch: Sequence[_Pending], error: Exception) -> None:
        if isinstance(error, StoreReplaced) and self._replaced is None:
            self._replaced = error
            kind = self.files.kind
            sentence = f"The {kind.process} takes no more requests: {error}."
            # In the next turn, without the error under way: its traceback would bury the sentence that says what to do.
            self._loop.call_soon(log, _log, logging.ERROR, kind.replaced_event, sentence)
        _fail(batch, error)

    def _commit_next(self) -> None:
        if self._pending:
            self._loop.call_soon(self._commit)

    # --- in a thread, which may wait -----------------------------------------------------------------------------

    def _run_batch_patiently(self, batch: Sequence[_Pending]) -> list[_Completed]:
        """Run the batch, but wait for other processes, for the transfer of the log and for room on the disk."""
        self._wait_for_locks(self._busy_seconds * 1000)
        try:
            if self._is_log_doubtful:
                self._settle_doubt()
            completed = self._run_batch_with_room(batch)
            if self._is_emptying_due:
                self._empty_log()
            if self._log.wants_refill:
                self._log.refill()
            return completed
        finally:
            self._wait_for_locks(0)

    def _run_batch_with_room(self, batch: Sequence[_Pending]) -> list[_Completed]:
        give_up_at = time.monotonic() + self._busy_seconds
        may_make_room = True
        while True:
            try:
                return self._run_batch(batch)
            except LogIsFull:
                # Again and again: other processes may have filled the log before this one took the write lock.
                self._empty_full_log(give_up_at)
            except sqlite3.Error as error:
                if not is_full(error):
                    raise
                if not may_make_room or not self._made_room_for(error):
                    return self._run_each(batch, error)
                may_make_room = False

    def _run_each(self, batch: Sequence[_Pending], error: sqlite3.Error) -> list[_Completed]:
        """Run the operations one by one on a full disk: the results of begun requests first, then the new requests."""
        if len(batch) == 1:
            raise error
        completed: list[_Completed] = []
        for pending in sorted(batch, key=lambda pending: pending.cost.is_new):
            try:
                completed += self._run_batch([pending])
            except (LogIsFull, sqlite3.Error):
                self._loop.call_soon_threadsafe(self._failed, [pending], error)
        return completed

    def _empty_full_log(self, give_up_at: float) -> None:
        try:
            self._log.empty(self._connection, give_up_at - time.monotonic())
        except CheckpointBlocked as error:
            self._log.report_failure(error)
            raise
        except sqlite3.Error as error:
            if not is_full(error) or not self._log.make_room(self._connection, self._busy_seconds):
                raise

    def _made_room_for(self, error: sqlite3.Error) -> bool:
        """Empty the log, and spend the reserve on that if the disk itself has refused a write."""
        if not isinstance(error, DiskIsFull):
            return self._log.make_room(self._connection, self._busy_seconds)
        self._log.empty(self._connection, self._busy_seconds)
        self._log.refill()
        return True

    def _empty_log(self) -> None:
        """Try to empty the log below its bound. Other processes may be faster, and nothing waits for it."""
        self._is_emptying_due = False
        self._wait_for_locks(_EMPTY_BUSY_SECONDS * 1000)
        try:
            self._log.empty(self._connection, _EMPTY_BUSY_SECONDS)
        except CheckpointBlocked:
            pass  # the next commit starts another attempt
        except sqlite3.Error as error:
            if is_full(error):
                self._log.make_room(self._connection, self._busy_seconds)

    def _settle_doubt(self) -> None:
        """Transfer the log after a failed flush: its pages are in the system's cache, but may never reach the disk.

        Linux marks such pages as written, so that the next flush succeeds without them. A later commit would be lost
        with them, because SQLite reads a log only to its first damaged page.
        """
        try:
            self._log.empty(self._connection, self._busy_seconds, free=True)
        except sqlite3.Error as error:
            if not is_full(error) or not self._log.make_room(self._connection, self._busy_seconds):
                raise
        self._is_log_doubtful = False

    def _wait_for_locks(self, milliseconds: float) -> None:
        self._connection.execute(f"PRAGMA busy_timeout = {int(milliseconds)}")

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
            failure: Exception | None = None
            try:
                os.fsync(self._log.descriptor)
            except OSError as error:
                failure = sqlite3.OperationalError(f"the disk did not keep the {self.files.kind.name}'s log: {error}")
            else:
                failure = self._loss()
            self._loop.call_soon_threadsafe(self._synced, completed, failure)

    def _loss(self) -> Exception | None:
        """Return why the commits do not count, if the files were replaced meanwhile: no other worker finds them."""
        try:
            self.files.verify()
        except (StoreReplaced, OSError) as error:
            return error
        return None

    def _synced(self, completed: Sequence[_Completed], failure: Exception | None) -> None:
        if failure is None:
            _resolve(completed)
        else:
            self._is_log_doubtful = isinstance(failure, sqlite3.Error)
            self._failed([pending for pending, _ in completed], failure)
        self._sync()

    async def _checkpoint(self) -> None:
        """Transfer most of the log while writes go on, then have it emptied between two transactions."""
        try:
            await self._in_thread(self._log.transfer)
        except (sqlite3.Error, OSError) as error:
            self._log.report_failure(error)
        except StoreReplaced as error:
            self._failed([], error)
        finally:
            self._is_checkpointing = False
            self._next_checkpoint = time.monotonic() + _CHECKPOINT_PAUSE_SECONDS
        self._is_emptying_due = True
        if not self._is_lent:
            self._lend([])

    # --- threads -------------------------------------------------------------------------------------------------

    def _in_thread(self, work: Callable[..., Any], *arguments: object) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(self._threads, work, *arguments)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _has_new(completed: Sequence[_Completed]) -> bool:
    """Return whether an operation began a request: one that found the request's entry has written nothing."""
    return any(pending.cost.is_new and value is not None for pending, value in completed)


def _resolve(completed: Sequence[_Completed]) -> None:
    for pending, value in completed:
        if not pending.result.done():
            pending.result.set_result(value)


def _fail(batch: Sequence[_Pending], error: Exception) -> None:
    for pending in batch:
        if not pending.result.done():
            pending.result.set_exception(error)
