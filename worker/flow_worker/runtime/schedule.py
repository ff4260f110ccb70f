"""The continuation queue: where requests wait for their next step."""

from __future__ import annotations

from datetime import datetime

from flow_worker.pipeline.job import Job
from flow_worker.runtime.outbox import Outbox


class Schedule:
    """The way to the continuation queue."""

    def __init__(self, outbox: Outbox, queue: str, *, schedule_seconds: float) -> None:
        self._outbox = outbox
        self._queue = queue
        self._schedule_seconds = schedule_seconds

    async def put(self, continuation: Job, due: datetime) -> None:
        """Returns once the queue has accepted it; it is delivered when it is due.

        Raises `MessageTooLarge`, and `ServiceBusFailure` after `schedule_seconds`.
        """
        await self._outbox.deliver(self._queue, continuation.to_message(due), seconds=self._schedule_seconds)
