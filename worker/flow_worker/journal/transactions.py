"""Jobs on one SQLite connection: those that come together share a transaction, and so its wait for the disk.

A job takes SQLite some 30 µs, while the way to a thread and back costs ten times that of a busy event loop. So jobs are
done on the loop's own thread, and only what may have to wait is done on another: the disk, another process that
writes, the moving of the write-ahead log into the file.
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

Job = Callable[[sqlite3.Connection], Any]

_MAX_TOGETHER = 256
"""Jobs in one transaction."""
_MOVED_AFTER = 1000
"""Jobs after which the log is moved into the file. SQLite would do it as often, and keep the loop waiting meanwhile."""
_LOG_PAGES = 4_000
"""16 MB. SQLite begins the log anew only when all of it is moved, and somebody who is always writing adds to it in the
meantime. Beyond this, they wait for the rest.
"""


@dataclass(frozen=True, slots=True)
class _Waiting:
    job: Job
    durable: bool
    long: bool
    done: asyncio.Future[Any]


_Ended = tuple[_Waiting, Any]
"""A job, and what came of it."""


class Transactions:
    """Does jobs on a connection that nobody else uses, for one event loop."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, busy_seconds: float) -> None:
        """`busy_seconds`: how long to wait for another process."""
        self._connection = connection
        self._path = path
        self._busy_ms = int(busy_seconds * 1000)
        self._loop = asyncio.get_running_loop()
        # Not daemons: a process that ends must not tear a transaction.
        self._threads = ThreadPoolExecutor(2, "journal")
        self._to_sync: SimpleQueue[list[_Ended] | None] = SimpleQueue()
        self._syncer = Thread(target=self._keep_syncing, name="journal disk", daemon=True)
        self._syncer.start()
        self._waiting: list[_Waiting] = []
        self._unsynced: list[_Ended] = []
        self._at_work: set[asyncio.Task[None]] = set()
        self._lent = self._syncing = self._moving = False
        self._log: int | None = None
        self._since_moved = 0
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA synchronous = NORMAL")  # a commit does not wait for the disk; see `_sync`

    async def done(self, job: Job, *, durable: bool = False, long: bool = False) -> Any:
        """What the job returned, once it is committed; it is not begun if the caller is gone before.

        `durable`: once it also outlives a power cut. `long`: the loop should not wait for it. Raises what the job
        raises, and `sqlite3.Error`; those of its transaction fail with it.
        """
        if not self._waiting and not self._lent:
            self._loop.call_soon(self._commit)
        waiting = _Waiting(job, durable, long, self._loop.create_future())
        self._waiting.append(waiting)
        return await waiting.done

    async def close(self) -> None:
        """End what is under way, then close the connection."""
        while self._waiting or self._at_work or self._syncing:
            await asyncio.gather(asyncio.sleep(0.001), *self._at_work)
        self._to_sync.put(None)
        await asyncio.to_thread(self._syncer.join)
        await asyncio.to_thread(self._threads.shutdown)
        if self._log is not None:
            os.close(self._log)
        await asyncio.to_thread(self._connection.close)  # the last one moves the log into the file

    # --- committing ----------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Do all jobs that wait; a thread does if it takes long, or another process is writing just now."""
        if self._lent:
            return  # they are done when it comes back
        together = [one for one in self._waiting[:_MAX_TOGETHER] if not one.done.done()]
        del self._waiting[:_MAX_TOGETHER]
        if any(one.long for one in together):
            self._lend(together)
            return
        try:
            self._committed(_together(self._connection, together))
        except Exception as error:  # noqa: BLE001 - whatever a job raises is for those who wait for it
            if _is_busy(error):
                self._lend(together)
                return
            _fail(together, error)
        self._go_on()

    def _lend(self, together: Sequence[_Waiting]) -> None:
        self._lent = True
        self._start(self._patiently(together))

    async def _patiently(self, together: Sequence[_Waiting]) -> None:
        """The same in a thread, which has the connection meanwhile."""
        try:
            self._committed(await self._in_thread(self._waiting_for_others, together))
        except Exception as error:  # noqa: BLE001 - as above
            _fail(together, error)
        finally:
            self._lent = False
            self._go_on()

    def _waiting_for_others(self, together: Sequence[_Waiting]) -> list[_Ended]:
        self._connection.execute(f"PRAGMA busy_timeout = {self._busy_ms}")
        try:
            return _together(self._connection, together)
        finally:
            self._connection.execute("PRAGMA busy_timeout = 0")

    def _committed(self, ended: Sequence[_Ended]) -> None:
        _tell([one for one in ended if not one[0].durable])
        self._unsynced += [one for one in ended if one[0].durable]
        if not self._syncing:
            self._sync()
        self._since_moved += len(ended)
        if self._since_moved >= _MOVED_AFTER and not self._moving:
            self._moving = True
            self._start(self._move_log())

    def _go_on(self) -> None:
        if self._waiting:
            self._loop.call_soon(self._commit)

    # --- the disk ------------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        """Have the disk keep what was committed: a transaction lasts once the log that it is in is on the disk.

        SQLite's own way, `synchronous = FULL`, would hold the connection, and all others' writing, until then.
        """
        ended, self._unsynced = self._unsynced, []
        self._syncing = bool(ended)
        if ended:
            self._to_sync.put(ended)

    def _keep_syncing(self) -> None:
        """In a thread of its own, since an executor's way there and back costs as much as the disk."""
        while (ended := self._to_sync.get()) is not None:
            trouble = None
            try:
                os.fsync(self._log_file())
            except OSError as error:
                trouble = sqlite3.OperationalError(f"the disk did not keep it: {error}")
            self._loop.call_soon_threadsafe(self._synced, ended, trouble)

    def _synced(self, ended: Sequence[_Ended], trouble: sqlite3.OperationalError | None) -> None:
        if trouble is None:
            _tell(ended)
        else:
            _fail([one for one, _ in ended], trouble)
        self._sync()

    def _log_file(self) -> int:
        """The log's file descriptor. It is one file as long as a connection is open (sqlite.org, "WAL-mode File
        Format"), and SQLite's locks are on other files, so closing it lets none go.
        """
        if self._log is None:
            self._log = os.open(f"{self._path}-wal", os.O_RDWR)
        return self._log

    async def _move_log(self) -> None:
        self._since_moved = 0
        try:
            pages = await self._in_thread(_move_log, self._path)
            if pages > _LOG_PAGES and not self._lent:
                await self._begin_log_anew()
        except sqlite3.Error:
            pass  # what is in the log is as safe as what is in the file, and the next time is soon
        finally:
            self._moving = False

    async def _begin_log_anew(self) -> None:
        """Move what came meanwhile. Nobody here writes until that is done, or it might never be."""
        self._lent = True
        try:
            await self._in_thread(_move, self._connection, "RESTART")
        finally:
            self._lent = False
            self._go_on()

    # --- threads -------------------------------------------------------------------------------------------------

    def _in_thread(self, work: Callable[..., Any], *arguments: object) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(self._threads, work, *arguments)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)


def _together(connection: sqlite3.Connection, together: Sequence[_Waiting]) -> list[_Ended]:
    """Do the jobs in one transaction: all of them, or none."""
    if not together:
        return []
    connection.execute("BEGIN IMMEDIATE")
    try:
        ended = [(one, one.job(connection)) for one in together]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have ended it already
            connection.execute("ROLLBACK")
        raise
    return ended


def _is_busy(error: Exception) -> bool:
    """Whether another process was writing. The code's upper bytes say why (sqlite.org, "Result and Error Codes")."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _tell(ended: Sequence[_Ended]) -> None:
    for one, result in ended:
        if not one.done.done():
            one.done.set_result(result)


def _fail(together: Sequence[_Waiting], error: Exception) -> None:
    for one in together:
        if not one.done.done():
            one.done.set_exception(error)


def _move_log(path: Path) -> int:
    """Move what is in the log, on a connection of its own: only then others may write. Returns the log's pages."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return _move(connection, "PASSIVE")
    finally:
        connection.close()


def _move(connection: sqlite3.Connection, how: str) -> int:
    pages: int = connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()[1]
    return pages
