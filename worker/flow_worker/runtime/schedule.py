"""Seals continuation messages and schedules them in the continuation queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from flow_contracts.message import Message
from flow_contracts.servicebus import BeforeSend
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.seal import Seal
from flow_worker.runtime.outbox import Outbox


class Schedule:
    """Schedules jobs. Scheduling the same step of a job twice has no further effect."""

    def __init__(self, outbox: Outbox, queue: str, *, seal: Seal, schedule_seconds: float) -> None:
        self._seal = seal
        self._outbox = outbox
        self._queue = queue
        self._schedule_seconds = schedule_seconds

    async def put(self, continuation: Job, due: datetime) -> None:
        """Return once the continuation queue has accepted the job; Service Bus delivers it when it is due.

        Raises `MessageTooLarge`, and `ServiceBusUnavailable` after `schedule_seconds`.
        """
        await self.put_message(self._sealed(continuation, due), due)

    async def put_together(self, continuations: Sequence[tuple[Job, datetime]], before: BeforeSend) -> None:
        """Do the same in one attempt, with one batch; see `Outbox.deliver_together`."""
        messages = [replace(self._sealed(job, due), scheduled_at=due) for job, due in continuations]
        if messages:
            await self._outbox.deliver_together(self._queue, messages, before=before)

    def _sealed(self, continuation: Job, due: datetime) -> Message:
        return self._seal.sealed(continuation.to_message(), due)

    async def put_message(self, message: Message, due: datetime) -> None:
        """Do the same as `put` with a message that another worker may read.

        The message keeps its own seal, or none: this worker cannot vouch for it.
        """
        await self._outbox.deliver(self._queue, replace(message, scheduled_at=due), seconds=self._schedule_seconds)
