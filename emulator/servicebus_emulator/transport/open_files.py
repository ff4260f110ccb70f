"""The operating system's limit on open files, which bounds the number of connections."""

from __future__ import annotations

import logging
import sys

_log = logging.getLogger(__name__)
_OTHER_FILES = 200


def raise_open_file_limit(connections: int) -> None:
    """Raise the process's limit of open files for this many connections; many systems start at 256 or 1,024.

    Log a warning if the system does not allow enough. Windows has no such limit.
    """
    required = connections + _OTHER_FILES
    limit = _raise_limit(required)
    if limit is not None and limit < required:
        _log.warning("The system allows %d open files, so no %d connections; see `ulimit -n`.", limit, connections)


def _raise_limit(required: int) -> int | None:
    """Return the limit if it is a bound; None if there is no limit or it was high enough."""
    if sys.platform != "win32":
        import resource  # imported here: Windows does not have the module

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = resource.RLIM_INFINITY
        if soft != unlimited and soft < required:
            reachable = required if hard == unlimited else min(required, hard)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
            except (OSError, ValueError):
                return soft
            return reachable
    return None
