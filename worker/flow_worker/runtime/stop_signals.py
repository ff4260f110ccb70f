"""Stops the worker on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from flow_worker.runtime.supervisor import OnStop, Supervisor


class StopSignals:
    """Stops the worker on a signal, also one that opens its connections still."""

    def __init__(self, on_stop: OnStop) -> None:
        self.supervisor: Supervisor | None = None
        self.stopped_start = False
        self._on_stop = on_stop
        self._starting = asyncio.current_task()
        _on_stop_signal(self._stop)

    def _stop(self) -> None:
        if self.supervisor is not None:
            self.supervisor.stop()
        elif self._starting is not None and not self.stopped_start:
            self.stopped_start = True
            self._on_stop(False)
            self._starting.cancel()


def _on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` in the event loop on SIGTERM and SIGINT, or on Ctrl-C and Ctrl-Break under Windows."""
    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows: the loop has no signals; the handler runs between bytecodes
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
