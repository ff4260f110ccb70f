"""The supervisor: starts all lanes and periodic tasks, watches them, and drains them in three steps.

Stop receiving → wait for the current requests for the grace period → interrupt them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from flow_worker.telemetry.health import Health
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)


class Service(Protocol):
    """A part that the supervisor runs: a lane or a periodic task."""

    name: str

    async def run(self) -> None:
        """Work until stopped. Raise only for an internal error of the worker."""
        ...

    def stop(self) -> None:
        """Begin no new work; finish the current work."""
        ...

    def interrupt(self) -> None:
        """Do not wait for the current work any longer."""
        ...


class Supervisor:
    """Runs all services until it is stopped. If one service fails, the supervisor stops them all."""

    def __init__(self, services: Sequence[Service], health: Health, *, grace_seconds: float) -> None:
        self.health = health
        self._services = services
        self._grace = grace_seconds
        self._stop = asyncio.Event()
        self._skip_grace = asyncio.Event()

    def stop(self) -> None:
        """Drain. A second call ends the grace period."""
        if self._stop.is_set():
            self._skip_grace.set()
        self._stop.set()

    async def run(self) -> None:
        """Work until stopped and drained. Raise the error of a service that failed."""
        tasks = [asyncio.create_task(service.run(), name=service.name) for service in self._services]
        stopped = asyncio.create_task(self._stop.wait(), name="stop signal")
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not self._stop.is_set():
            sentence = "A lane or a periodic task failed with an internal error; the worker stops."
            log(_log, logging.CRITICAL, "supervisor.service_failed", sentence)
        await self._drain(tasks)
        await asyncio.gather(*tasks)  # all are done by now; this raises the error of one that failed

    async def _drain(self, tasks: list[asyncio.Task[None]]) -> None:
        # First, so that the readiness probe fails before the worker stops to receive.
        self.health.draining = True
        for service in self._services:
            service.stop()
        sentence = f"The worker stops: the current requests have {self._grace:g} s to finish."
        log(_log, logging.INFO, "supervisor.draining", sentence)
        skipped = asyncio.create_task(self._skip_grace.wait(), name="skip grace period")
        # Not `gather`, which ends at the first failure: the other services still need the time to finish.
        finished = asyncio.create_task(_wait_for_all(tasks), name="services")
        await asyncio.wait([skipped, finished], timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
        skipped.cancel()
        if not finished.done():
            unfinished = sum(not task.done() for task in tasks)
            sentence = f"The grace period is over: the worker interrupts {unfinished} lanes and periodic tasks."
            log(_log, logging.WARNING, "supervisor.interrupting", sentence)
            for service in self._services:
                service.interrupt()
            await finished
        sentence = "The worker stopped: it finished or abandoned every request."
        log(_log, logging.INFO, "supervisor.stopped", sentence)


async def _wait_for_all(tasks: list[asyncio.Task[None]]) -> None:
    """Wait until all tasks are done, whether they succeeded or failed."""
    await asyncio.wait(tasks)
