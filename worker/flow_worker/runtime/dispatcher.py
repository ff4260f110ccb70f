"""Carries out the outcomes that the handler decides, for lanes and for the dead-letter watch alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from flow_contracts.servicebus import BeforeSend, LockLost, MessageTooLarge, ServiceBusFailure
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Journal
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.keys import LockHeld, always_held
from flow_worker.pipeline.outcome import Abandon, AlreadyHandled, Continue, Outcome, PassOn, Reply, reply_of
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

EndOversized = Callable[[Job], Awaitable[Outcome]]
"""Ends a request whose continuation is too large for its queue. Raises `TemporarilyUnavailable`."""


Published = Callable[[Reply], Awaitable[None]]
"""Learns that a reply queue has accepted a result. It raises no error."""


class _AnsweredMeanwhile(Exception):
    """Another worker published the result after this one lost the message's lock."""


class Dispatcher:
    """Publishes results, schedules continuations, and records published results in the journal.

    The dispatcher settles no message: a lane settles by the outcome, the dead-letter watch leaves the message in place.
    """

    def __init__(
        self,
        replies: Replies,
        schedule: Schedule,
        journal: Journal,
        *,
        end_oversized: EndOversized,
        reply_retention: timedelta,
        published: Published | None = None,
    ) -> None:
        """`reply_retention`: how long the journal remembers a published result of a request without an entry.

        `published` is awaited for each reply that its queue has accepted, before the message can be settled.
        """
        self._replies = replies
        self._schedule = schedule
        self._journal = journal
        self._end_oversized = end_oversized
        self._reply_retention = reply_retention
        self._published = published

    async def send(self, outcome: Outcome, *, lock_held: LockHeld = always_held) -> Outcome:
        """Send the messages of an outcome, and return the outcome that took effect.

        That is another one if the continuation queue does not take a message of the continuation's size. Sending is
        idempotent: each message has a deterministic ID, and the queues detect duplicates.

        `lock_held` returns whether the message's lock still holds; if not, another worker may have the message. Raises
        `ServiceBusFailure` if a queue did not accept a message within its deadline, and `LockLost`.
        """
        if isinstance(outcome, Continue):
            try:
                await self._schedule.put(outcome.continuation, outcome.due)
            except MessageTooLarge:
                # Retrying cannot help, so the request ends here: with a result, and kept for a person.
                return await self.send(await self._without_continuation(outcome.continuation), lock_held=lock_held)
        if isinstance(outcome, PassOn):
            try:
                await self._schedule.put_message(outcome.message, outcome.due)
            except MessageTooLarge:
                # Its deliveries run out then, Service Bus dead-letters it, and the watch answers it.
                return Abandon("continuation_unreadable", "the message is too large to schedule it again")
        reply = reply_of(outcome)
        if reply is not None:
            try:
                # Before each attempt: the worker may have been frozen during the one before, or while the sender
                # opened. Beyond the detection window, the attempt would publish a second result.
                await self._publish(reply, lambda: self._require_open(reply, lock_held))
            except _AnsweredMeanwhile:
                return AlreadyHandled("already_answered", "Another delivery of the request published its result.")
        return outcome

    async def send_together(self, outcomes: Sequence[tuple[Reply | Continue, LockHeld]]) -> bool:
        """Send the messages of these outcomes in one attempt, as one batch for each queue. Return whether it succeeded.

        If not, some of the batches may have been sent. The caller then calls `send` for each outcome.
        """

        async def require_locks() -> None:
            if not all(lock_held() for _, lock_held in outcomes):
                raise LockLost("a lock expired before the worker sent the batch")

        replies = [outcome for outcome, _ in outcomes if isinstance(outcome, Reply)]
        continuations = [outcome for outcome, _ in outcomes if isinstance(outcome, Continue)]
        try:
            await self._replies.publish_together(replies, require_locks)
            await self._schedule.put_together([(each.continuation, each.due) for each in continuations], require_locks)
        except (MessageTooLarge, LockLost, ServiceBusFailure) as error:
            sentence = f"A queue did not accept a batch of messages, so the worker sends each alone: {error}"
            log(_log, logging.WARNING, "send.batch_failed", sentence)
            return False
        if self._published is not None:
            await asyncio.gather(*map(self._published, replies))
        return True

    async def _without_continuation(self, job: Job) -> Outcome:
        try:
            outcome = await self._end_oversized(job)
        except TemporarilyUnavailable as outage:
            return Abandon(outage.code, outage.message)
        if isinstance(outcome, Continue):  # another worker holds the lease, and this one cannot wait for it either
            return Abandon("continuation_too_large", "the continuation queue does not take a message of this size")
        return outcome

    async def _require_open(self, reply: Reply, lock_held: LockHeld) -> None:
        """Raise `_AnsweredMeanwhile` if the lock was lost and another worker published the result.

        Raises `LockLost` for a result that only the lock justifies: the next delivery decides anew. Raises it also if
        the journal has the result but does not answer now. A worker that was frozen gets no answer in time either.
        """
        if lock_held():
            return
        if reply.journalled is None:
            raise LockLost("the lock expired before the worker published a result that the journal does not hold")
        try:
            entry = await self._journal.find(reply.journalled.message_id)
        except TemporarilyUnavailable as outage:
            if reply.stand_in is not None:
                return  # the journal could not take the result, so no other place has it
            raise LockLost(f"the lock expired, and the next delivery publishes the result: {outage.message}") from None
        if entry is not None and entry.published_for == reply.journalled.origin:
            raise _AnsweredMeanwhile

    async def _publish(self, reply: Reply, before: BeforeSend) -> None:
        """Publish the result. If the task is cancelled just when the queue accepts the result, still mark it."""
        publishing = asyncio.ensure_future(self._replies.publish(reply, before))
        try:
            await asyncio.shield(publishing)
        except asyncio.CancelledError:
            publishing.cancel()
            await asyncio.wait([publishing])
            if not publishing.cancelled() and publishing.exception() is None:
                await self._note_published(reply)
                await self.mark_published(reply)
            raise
        # Before the mark: a redelivery of a marked result does nothing any more.
        await self._note_published(reply)

    async def _note_published(self, reply: Reply) -> None:
        if self._published is not None:
            await self._published(reply)

    async def mark_published(self, outcome: Outcome) -> None:
        """Record in the journal that the worker published the outcome's result, if there is one; log a failure.

        A redelivered message then ends `already_handled`. Without the record the worker publishes its result again, and
        duplicate detection drops it within the queue's detection window.
        """
        reply = reply_of(outcome)
        if reply is None:
            return
        try:
            await self._mark(reply)
        except TemporarilyUnavailable as error:
            sentence = f"The worker published a result but could not record that in the journal: {error}"
            log(_log, logging.WARNING, "journal.write_failed", sentence, message_id=reply.result.request_message_id)

    async def _mark(self, reply: Reply) -> None:
        if reply.journalled is not None:
            await self._journal.mark_published(reply.journalled.message_id, reply.journalled.origin)
        if reply.stand_in is not None:
            await self._journal.keep_published(reply.stand_in, reply.result, retention=self._reply_retention)
