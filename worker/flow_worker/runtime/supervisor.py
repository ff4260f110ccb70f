"""All lanes and chores, supervised: started together, watched, and drained in three steps.

Stop taking requests → wait for those at hand for the grace period → stop waiting for their flows.
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
    """One of the crew: a lane, or a chore."""

    name: str

    async def run(self) -> None:
        """Work until stopped. Raises only for a fault in the worker itself."""
        ...

    def stop(self) -> None:
        """Begin nothing new; finish what is at hand."""
        ...

    def interrupt(self) -> None:
        """Do not wait for what is at hand."""
        ...


class Supervisor:
    """Runs all hands until told to stop; the death of one stops all, loudly."""

    def __init__(self, services: Sequence[Service], health: Health, *, grace_seconds: float) -> None:
        self.health = health
        self._services = services
        self._grace = grace_seconds
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Drain; called again, do not wait for the grace period to end."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Work until stopped and drained. Raises the error of the one that died of a fault in the worker."""
        tasks = [asyncio.create_task(service.run(), name=service.name) for service in self._services]
        stopped = asyncio.create_task(self._stop.wait(), name="stop signal")
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not self._stop.is_set():
            log(
                _log,
                logging.CRITICAL,
                "supervisor.service_failed",
                "A lane or chore died of a fault; the worker stops.",
            )
        await self._drain(tasks)
        await asyncio.gather(*tasks)

    async def _drain(self, tasks: list[asyncio.Task[None]]) -> None:
        self.health.draining = True
        for service in self._services:
            service.stop()
        log(
            _log,
            logging.INFO,
            "supervisor.draining",
            f"Stopping: requests at hand have {self._grace:g} s to finish.",
        )
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry signal")
        finished = asyncio.create_task(_all_done(tasks), name="lanes")
        await asyncio.wait([hurry, finished], timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not finished.done():
            unfinished = sum(not task.done() for task in tasks)
            log(
                _log,
                logging.WARNING,
                "supervisor.interrupting",
                f"{unfinished} are not done; their flows are left.",
            )
            for service in self._services:
                service.interrupt()
            await finished
        log(_log, logging.INFO, "supervisor.stopped", "Stopped; every request at hand was finished or given back.")


async def _all_done(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for all tasks, however they end."""
    await asyncio.wait(tasks)
