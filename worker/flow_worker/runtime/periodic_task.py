"""A periodic task: runs at an interval until the worker stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from flow_contracts.servicebus import ServiceBusFailure
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.runtime.message_lock import set_within
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)


class PeriodicTask:
    """Runs `work` at an interval. An outage skips a round; an internal error of the worker stops the worker."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        every_seconds: float,
        pause_seconds: Callable[[], float] = lambda: 0.0,
        on_stop: Callable[[], None] = lambda: None,
        is_reported: Callable[[], bool] = lambda: False,
    ) -> None:
        """`pause_seconds` returns the shortest pause after a round, if that is longer than `every_seconds`.

        `on_stop` ends the current round as soon as it is safe. `is_reported` returns whether another part of the worker
        reports the failure of a round already.
        """
        self.name = name
        self._work = work
        self._every = every_seconds
        self._pause = pause_seconds
        self._on_stop = on_stop
        self._is_reported = is_reported
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[object] | None = None

    def stop(self) -> None:
        """Begin no further round."""
        self._stopping.set()
        self._on_stop()

    def interrupt(self) -> None:
        """Cancel the current round; the first round of the next worker does the rest."""
        self.stop()
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Work until stopped. Raise only for an internal error of the worker."""
        while not self._stopping.is_set():
            await self._round()
            await set_within(self._stopping, max(self._every, self._pause()))

    async def _round(self) -> None:
        # A separate task, so that `interrupt` cancels the round and not the service that the supervisor awaits.
        self._task = asyncio.ensure_future(self._work())
        try:
            # `wait` does not raise the task's cancellation, which would look like a cancellation of this service.
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()
        except (ServiceBusFailure, TemporarilyUnavailable) as error:
            sentence = f"The periodic task '{self.name}' failed and runs again later: {error}"
            level = logging.DEBUG if self._is_reported() else logging.WARNING
            log(_log, level, "periodic_task.failed", sentence)
        finally:
            self._task.cancel()  # without effect unless this service itself was cancelled during the round
