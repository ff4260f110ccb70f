"""Sorts SQLite's errors by their remedy.

The upper bytes of a code hold details (sqlite.org, "Result and Error Codes").
"""

from __future__ import annotations

import sqlite3

from flow_worker.journal.reserve import FULL_DISK

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_UNWRITABLE = {
    sqlite3.SQLITE_IOERR_WRITE,  # also a used-up quota and a file that may not grow
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
}


class LogIsFull(Exception):
    """The write-ahead log has reached its bound: its transfer into the database comes before the next write."""


class DiskIsFull(sqlite3.OperationalError):
    """The journal refuses a write whose transfer into the database might find no room."""


def is_busy(error: Exception) -> bool:
    """Return whether another process held a lock."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and code is not None and code & 0xFF in _LOCKED


def is_full(error: BaseException) -> bool:
    """Return whether the disk took no more bytes."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, DiskIsFull) or code == sqlite3.SQLITE_FULL or code in _UNWRITABLE
