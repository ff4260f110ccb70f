"""Queues and messages that outlive the process: a store in SQLite.

What was told is written by `flush`, in one transaction, before any client learns of it. In WAL mode with
`synchronous=NORMAL` that survives the end of the process at any moment; after a power cut the last moments may be lost
(SQLite, "Write-Ahead Logging").
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from servicebus_emulator.amqp import DecodeError, decode, encode
from servicebus_emulator.servicebus.access.policies import Policy, Right
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message import Message, MessageState
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
_FIELDS = tuple(name for name in Message.__dataclass_fields__ if name not in {"lock_token", "locked_until"})


class SqliteMessageStorage(MessageStorage):
    """One process at a time has a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises `DataFolderError` if the folder cannot be used."""
        self._path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = _opened(self._path)
        except (OSError, sqlite3.Error) as error:
            raise DataFolderError(
                f"{self._path}: {error}. Is another emulator using it? Choose another --data."
            ) from None
        self._messages: dict[tuple[str, int], Message | None] = {}
        self._numbers: dict[str, int] = {}
        self._others: list[tuple[str, tuple[object, ...]]] = []
        self._failing = False

    def close(self) -> None:
        """Write what is left, and let go of the folder."""
        try:
            with contextlib.suppress(NotPersisted):  # the log tells, and nobody was told that it is safe
                self.flush()
        finally:
            self._database.close()

    # --- told by the queues --------------------------------------------------------------------------------------

    def put_queue(self, settings: QueueSettings, created_at: float, updated_at: float) -> None:
        """See `MessageStorage`."""
        row = (settings.name.lower(), json.dumps(asdict(settings), default=_plain), created_at, updated_at)
        self._others.append(("INSERT OR REPLACE INTO entity VALUES (?, ?, ?, ?)", row))

    def delete_queue(self, name: str) -> None:
        """See `MessageStorage`."""
        self.flush()
        self._others.append(("DELETE FROM entity WHERE name = ?", (name,)))
        for table in ("message", "last_number", "seen", "session"):
            below = f"DELETE FROM {table} WHERE queue = ? OR substr(queue, 1, ?) = ?"  # noqa: S608 - our own names
            self._others.append((below, (name, len(name) + 2, f"{name}/$")))

    def put_message(self, queue: str, message: Message) -> None:
        """See `MessageStorage`."""
        number = message.sequence_number
        self._messages[queue, number] = message
        if number > self._numbers.get(queue, 0):
            self._numbers[queue] = number

    def delete_message(self, queue: str, sequence_number: int) -> None:
        """See `MessageStorage`."""
        self._messages[queue, sequence_number] = None

    def put_duplicate_key(self, queue: str, key: str, seen_at: float) -> None:
        """See `MessageStorage`."""
        self._others.append(("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (queue, key, seen_at)))

    def put_session_state(self, queue: str, session_id: str, state: bytes | None, updated_at: float) -> None:
        """See `MessageStorage`."""
        if state is None:
            self._others.append(("DELETE FROM session WHERE queue = ? AND id = ?", (queue, session_id)))
        else:
            row = (queue, session_id, state, updated_at)
            self._others.append(("INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?)", row))

    def flush(self) -> None:
        """See `MessageStorage`."""
        if not self._messages and not self._others:
            return
        try:
            self._write()
        except sqlite3.Error as error:
            if not self._failing:
                _log.error("%s: nothing can be saved, so nothing is accepted: %s.", self._path, error)
            self._failing = True
            raise NotPersisted(str(error)) from error
        if self._failing:
            _log.info("%s: saved again.", self._path)
            self._failing = False
        self._messages.clear()
        self._numbers.clear()
        self._others.clear()

    def _write(self) -> None:
        with self._database:
            for statement, row in self._others:
                self._database.execute(statement, row)
            gone = [key for key, message in self._messages.items() if message is None]
            kept = [(*key, _packed(message)) for key, message in self._messages.items() if message is not None]
            self._database.executemany("DELETE FROM message WHERE queue = ? AND number = ?", gone)
            self._database.executemany("INSERT OR REPLACE INTO message VALUES (?, ?, ?)", kept)
            self._database.executemany("INSERT OR REPLACE INTO last_number VALUES (?, ?)", self._numbers.items())

    # --- read at start -------------------------------------------------------------------------------------------

    def restore(self, broker: Broker, configured: tuple[QueueSettings, ...]) -> None:
        """Fill an empty broker with what is kept, and with the configured queues, whose rules win.

        Raises `DataError` if a configured queue is of another kind than the one that is kept.
        """
        kept: dict[str, tuple[QueueSettings, float | None]] = dict(self._entities())
        for settings in configured:
            before, created = kept.get(settings.name.lower(), (settings, None))
            for rule in IMMUTABLE_SETTINGS:
                if getattr(before, rule) != getattr(settings, rule):
                    raise DataFolderError(
                        f"{self._path}: '{settings.name}' is kept with {rule} = {getattr(before, rule)}, and "
                        "configured otherwise. That cannot be changed: use another queue, or another --data."
                    )
            kept[settings.name.lower()] = (settings, created)
        for settings, created in kept.values():
            queue = broker.add(settings, created_at=created)
            for one in (queue, *queue.below()):
                self._refill(one)
        self.flush()

    def _entities(self) -> Iterator[tuple[str, tuple[QueueSettings, float]]]:
        for name, rules, created_at in self._database.execute("SELECT name, rules, created_at FROM entity"):
            values = json.loads(rules)
            values["status"] = QueueStatus(values["status"])
            values["policies"] = tuple(_policy(one) for one in values.get("policies", ()))
            yield name, (QueueSettings(**values), created_at)

    def _refill(self, queue: Queue) -> None:
        name = queue.settings.name.lower()
        rows = self._database.execute("SELECT content FROM message WHERE queue = ? ORDER BY number", (name,))
        (last,) = self._database.execute("SELECT max(number) FROM last_number WHERE queue = ?", (name,)).fetchone()
        try:
            queue.restore([_unpacked(content) for (content,) in rows], last or 0)
        except (DecodeError, TypeError, ValueError) as error:
            raise DataFolderError(
                f"{self._path}: a message of '{queue.settings.name}' cannot be read ({error})."
            ) from None
        since = queue.now() - queue.settings.duplicate_detection_seconds
        self._database.execute("DELETE FROM seen WHERE queue = ? AND at <= ?", (name, since))
        queue.restore_history(self._database.execute("SELECT key, at FROM seen WHERE queue = ? ORDER BY at", (name,)))
        sessions = self._database.execute("SELECT id, state, at FROM session WHERE queue = ?", (name,))
        for session, state, at in sessions:
            queue.sessions.restore(session, state, at)
        self._database.commit()


def _opened(path: Path) -> sqlite3.Connection:
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


def _plain(value: object) -> object:
    if isinstance(value, Right):
        return value.value
    raise TypeError(f"{type(value).__name__} is none of a queue's rules")


def _policy(kept: dict[str, Any]) -> Policy:
    return Policy(**kept | {"rights": Right(kept["rights"]), "keys": tuple(kept["keys"])})


def _packed(message: Message) -> bytes:
    values = (getattr(message, name) for name in _FIELDS)
    return encode([list(value) if isinstance(value, tuple) else value for value in values])


def _unpacked(content: bytes) -> Message:
    value, _ = decode(content)
    if not isinstance(value, list) or len(value) > len(_FIELDS):
        raise ValueError("it is of another form")
    fields = dict(zip(_FIELDS, value, strict=False))  # an older emulator knew fewer, the last ones not yet
    fields["header"] = tuple(fields["header"])
    fields["state"] = MessageState(fields["state"])
    return Message(**fields)
