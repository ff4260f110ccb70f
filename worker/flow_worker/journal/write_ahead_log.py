"""Bounds the write-ahead log by bytes, and keeps its transfer into the database possible on a full disk.

SQLite restarts the log only after the transfer of all of it. Constant writes, or several processes, can put that off
without end. So this module measures the log itself, which holds the commits of all processes.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from bisect import bisect_left
from contextlib import closing

from flow_worker.journal.files import JournalFiles
from flow_worker.journal.reserve import Reserve
from flow_worker.journal.sqlite_errors import DiskIsFull, LogIsFull, is_busy, is_full
from flow_worker.telemetry.logs import log

_logger = logging.getLogger(__name__)

_REPORT_EVERY_SECONDS = 30.0
_MAKE_ROOM_EVERY_SECONDS = 0.5
_MEASURE_RESERVE_EVERY_SECONDS = 0.25
_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_CAN_READ_FRAMES = hasattr(os, "pread")
"""Not under Windows. There the file's size counts, and every emptying truncates the file."""
_RETRY_SECONDS = 0.005
_REFILL_EVERY_SECONDS = 1.0


class CheckpointBlocked(sqlite3.OperationalError):
    """Another process reads or writes, so that the log cannot be emptied now."""


class WriteAheadLog:
    """The log of one open journal. Only one thread at a time may use it, except `transfer` and `descriptor`."""

    def __init__(self, files: JournalFiles, reserve: Reserve, max_bytes: int) -> None:
        self._files = files
        self._name = files.kind.name
        self._reserve = reserve
        self.max_bytes = max_bytes
        self.size = 0
        """The bytes of the log in use, or an upper estimate between two measurements."""
        self._measured_size = 0
        self._file_bytes = 0
        self._restarted_salts = b""
        self._others: object = None
        # The log stays one file while a connection is open (sqlite.org, "WAL-mode File Format"). SQLite's locks are on
        # the other files, so closing this descriptor releases none of them.
        self.descriptor = os.open(files.log, os.O_RDWR)
        self._held = 0
        self._measured_at = self._made_room_at = self._refilled_at = float("-inf")
        self._failures = 0
        self._reported_at = float("-inf")

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self.descriptor)

    # --- bounds ----------------------------------------------------------------------------------------------------

    def require_room(self, connection: sqlite3.Connection, growth: int) -> None:
        """Raise `LogIsFull` if the log would grow beyond its bound. Call it under the write lock."""
        others = connection.execute("PRAGMA data_version").fetchone()  # changes with each commit of another process
        if others != self._others or self.size + growth > self.max_bytes * 3 // 4:
            self.measure()
            self._others = others
        if self.size and self.size + growth > self.max_bytes:
            raise LogIsFull
        self.size += growth

    def measure(self) -> None:
        """Measure how much of the log is in use, by all processes.

        A restart of the log leaves its file as it is: overwriting is cheaper than growing. The frames in use are those
        that carry the salts of the log's header (sqlite.org, "WAL-mode File Format").
        """
        self.size = self._measured_size = self._measured()

    def _measured(self) -> int:
        self._file_bytes = os.fstat(self.descriptor).st_size
        if not _CAN_READ_FRAMES or self._file_bytes <= _HEADER_BYTES:
            return self._file_bytes
        header = os.pread(self.descriptor, _HEADER_BYTES, 0)
        page, salts = int.from_bytes(header[8:12], "big"), header[16:24]
        if salts == self._restarted_salts:
            return 0
        frame = _FRAME_HEADER_BYTES + page

        def is_unused(number: int) -> bool:
            return os.pread(self.descriptor, 8, _HEADER_BYTES + number * frame + 8) != salts

        frames = range((self._file_bytes - _HEADER_BYTES) // frame)
        return _HEADER_BYTES + bisect_left(frames, True, key=is_unused) * frame

    def is_large(self) -> bool:
        """Return whether a transfer should begin, so that no write has to wait for it later."""
        large = self.max_bytes // 2
        if self._measured_size <= large < self.size and self.size - self._measured_size > self.max_bytes // 16:
            # The estimate is about six times the use. A transfer that begins too early costs milliseconds and two
            # flushes; this measurement costs 20 µs, and the estimate then needs many writes to exceed it again.
            self.measure()
        return self._measured_size > large

    def require_space(self, connection: sqlite3.Connection, *, has_new: bool) -> None:
        """Raise `DiskIsFull` if the open transaction's transfer would need more room than the reserve holds.

        `has_new`: the transaction begins a new request. It then also needs room for the results of the begun ones.
        A transaction needs this check only while the reserve is not whole.
        """
        names = ("page_size", "page_count", "freelist_count")
        page, pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        if has_new and self._held + free * page < self._reserve.min_for_new:
            raise DiskIsFull(f"the disk is full: the {self._name} takes no new requests until there is room again")
        if pages * page - self._files.database_bytes() > self._held:
            raise DiskIsFull(f"the disk is full: there is no room for the {self._name} to grow")

    def is_reserve_whole(self) -> bool:
        """Return whether the reserve covers the transfer of a log of any size. Measures it a few times a second."""
        now = time.monotonic()
        if now - self._measured_at > _MEASURE_RESERVE_EVERY_SECONDS:
            self._held, self._measured_at = self._reserve.held(), now
        return self._held >= self._reserve.size

    # --- the transfer ----------------------------------------------------------------------------------------------

    def transfer(self) -> None:
        """Transfer what is possible while others write, over a separate connection. For any thread."""
        self._files.verify()
        # mode=rw: this must never create a file. `verify` again, for the path may lead elsewhere since then.
        with closing(sqlite3.connect(f"{self._files.path.as_uri()}?mode=rw", uri=True, isolation_level=None)) as own:
            own.execute("PRAGMA user_version")
            self._files.verify()
            own.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def empty(self, connection: sqlite3.Connection, wait_seconds: float, *, free: bool = False) -> None:
        """Transfer all of the log, so that the next write starts it over. With `free`, return its space to the disk.

        Raises `CheckpointBlocked` if others use the file for `wait_seconds`, and other `sqlite3.Error`.
        """
        self.measure()
        free = free or self._file_bytes > self.max_bytes or not _CAN_READ_FRAMES
        give_up_at = time.monotonic() + wait_seconds
        while not self._checkpoint(connection, "TRUNCATE" if free else "RESTART"):
            if time.monotonic() > give_up_at:
                raise CheckpointBlocked(
                    f"another process reads or writes the {self._name}, so its log cannot be emptied"
                )
            # SQLite waits by itself for readers and writers, but not for another checkpoint.
            time.sleep(_RETRY_SECONDS)
        self.measure()

    def _checkpoint(self, connection: sqlite3.Connection, mode: str) -> bool:
        self._files.verify()
        salts = self._salts()
        try:
            [blocked, frames, transferred] = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            if is_busy(error):
                return False
            self.report_failure(error)
            raise
        if blocked or frames != transferred:
            return False
        # The next write of any process replaces the header. Salts that have changed already belong to such a write.
        self._restarted_salts = salts
        return True

    def _salts(self) -> bytes:
        return os.pread(self.descriptor, _HEADER_BYTES, 0)[16:24] if _CAN_READ_FRAMES else b""

    def make_room(self, connection: sqlite3.Connection, wait_seconds: float) -> bool:
        """Spend the reserve on the transfer of the log. Return whether the log is empty now.

        On a disk that stays full this happens only twice a second.
        """
        now = time.monotonic()
        if now - self._made_room_at < _MAKE_ROOM_EVERY_SECONDS:
            return False
        self._made_room_at = now
        self._reserve.release()
        try:
            self.empty(connection, wait_seconds, free=True)
        except sqlite3.Error as error:
            if isinstance(error, CheckpointBlocked):
                self.report_failure(error)
            return False
        finally:
            self.refill()
        return True

    # --- the reserve -----------------------------------------------------------------------------------------------

    @property
    def wants_refill(self) -> bool:
        """Whether the reserve is not whole and some time has passed since the last refill."""
        is_due = self._held < self._reserve.size and time.monotonic() - self._refilled_at > _REFILL_EVERY_SECONDS
        return is_due and self._measured_at > float("-inf")

    def refill(self) -> None:
        """Make the reserve again as far as there is room."""
        self._reserve.refill()
        self._refilled_at, self._measured_at = time.monotonic(), float("-inf")

    # --- failures --------------------------------------------------------------------------------------------------

    def report_failure(self, error: Exception) -> None:
        """Log a failed transfer; one line stands for all failures of half a minute."""
        self._failures += 1
        now = time.monotonic()
        if now - self._reported_at < _REPORT_EVERY_SECONDS:
            return
        remedy = "free room on the disk" if is_full(error) else "end the process that keeps the file open"
        kind = self._files.kind
        sentence = f"The {kind.process} could not transfer the {kind.name}'s log into its file; {remedy}: {error}"
        fields = {"log_bytes": self.size, "failures": self._failures}
        log(_logger, logging.WARNING, kind.checkpoint_event, sentence, **fields)
        self._failures, self._reported_at = 0, now
