"""How many connections the operating system lets a process hold."""

from __future__ import annotations

import logging
import sys

_log = logging.getLogger(__name__)
_OTHER_FILES = 200


def allow_connections(number: int) -> None:
    """Raise the process's limit of open files as far as it goes; many systems start at 256 or 1,024.

    Windows has no such limit. Logs a warning where the limit stays too low for `number`.
    """
    wanted = number + _OTHER_FILES
    reachable = _raise_limit(wanted)
    if reachable is not None and reachable < wanted:
        _log.warning("The system allows %d open files, so no %d connections; see `ulimit -n`.", reachable, number)


def _raise_limit(wanted: int) -> int | None:
    """The limit then; None where there is none, or none that matters."""
    if sys.platform != "win32":
        import resource  # imported here: Windows has none

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = resource.RLIM_INFINITY
        if soft != unlimited and soft < wanted:
            reachable = wanted if hard == unlimited else min(wanted, hard)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
            except (OSError, ValueError):
                return soft
            return reachable
    return None
