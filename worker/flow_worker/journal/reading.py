"""Reads from an SQLite file on the event loop's thread, beside the connection that writes."""

from __future__ import annotations

import sqlite3

from flow_worker.journal.files import JournalFiles
from flow_worker.journal.transactions import Operation


class Reading:
    """A connection that only reads. In WAL mode it waits for no writer, and no writer waits for it."""

    def __init__(self, files: JournalFiles) -> None:
        """Raises `sqlite3.Error`. The connection that writes is open, so that the log and its index exist."""
        self._files = files
        files.verify()
        self._connection = sqlite3.connect(
            f"{files.path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA query_only = TRUE")
        self._version: object = None

    def run(self, operation: Operation) -> object:
        """Run one statement. Raises `sqlite3.Error`, `OSError` and `StoreReplaced`."""
        self._files.verify_often()
        return operation(self._connection)

    def has_changed(self) -> bool:
        """Return whether any process has committed since the last call; it costs a microsecond. Raises as `run`."""
        self._files.verify_often()
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        has_changed, self._version = version != self._version, version
        return bool(has_changed)

    def close(self) -> None:
        """Close the connection, before that of the writer: the last one transfers the log into the file."""
        self._connection.close()
