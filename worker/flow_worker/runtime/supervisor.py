"""The supervisor: starts all lanes and periodic tasks, watches them, and drains them in four steps.

Stop receiving → wait for the current requests for the grace period → interrupt them → leave those that do not end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from flow_worker.telemetry.health import Health
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_CLOSING_SECONDS = 3.0
"""The part of the stop that remains for closing connections and files: at most half of the time after the grace."""
_LEAVING_SECONDS = 0.2
"""The time in which a service whose publishing was cut off may end."""


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
        """Do not wait for the current work any longer. A second call also ends the publishing of its outcome."""
        ...


OnStop = Callable[[bool], None]
"""Called when a stop begins, with True if a service failed."""


class Supervisor:
    """Runs all services until it is stopped. If one service fails, the supervisor stops them all."""

    def __init__(
        self,
        services: Sequence[Service],
        health: Health,
        *,
        grace_seconds: float,
        stop_seconds: float,
        on_stop: OnStop = lambda _: None,
        program: str = "worker",
    ) -> None:
        """`stop_seconds` bounds the whole stop. `program` is the process in the sentences of the log."""
        self.health = health
        self._services = services
        self._grace = grace_seconds
        self._working = leave_after(grace_seconds, stop_seconds)
        self._on_stop = on_stop
        self._program = program
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
            sentence = f"A lane or a periodic task failed with an internal error; the {self._program} stops."
            log(_log, logging.CRITICAL, "supervisor.service_failed", sentence)
        await self._drain(tasks)
        for task in tasks:
            if task.done() and not task.cancelled():
                task.result()  # raises the error of one that failed

    async def _drain(self, tasks: list[asyncio.Task[None]]) -> None:
        # First, so that the readiness probe fails before the worker stops to receive.
        self.health.draining = True
        self._on_stop(not self._stop.is_set())
        began = time.monotonic()
        for service in self._services:
            service.stop()
        sentence = f"The {self._program} stops: the current requests have {self._grace:g} s to finish."
        log(_log, logging.INFO, "supervisor.draining", sentence)
        skipped = asyncio.create_task(self._skip_grace.wait(), name="skip grace period")
        # Not `gather`, which ends at the first failure: the other services still need the time to finish.
        finished = asyncio.create_task(_wait_for_all(tasks), name="services")
        await asyncio.wait([skipped, finished], timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
        skipped.cancel()
        if not finished.done():
            unfinished = sum(not task.done() for task in tasks)
            services = f"{unfinished} lanes and periodic tasks"
            sentence = f"The grace period is over: the {self._program} interrupts {services}."
            log(_log, logging.WARNING, "supervisor.interrupting", sentence)
            self._interrupt()
            await asyncio.wait([finished], timeout=max(0.0, began + self._working - time.monotonic()))
        if not finished.done():
            await self._leave(tasks)
            finished.cancel()
        else:
            sentence = f"The {self._program} stopped: it finished or abandoned every request."
            log(_log, logging.INFO, "supervisor.stopped", sentence)

    def _interrupt(self) -> None:
        for service in self._services:
            service.interrupt()

    async def _leave(self, tasks: list[asyncio.Task[None]]) -> None:
        """Wait no longer for the services that do not end: their connections are probably dead."""
        self._interrupt()
        await asyncio.wait(tasks, timeout=_LEAVING_SECONDS)
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        names = ", ".join(task.get_name() for task in unfinished)
        sentence = (
            f"The {self._program} stopped after {self._working:g} s without {len(unfinished)} lanes and periodic tasks"
            f"{': ' if names else ''}{names}. Service Bus delivers their unsettled requests again."
        )
        log(_log, logging.WARNING, "supervisor.stopped_early", sentence)


def leave_after(grace_seconds: float, stop_seconds: float) -> float:
    """Return the seconds after which a stop waits no longer for its services, so that it still can close."""
    return stop_seconds - min(_CLOSING_SECONDS, (stop_seconds - grace_seconds) / 2)


async def _wait_for_all(tasks: list[asyncio.Task[None]]) -> None:
    """Wait until all tasks are done, whether they succeeded or failed."""
    await asyncio.wait(tasks)
