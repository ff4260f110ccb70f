"""Opens an SQLite file: creates it, waits for other processes that open it, and checks what is in it."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.files import JournalFiles
from flow_worker.journal.kind import JOURNAL, FileKind
from flow_worker.journal.reserve import Reserve
from flow_worker.journal.sqlite_errors import is_busy, is_full
from flow_worker.journal.write_ahead_log import CheckpointBlocked, WriteAheadLog
from flow_worker.settings import InvalidSettings
from flow_worker.telemetry.logs import log as log_event

_log = logging.getLogger(__name__)

_MIN_FREE_BYTES = 64 * 1024
_NOT_PERMITTED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
"""The file is sound then; without it, requests would run a second time."""


class _Replaced(Exception):
    """The path led to another file before and after the opening."""


class OpenJournal:
    """A connection for one thread at a time, with the files that it has open."""

    def __init__(self, connection: sqlite3.Connection, files: JournalFiles, log: WriteAheadLog) -> None:
        self.connection = connection
        self.files = files
        self.log = log


def open_file(
    path: Path, *, busy_seconds: float, max_log_bytes: int, reserve_bytes: int, kind: FileKind = JOURNAL
) -> OpenJournal:
    """Create the file if needed, and open it.

    Raises `InvalidSettings` if the file can never be used. Raises `TemporarilyUnavailable` if other processes keep it
    locked for `busy_seconds`, or if the disk is full.
    """
    files = JournalFiles(path, kind)
    reserve = Reserve(files.path, reserve_bytes)
    deadline = time.monotonic() + busy_seconds
    has_room = False
    while True:
        try:
            connection = _connect(files, busy_seconds)
            return _checked(connection, files, reserve, max_log_bytes=max_log_bytes, busy_seconds=busy_seconds)
        except (_Replaced, sqlite3.Error, OSError) as error:
            if not has_room and _is_for_lack_of_room(error, files.path):
                has_room = True
                reserve.release()
            elif not (isinstance(error, _Replaced) or is_busy(error)) or time.monotonic() > deadline:
                raise _failure(files, error, busy_seconds) from None
        # SQLite does not always wait by itself: not for the change to WAL mode, and not for a recovery of the log.
        time.sleep(random.uniform(0.005, 0.03))  # noqa: S311 - spreads processes that start together


def _connect(files: JournalFiles, busy_seconds: float) -> sqlite3.Connection:
    files.path.parent.mkdir(parents=True, exist_ok=True)
    # Created here with its mode, as the file holds the outputs of flows; SQLite would apply the umask. An existing file
    # is not opened: closing it would release the locks of another connection of this process (sqlite.org, "How To
    # Corrupt An SQLite Database File").
    with suppress(FileExistsError):
        os.close(os.open(files.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    # check_same_thread: threads use the connection in turn. isolation_level: `Transactions` begins and ends them.
    return sqlite3.connect(
        f"{files.path.as_uri()}?mode=rw", uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )


def _checked(
    connection: sqlite3.Connection,
    files: JournalFiles,
    reserve: Reserve,
    *,
    max_log_bytes: int,
    busy_seconds: float,
) -> OpenJournal:
    """Prepare the file, and transfer a large log that the last worker left."""
    log = None
    try:
        before = os.stat(files.database)
        had_reserve = reserve.held() > 0
        if _prepare(connection, files):
            _report_new(files, had_reserve=had_reserve)
        _keep_private(files)
        files.remember()
        _require_same(files, before)
        log = WriteAheadLog(files, reserve, max_log_bytes)
        log.measure()
        if log.is_large():
            with suppress(CheckpointBlocked):  # the first write beyond the bound waits for it
                log.empty(connection, busy_seconds, free=True)
        log.refill()
    except BaseException:
        if log is not None:
            log.close()
        connection.close()
        raise
    return OpenJournal(connection, files, log)


def _require_same(files: JournalFiles, before: os.stat_result) -> None:
    if not os.path.samestat(before, os.stat(files.database)):
        raise _Replaced(f"the file '{files.path}' was replaced while it was opened")


def _prepare(connection: sqlite3.Connection, files: JournalFiles) -> bool:
    """Prepare the database; return whether it is new."""
    kind = files.kind
    connection.execute("PRAGMA journal_mode = WAL")
    # Some builds overwrite deleted content by default. A deletion would then need as much of the log as its document,
    # and no purge could free a full disk.
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute("PRAGMA synchronous = FULL")  # for the schema; `Transactions` then flushes the log itself
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # also fails for a file that cannot be written
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > kind.schema_version:
            raise InvalidSettings(
                f"{kind.setting}: '{files.given}' was written by a later version (schema {version}, this one knows "
                f"{kind.schema_version}); run that version, or name another file"
            )
        if version == 0:
            for statement in kind.schema.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {kind.schema_version}")
        elif not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (kind.table,)).fetchone():
            raise InvalidSettings(f"{kind.setting}: '{files.given}' is the file of something else; name another file")
    return version == 0


def _keep_private(files: JournalFiles) -> None:
    kind = files.kind
    if exposed := files.keep_private():
        log_event(
            _log,
            logging.WARNING,
            kind.exposed_event,
            f"Other users of this machine can open the {kind.name}'s files, and the {kind.process} cannot change that: "
            f"{', '.join(exposed)}. Give the files to the {kind.process}'s user, with mode 0600.",
        )


def _report_new(files: JournalFiles, *, had_reserve: bool) -> None:
    """Log that the file is new. A reserve that is already there belonged to a file that is lost."""
    kind = files.kind
    if had_reserve:
        sentence = (
            f"The {kind.name}'s file '{files.path}' was lost: its reserve is still there. The {kind.process} created "
            f"an empty {kind.name} and {kind.if_new}. If you have the file, stop all {kind.process}s and restore it."
        )
    else:
        sentence = f"The {kind.process} created an empty {kind.name}, '{files.path}'. Expected only at the first start."
    log_event(_log, logging.WARNING if had_reserve else logging.INFO, kind.created_event, sentence)


def _is_for_lack_of_room(error: Exception, path: Path) -> bool:
    """Return whether the disk is full. SQLite does not say why it cannot create a file, so this looks at the disk."""
    if is_full(error):
        return True
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}:
        return False
    try:
        disk = os.statvfs(path.parent)
    except (AttributeError, OSError):  # Windows has no `statvfs`
        return False
    return disk.f_bavail * disk.f_frsize < _MIN_FREE_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


def _failure(files: JournalFiles, error: Exception, busy_seconds: float) -> InvalidSettings | TemporarilyUnavailable:
    kind, path = files.kind, files.given
    if is_busy(error) or isinstance(error, _Replaced):
        cause = f"other processes kept the {kind.name} '{path}' locked for {busy_seconds:g} s ({error})"
        return TemporarilyUnavailable(kind.code, cause)
    if _is_for_lack_of_room(error, path):
        return TemporarilyUnavailable(kind.code, f"the disk of the {kind.name} '{path}' is full ({error})")
    remedy = f"name a file on a local disk that the {kind.process} may write"
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF not in _NOT_PERMITTED:
        remedy += f", or move a damaged file away (the {kind.process} then {kind.if_new})"
    return InvalidSettings(f"{kind.setting}: '{path}' cannot be used as the {kind.name} ({error}); {remedy}")
