"""A file that holds disk space for the journal, so that a full disk leaves room to transfer the write-ahead log.

The transfer makes the database grow by at most the log's size, and only then can the log be emptied. Without room for
the transfer a full disk is final: the log fills it, and nothing can shrink the log.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
from pathlib import Path

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 1024
_MIN_STEP_BYTES = 64 * 1024
_MIN_FOR_NEW_BYTES = 2 * 1024 * 1024
"""With a smaller reserve the journal takes no new request, and keeps the room for the results of the begun ones."""


class Reserve:
    """The reserve of `size` bytes; 0 for none. The processes of one journal share the file."""

    def __init__(self, journal: Path, size: int) -> None:
        self.size = size
        self._path = f"{journal}-reserve"
        self._folder = journal.parent

    def held(self) -> int:
        """Return the bytes that the reserve holds now. Another process may have released them."""
        try:
            return min(self.size, os.stat(self._path).st_size) if self.size else 0
        except OSError:
            return 0

    @property
    def min_for_new(self) -> int:
        """The bytes that the reserve must hold before the journal takes a new request."""
        return min(self.size, _MIN_FOR_NEW_BYTES)

    def release(self) -> None:
        """Return the reserve's space to the disk."""
        if not self.size:
            return  # the file, if there is one, belongs to workers with a reserve
        try:
            os.truncate(self._path, 0)  # some file systems free no space for a deletion while they are full
        except OSError:
            return  # there is none to release

    def refill(self) -> None:
        """Take as much of the reserve's size as half of the disk's room allows: the log needs the other half."""
        if not self.size:
            return
        try:
            held = self.held()
            room = held + shutil.disk_usage(self._folder).free
            target = min(self.size, room // 2)
            if target - held >= min(_MIN_STEP_BYTES, self.size - held) > 0:
                self._extend(held, target)
        except OSError as error:
            if error.errno not in FULL_DISK:
                _log.debug("The journal's reserve could not be written: %s", error)

    def _extend(self, held: int, target: int) -> None:
        # Real bytes, and not compressible: a sparse or compressed file would hold no room.
        chunk = random.Random(0).randbytes(_CHUNK_BYTES)  # noqa: S311 - filler, not a secret
        descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.seek(held)
            while held < target:
                held += file.write(chunk[: target - held])


FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk is full, the quota is used up, or the file may not grow."""
