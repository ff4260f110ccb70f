"""Answers requests that the broker itself moved to a dead-letter queue. They stay there, for people.

The worker answers before it dead-letters a request; the broker does not. It is the one that gives up when a request's
time to live is over or it was delivered too often, and its sender would wait for a result that never comes.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from flow_contracts.result import FlowError, Status
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.pipeline.handler import Handler, Reader
from flow_worker.pipeline.outcome import Continue, Done, Reply
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.servicebus import DeadLettered, ServiceBus
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_EXPIRED = FlowError(
    code="request_expired", message="The request's time to live ran out before its flow could be called."
)
_DELIVERIES = FlowError(
    code="deliveries_exceeded",
    message="The request was delivered too often without an end, and is kept in the dead-letter queue.",
    retryable=True,
)
_BY_BROKER: dict[str, tuple[Status, FlowError]] = {
    "TTLExpiredException": (Status.EXPIRED, _EXPIRED),
    "MaxDeliveryCountExceeded": (Status.FAILED, _DELIVERIES),
}
"""The reasons Service Bus gives itself (Microsoft Learn, "Service Bus dead-letter queues")."""


class DeadLetterWatch:
    """Looks through one queue's dead-letter queue, each time from where it is not done yet."""

    def __init__(
        self,
        queue: str,
        read: Reader,
        *,
        bus: ServiceBus,
        handler: Handler,
        replies: Replies,
        schedule: Schedule,
        oldest: timedelta,
    ) -> None:
        self._queue = queue
        self._read = read
        self._bus = bus
        self._handler = handler
        self._replies = replies
        self._schedule = schedule
        self._oldest = oldest
        self._next = 0

    async def look(self) -> None:
        """Answer the dead letters that have no result yet. Raises `ServiceBusUnavailable`, `TemporarilyUnavailable`."""
        done_until = self._next
        waiting = False
        async with self._bus.dead_letter_queue(self._queue) as dead:
            async for letter in dead.peek(from_sequence=self._next):
                waiting = not await self._answered_or_left(letter) or waiting
                if not waiting:
                    done_until = letter.message.sequence_number + 1
        self._next = done_until

    async def _answered_or_left(self, letter: DeadLettered) -> bool:
        """As `_answered`; whatever is in the way of one letter is its own trouble."""
        try:
            return await self._answered(letter)
        except Exception as trouble:  # noqa: BLE001 - or nobody behind this letter would ever be answered
            log(_log, logging.WARNING, "dead_letter.postponed", f"A dead-lettered request is answered later: {trouble}")
            return False

    async def _answered(self, letter: DeadLettered) -> bool:
        """Whether nothing is left to be told of this one."""
        verdict = _BY_BROKER.get(letter.reason)
        if verdict is None or letter.message.enqueued_at < datetime.now(UTC) - self._oldest:
            return True
        try:
            outcome = await self._handler.answer_dead(letter.message, self._read, *verdict)
        except TemporarilyUnavailable as reason:
            log(_log, logging.WARNING, "dead_letter.postponed", f"A dead-lettered request is answered later: {reason}")
            return False
        match outcome:
            case Reply() as reply:
                await self._replies.publish(reply)
                await self._handler.published(reply)
                self._say(letter, reply)
            case Continue(continuation=continuation, due=due) if continuation.waits == 0:
                await self._schedule.put(continuation, due)
            case Done():
                pass
            case _:
                return False
        return True

    def _say(self, letter: DeadLettered, reply: Reply) -> None:
        log(
            _log,
            logging.WARNING,
            "dead_letter.answered",
            f"A request that the broker dead-lettered ({letter.reason}) was answered {reply.result.status}.",
            queue=self._queue,
            message_id=letter.message.message_id,
            correlation_id=reply.address.correlation_id,
        )
