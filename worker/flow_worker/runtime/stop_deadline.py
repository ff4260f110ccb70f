"""Ends the process when its stop takes too long, whatever the process waits for."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_LOG_SECONDS = 0.5


class StopDeadline:
    """The deadline over the whole stop, as a thread: the event loop itself may be what does not end.

    An exit loses nothing. Service Bus delivers the unsettled requests again, and the journal knows their calls.
    """

    def __init__(self, seconds: float, *, exit_: Callable[[int], object] = os._exit) -> None:
        self._status = 0
        self._seconds = seconds
        self._exit = exit_
        self._timer: threading.Timer | None = None

    def start(self, failed: bool = False) -> None:
        """Begin to count; without effect if the stop has begun already. `failed`: the exit status is 1."""
        self._status = max(self._status, int(failed))
        if self._timer is None:
            self._timer = threading.Timer(self._seconds, self._end)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """Do not end the process: the stop is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        # In another thread, because the log's lock or a full pipe may be what the process waits for.
        logging_ = threading.Thread(target=self._log_exit, daemon=True)
        logging_.start()
        logging_.join(_LOG_SECONDS)
        self._exit(self._status)

    def _log_exit(self) -> None:
        sentence = (
            f"The stop took {self._seconds:g} s (shutdown_seconds), so the process exits without closing its "
            "connections. Service Bus delivers the unsettled requests again."
        )
        log(_log, logging.WARNING, "supervisor.exit_forced", sentence)
