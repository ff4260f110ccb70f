"""Locks files between processes, on every operating system."""

from __future__ import annotations

import sys
from typing import IO


def is_locked_now(file: IO[str]) -> bool:
    """Lock the file until it is closed, or the process ends. Return False if another process has locked it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
