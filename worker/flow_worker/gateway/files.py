"""The number of files that the process may open: each connection is one."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

_OTHER_FILES: Final = 512
"""Connections to Service Bus, the store, and files of Python."""


def raise_file_limit(connections: int) -> None:
    """Raise the soft limit as far as the connections need and the hard limit allows. Windows has no such limit."""
    if sys.platform == "win32":
        return
    import resource  # POSIX only

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a further limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
