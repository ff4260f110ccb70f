"""Keeps one receiver of a queue connected: opens it, hands it to its user, and reconnects after each failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.servicebus import ServiceBusFailure
from flow_worker.runtime.message_lock import set_within
from flow_worker.runtime.ports import Bus, QueueReceiver
from flow_worker.runtime.stopping import unless_set
from flow_worker.telemetry.health import LaneHealth
from flow_worker.telemetry.outage_log import OutageEvents, OutageLog

_FIRST_SECONDS: Final = 0.25

LANES: Final = OutageEvents(
    failing="lane.reconnecting",
    failing_sentence="The lanes reconnect to '{}'",
    recovered="lane.reconnected",
    recovered_sentence="Every lane of '{}' is connected again.",
    participants="lanes",
)
GATEWAY_RECEIVERS: Final = OutageEvents(
    failing="gateway.reconnecting",
    failing_sentence="The gateway reconnects to '{}'",
    recovered="gateway.reconnected",
    recovered_sentence="Every receiver of '{}' is connected again.",
    participants="receivers",
)


class Reconnection:
    """The connection of one participant to its queue."""

    def __init__(
        self,
        participant: object,
        queue: str,
        *,
        bus: Bus,
        health: LaneHealth,
        outages: OutageLog,
        max_seconds: float,
        stopping: asyncio.Event,
    ) -> None:
        """`outages`: shared by all participants of the queue. `max_seconds`: the longest pause between attempts."""
        self._participant = participant
        self._queue = queue
        self._bus = bus
        self._health = health
        self._outages = outages
        self._max_seconds = max_seconds
        self._stopping = stopping

    async def run(
        self, consume: Callable[[QueueReceiver], Awaitable[None]], halted: Callable[[], str | None] = lambda: None
    ) -> None:
        """Let `consume` use a receiver until the stop. Raise only an internal error.

        `halted`: returns why the participant must not receive at the moment; None if it may.
        """
        try:
            await self._run(consume, halted)
        finally:
            self._outages.gave_up(self._participant)

    async def _run(self, consume: Callable[[QueueReceiver], Awaitable[None]], halted: Callable[[], str | None]) -> None:
        failures = 0
        while not self._stopping.is_set():
            if (cause := halted()) is not None:
                self._health.mark_disconnected(cause)
                await set_within(self._stopping, self._max_seconds)
                continue
            try:
                async with contextlib.AsyncExitStack() as stack:
                    opening = stack.enter_async_context(self._bus.receiver(self._queue))
                    receiver = await unless_set(self._stopping, opening)
                    if receiver is None:
                        return
                    failures = 0
                    self._health.mark_connected()
                    self._outages.recovered(self._participant)
                    await consume(receiver)
            except ServiceBusFailure as error:
                failures += 1
                self._health.mark_disconnected(str(error))
                self._outages.failed(self._participant, error)
                await set_within(self._stopping, reconnect_pause(failures, self._max_seconds))


def reconnect_pause(failures: int, max_seconds: float) -> float:
    """Return the seconds to wait after that many failures in a row: doubling, with jitter between a half and one."""
    return ExponentialBackoff(_FIRST_SECONDS, max_seconds, jitter_from=0.5).seconds(failures)
