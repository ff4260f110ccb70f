"""Checks of the request queue, for readiness."""

from __future__ import annotations

import time
from typing import ClassVar

from flow_contracts.servicebus import ServiceBus, ServiceBusFailure
from flow_worker.telemetry.health import LaneHealth


class QueueProbe:
    """Opens a sender to the request queue, unless a request was sent lately."""

    EVERY_SECONDS: ClassVar = 5.0
    _IDLE_SECONDS: ClassVar = 30.0

    def __init__(self, bus: ServiceBus, queue: str, health: LaneHealth) -> None:
        self._bus = bus
        self._queue = queue
        self._health = health
        self._proven_at = float("-inf")

    def sent(self, error: str | None) -> None:
        """Learn how a send ended: with an error, or accepted by the queue (None)."""
        if error is None:
            self._proven_at = time.monotonic()
            self._health.mark_connected()
        else:
            self._health.mark_disconnected(error)

    async def check(self) -> None:
        """Record whether the queue takes messages."""
        if self._health.is_connected and time.monotonic() - self._proven_at < self._IDLE_SECONDS:
            return
        try:
            await self._bus.verify_send(self._queue)
        except ServiceBusFailure as error:
            self.sent(str(error))
        else:
            self.sent(None)
