"""Work that comes round again: done every so many seconds until the worker stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from flow_contracts.servicebus import ServiceBusFailure
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)


class PeriodicTask:
    """One such piece of work. Trouble with what it needs is said and waited out; a fault of ours stops the worker."""

    def __init__(self, name: str, work: Callable[[], Awaitable[object]], *, every_seconds: float) -> None:
        self.name = name
        self._work = work
        self._every = every_seconds
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[object] | None = None

    def stop(self) -> None:
        """Begin no other round."""
        self._stopping.set()

    def interrupt(self) -> None:
        """Leave the round at hand: whatever it has not done yet, the next worker's first round does."""
        self.stop()
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Work until stopped. Raises only for a fault in the worker itself."""
        while not self._stopping.is_set():
            await self._round()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._stopping.wait()

    async def _round(self) -> None:
        self._task = asyncio.ensure_future(self._work())
        try:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()
        except (ServiceBusFailure, TemporarilyUnavailable) as trouble:
            log(_log, logging.WARNING, "periodic_task.failed", f"'{self.name}' is tried again later: {trouble}")
        finally:
            self._task.cancel()
