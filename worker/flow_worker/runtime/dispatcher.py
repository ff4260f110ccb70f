"""Carries out the outcomes that the handler decides, for lanes and for the dead-letter watch alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import assert_never

from flow_contracts.servicebus import MessageTooLarge
from flow_worker.pipeline.outcome import Abandon, AlreadyHandled, Continue, DeadLetter, Outcome, Reply
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule

MarkPublished = Callable[[Reply], Awaitable[None]]
"""Notes in the journal that a result was published. It reports its own failures and raises none of them."""


class Dispatcher:
    """Publishes results, schedules continuations, and notes in the journal which results were published.

    Settling is not its concern: a lane settles the message by the outcome, the dead-letter watch leaves it in place.
    """

    def __init__(self, replies: Replies, schedule: Schedule, mark_published: MarkPublished) -> None:
        self._replies = replies
        self._schedule = schedule
        self._mark_published = mark_published

    async def send(self, outcome: Outcome) -> Outcome:
        """Send the messages of an outcome, and return the outcome that took effect.

        That is `Continue.otherwise` if the continuation queue does not take a message of the continuation's size.
        Sending is idempotent: each message has a deterministic ID, and the queues detect duplicates.

        Raises `ServiceBusFailure` if a queue did not accept a message within its deadline.
        """
        match outcome:
            case Continue(continuation=continuation, due=due, otherwise=otherwise):
                try:
                    await self._schedule.put(continuation, due)
                except MessageTooLarge:
                    # Retrying cannot help, so the request ends here: with a result, and kept for a person.
                    return await self.send(otherwise)
            case Reply() as reply:
                await self._replies.publish(reply)
            case DeadLetter(reply=reply):
                if reply is not None:
                    await self._replies.publish(reply)
            case AlreadyHandled() | Abandon():
                pass
            case _:
                assert_never(outcome)
        return outcome

    async def mark_published(self, outcome: Outcome) -> None:
        """Note in the journal that the result of an outcome, if it has one, was published."""
        match outcome:
            case Reply() as reply:
                await self._mark_published(reply)
            case DeadLetter(reply=reply):
                if reply is not None:
                    await self._mark_published(reply)
            case Continue() | AlreadyHandled() | Abandon():
                pass
            case _:
                assert_never(outcome)
