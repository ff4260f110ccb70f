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
    if sys.platform == "win32":
        return
    import resource  # imported here: Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = number + _OTHER_FILES
    if soft == unlimited or soft >= wanted:
        return
    reachable = wanted if hard == unlimited else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (OSError, ValueError):
        reachable = soft
    if reachable < wanted:
        _log.warning("The system allows %d open files, so no %d connections; see `ulimit -n`.", reachable, number)
