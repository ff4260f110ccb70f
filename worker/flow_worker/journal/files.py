"""The files of an SQLite journal or store: the database, its write-ahead log and the log's index.

SQLite keeps open files by descriptor. If a file is deleted or replaced, SQLite writes on into the old one, while other
processes open the new one by its path.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from flow_worker.journal.kind import JOURNAL, FileKind
from flow_worker.journal.store import StoreReplaced

_VERIFY_EVERY_SECONDS = 0.01
"""Another worker needs longer to start on a new file. A busy worker saves three system calls for each commit."""

_OTHER_USERS = 0o077
"""The permissions of the group and of all others."""

_Identity = tuple[int, int]
"""The device and the inode of a file. Windows has both too, as the volume and the file's index."""


class JournalFiles:
    """The files of one open journal, by path and by identity."""

    def __init__(self, path: Path, kind: FileKind = JOURNAL) -> None:
        self.kind = kind
        # Absolute, because a change of the working directory must not look like a replaced file.
        self.given = path
        self.path = path.absolute()
        self.database = str(self.path)
        real = os.path.realpath(self.path)  # SQLite keeps the others beside the file that a symbolic link leads to
        self.log, self.index = f"{real}-wal", f"{real}-shm"
        self._identities: dict[str, _Identity] = {}
        self._verify_again_at = float("-inf")

    def remember(self) -> None:
        """Remember the identities of the open files. Raises `OSError` if one is missing."""
        self._identities = {file: _identity(os.stat(file)) for file in (self.database, self.log, self.index)}

    def keep_private(self) -> list[str]:
        """Take the files from other users, if they may open them; return the files that they can open nevertheless.

        The files hold the outputs of flows. A copy, or a version before this rule, may have left them open. The mode is
        changed by path, because closing a descriptor would release the locks of another connection of this process.
        """
        if os.name == "nt":  # knows no file modes
            return []
        real = os.path.realpath(self.path)
        files = (self.database, self.log, self.index, f"{real}-journal", f"{self.path}-reserve")
        return [file for file in files if not _is_private(file)]

    def database_bytes(self) -> int:
        """Return the size of the database file, without the pages that are only in the log."""
        return os.stat(self.database).st_size

    def verify_often(self) -> None:
        """Do as `verify`, unless the last time was a moment ago."""
        if time.monotonic() > self._verify_again_at:
            self.verify()

    def verify(self) -> None:
        """Raise `StoreReplaced` if a path no longer leads to the open file; `OSError` if that cannot be decided."""
        for file, identity in self._identities.items():
            try:
                found = os.stat(file)
            except (FileNotFoundError, NotADirectoryError):
                raise self._replaced(file, "was deleted or renamed") from None
            if _identity(found) != identity:
                raise self._replaced(file, "was replaced by another file")
            if file == self.database and found.st_size == 0:
                raise self._replaced(file, "was emptied")
        self._verify_again_at = time.monotonic() + _VERIFY_EVERY_SECONDS

    def _replaced(self, file: str, fate: str) -> StoreReplaced:
        kind = self.kind
        text = f"the {kind.name}'s file '{file}' {fate} under the {kind.process}; {kind.if_replaced}"
        return StoreReplaced(kind.code, text)


def _is_private(file: str) -> bool:
    """Return whether only the owner can open the file, after a correction of its mode; True if there is none."""
    with suppress(OSError):  # another user's file, or a file system without modes
        if os.stat(file).st_mode & _OTHER_USERS:
            os.chmod(file, 0o600)
    try:
        return not os.stat(file).st_mode & _OTHER_USERS
    except FileNotFoundError:
        return True


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino
