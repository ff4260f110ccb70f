"""Persists queues and messages in SQLite.

`flush` writes all recorded changes in one transaction before a client sees their effect. In WAL mode with
`synchronous=NORMAL`, committed data survives a crash of the process at any moment. A power failure may lose the latest
transactions but does not corrupt the file (SQLite, "Write-Ahead Logging").
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from servicebus_emulator.amqp import DecodeError, decode, encode
from servicebus_emulator.servicebus.access.policies import Policy, Right
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message import BrokeredMessage, MessageState
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import IMMUTABLE_SETTINGS, QueueSettings, QueueStatus
from servicebus_emulator.servicebus.entities.storage import DataFolderError, MessageStorage, NotPersisted

_log = logging.getLogger(__name__)

FILE = "servicebus.sqlite3"
_VERSION = 1
_SCHEMA = """
CREATE TABLE entity (name TEXT PRIMARY KEY, rules TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE TABLE message (queue TEXT, number INTEGER, content BLOB NOT NULL, PRIMARY KEY (queue, number));
CREATE TABLE last_number (queue TEXT PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE seen (queue TEXT, key TEXT, at REAL NOT NULL, PRIMARY KEY (queue, key));
CREATE TABLE session (queue TEXT, id TEXT, state BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (queue, id));
"""
_FIELDS = tuple(name for name in BrokeredMessage.__dataclass_fields__ if name not in {"lock_token", "locked_until"})
"""The persisted fields. A lock is not persisted: it belongs to a connection, and no connection survives the process."""


class SqliteMessageStorage(MessageStorage):
    """Persists the changes of all queues in one file. Only one process at a time can use a folder."""

    def __init__(self, folder: Path) -> None:
        """Open or create the file in the folder. Raises `DataFolderError` if that is not possible."""
        self._path = folder / FILE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = _open(self._path)
        except (OSError, sqlite3.Error) as error:
            text = f"{self._path}: {error}. Is another emulator using it? Choose another --data."
            raise DataFolderError(text) from None
        # Messages are recorded by key, so that many changes of one message between two flushes cost one write.
        self._messages: dict[tuple[str, int], BrokeredMessage | None] = {}
        self._last_numbers: dict[str, int] = {}
        self._statements: list[tuple[str, tuple[object, ...]]] = []
        self._is_failing = False

    def close(self) -> None:
        """Write the recorded changes and close the file."""
        try:
            # A failure here is logged by `flush`. No client depends on it: none has seen the effect of these changes.
            with contextlib.suppress(NotPersisted):
                self.flush()
        finally:
            self._database.close()

    # --- record --------------------------------------------------------------------------------------------------

    def put_queue(self, settings: QueueSettings, created_at: float, updated_at: float) -> None:
        """See `MessageStorage`."""
        row = (settings.name.lower(), json.dumps(asdict(settings), default=_jsonable), created_at, updated_at)
        self._statements.append(("INSERT OR REPLACE INTO entity VALUES (?, ?, ?, ?)", row))

    def delete_queue(self, name: str) -> None:
        """See `MessageStorage`."""
        # A flush executes the statements before it writes the recorded messages. Without this flush, messages from
        # before the deletion would be written after it.
        self.flush()
        self._statements.append(("DELETE FROM entity WHERE name = ?", (name,)))
        for table in ("message", "last_number", "seen", "session"):
            # Not LIKE: a queue's name may contain its wildcards.
            statement = f"DELETE FROM {table} WHERE queue = ? OR substr(queue, 1, ?) = ?"  # noqa: S608 - fixed names
            self._statements.append((statement, (name, len(name) + 2, f"{name}/$")))

    def put_message(self, queue: str, message: BrokeredMessage) -> None:
        """See `MessageStorage`."""
        number = message.sequence_number
        self._messages[queue, number] = message
        if number > self._last_numbers.get(queue, 0):
            self._last_numbers[queue] = number

    def delete_message(self, queue: str, sequence_number: int) -> None:
        """See `MessageStorage`."""
        self._messages[queue, sequence_number] = None

    def put_duplicate_key(self, queue: str, key: str, seen_at: float) -> None:
        """See `MessageStorage`."""
        self._statements.append(("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (queue, key, seen_at)))

    def put_session_state(self, queue: str, session_id: str, state: bytes | None, updated_at: float) -> None:
        """See `MessageStorage`."""
        if state is None:
            self._statements.append(("DELETE FROM session WHERE queue = ? AND id = ?", (queue, session_id)))
        else:
            row = (queue, session_id, state, updated_at)
            self._statements.append(("INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?)", row))

    def flush(self) -> None:
        """See `MessageStorage`."""
        if not self._messages and not self._statements:
            return
        try:
            self._write()
        except sqlite3.Error as error:
            if not self._is_failing:
                _log.error("%s: the emulator cannot write, so it accepts nothing: %s.", self._path, error)
            self._is_failing = True
            raise NotPersisted(str(error)) from error
        if self._is_failing:
            _log.info("%s: the emulator can write again.", self._path)
            self._is_failing = False
        # Only after success: the next flush writes everything that a failed one could not.
        self._messages.clear()
        self._last_numbers.clear()
        self._statements.clear()

    def _write(self) -> None:
        with self._database:
            for statement, row in self._statements:
                self._database.execute(statement, row)
            deleted = [key for key, message in self._messages.items() if message is None]
            stored = [(*key, _encode(message)) for key, message in self._messages.items() if message is not None]
            self._database.executemany("DELETE FROM message WHERE queue = ? AND number = ?", deleted)
            self._database.executemany("INSERT OR REPLACE INTO message VALUES (?, ?, ?)", stored)
            # The last number has its own table: the queue must not assign a number twice, even if it is empty when the
            # process ends.
            self._database.executemany("INSERT OR REPLACE INTO last_number VALUES (?, ?)", self._last_numbers.items())

    # --- restore -------------------------------------------------------------------------------------------------

    def restore(self, broker: Broker, configured: tuple[QueueSettings, ...]) -> None:
        """Add the stored and the configured queues to an empty broker. Configured settings replace stored ones.

        Raises `DataFolderError` if a configured queue differs from the stored one in a setting that cannot change.
        """
        queues: dict[str, tuple[QueueSettings, float | None]] = dict(self._stored_queues())
        for settings in configured:
            stored, created_at = queues.get(settings.name.lower(), (settings, None))
            self._require_same_kind(stored, settings)
            queues[settings.name.lower()] = (settings, created_at)
        for settings, created_at in queues.values():
            queue = broker.add(settings, created_at=created_at)
            for entity in (queue, *queue.subqueues()):
                self._restore_content(entity)
        self.flush()

    def _require_same_kind(self, stored: QueueSettings, configured: QueueSettings) -> None:
        for name in IMMUTABLE_SETTINGS:
            if getattr(stored, name) != getattr(configured, name):
                raise DataFolderError(
                    f"{self._path}: '{configured.name}' is stored with {name} = {getattr(stored, name)}, and "
                    "configured otherwise. This setting cannot change: use another queue, or another --data."
                )

    def _stored_queues(self) -> Iterator[tuple[str, tuple[QueueSettings, float]]]:
        for name, rules, created_at in self._database.execute("SELECT name, rules, created_at FROM entity"):
            values = json.loads(rules)
            values["status"] = QueueStatus(values["status"])
            values["policies"] = tuple(_policy(policy) for policy in values.get("policies", ()))
            yield name, (QueueSettings(**values), created_at)

    def _restore_content(self, queue: Queue) -> None:
        name = queue.settings.name.lower()
        rows = self._database.execute("SELECT content FROM message WHERE queue = ? ORDER BY number", (name,))
        (last,) = self._database.execute("SELECT max(number) FROM last_number WHERE queue = ?", (name,)).fetchone()
        try:
            queue.restore([_decode(content) for (content,) in rows], last or 0)
        except (DecodeError, TypeError, ValueError) as error:
            text = f"{self._path}: a message of '{queue.settings.name}' cannot be read ({error})."
            raise DataFolderError(text) from None
        self._restore_duplicate_keys(queue, name)
        sessions = self._database.execute("SELECT id, state, at FROM session WHERE queue = ?", (name,))
        for session_id, state, updated_at in sessions:
            queue.sessions.restore(session_id, state, updated_at)
        self._database.commit()

    def _restore_duplicate_keys(self, queue: Queue, name: str) -> None:
        # Keys whose window has ended are deleted here only. Deleting each in time would cost a write for each message.
        window_start = queue.now() - queue.settings.duplicate_detection_seconds
        self._database.execute("DELETE FROM seen WHERE queue = ? AND at <= ?", (name, window_start))
        seen = self._database.execute("SELECT key, at FROM seen WHERE queue = ? ORDER BY at", (name,))
        queue.restore_duplicate_keys(seen)


def _keep_private(path: Path) -> None:
    """Create the file for this user only, and correct the mode of files that an earlier emulator left.

    Messages and keys of policies are in them. SQLite gives the files beside the database the database's mode.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.chmod(f"{path}{suffix}", 0o600)


def _open(path: Path) -> sqlite3.Connection:
    _keep_private(path)
    # No wait for the file lock: another emulator holds it as long as it runs.
    database = sqlite3.connect(path, timeout=0)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    elif version != _VERSION:
        raise sqlite3.DatabaseError(f"it is of version {version}, and this emulator writes {_VERSION}")
    return database


def _jsonable(value: object) -> object:
    if isinstance(value, Right):
        return value.value
    raise TypeError(f"{type(value).__name__} is not part of a queue's settings")


def _policy(stored: dict[str, Any]) -> Policy:
    return Policy(**stored | {"rights": Right(stored["rights"]), "keys": tuple(stored["keys"])})


def _encode(message: BrokeredMessage) -> bytes:
    # AMQP's encoding and not JSON, because annotations have AMQP types that must survive.
    values = (getattr(message, name) for name in _FIELDS)
    return encode([list(value) if isinstance(value, tuple) else value for value in values])


def _decode(content: bytes) -> BrokeredMessage:
    value, _ = decode(content)
    if not isinstance(value, list) or len(value) > len(_FIELDS):
        raise ValueError("it has an unknown form")
    # New fields come at the end. So a message of an older emulator has fewer fields, and the rest get their defaults.
    fields = dict(zip(_FIELDS, value, strict=False))
    fields["header"] = tuple(fields["header"])
    fields["state"] = MessageState(fields["state"])
    return BrokeredMessage(**fields)
