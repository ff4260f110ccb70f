"""Carries out the outcomes that the handler decides, for lanes and for the dead-letter watch alike."""

from __future__ import annotations

import logging

from flow_contracts.servicebus import MessageTooLarge
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Journal
from flow_worker.pipeline.outcome import Abandon, Continue, Outcome, PassOn, reply_of
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)


class Dispatcher:
    """Publishes results, schedules continuations, and records published results in the journal.

    The dispatcher settles no message: a lane settles by the outcome, the dead-letter watch leaves the message in place.
    """

    def __init__(self, replies: Replies, schedule: Schedule, journal: Journal) -> None:
        self._replies = replies
        self._schedule = schedule
        self._journal = journal

    async def send(self, outcome: Outcome) -> Outcome:
        """Send the messages of an outcome, and return the outcome that took effect.

        That is `Continue.otherwise` if the continuation queue does not take a message of the continuation's size.
        Sending is idempotent: each message has a deterministic ID, and the queues detect duplicates.

        Raises `ServiceBusFailure` if a queue did not accept a message within its deadline.
        """
        if isinstance(outcome, Continue):
            try:
                await self._schedule.put(outcome.continuation, outcome.due)
            except MessageTooLarge:
                # Retrying cannot help, so the request ends here: with a result, and kept for a person.
                return await self.send(outcome.otherwise)
        if isinstance(outcome, PassOn):
            try:
                await self._schedule.put_message(outcome.message, outcome.due)
            except MessageTooLarge:
                # Its deliveries run out then, Service Bus dead-letters it, and the watch answers it.
                return Abandon("continuation_unreadable", "the message is too large to schedule it again")
        reply = reply_of(outcome)
        if reply is not None:
            await self._replies.publish(reply)
        return outcome

    async def mark_published(self, outcome: Outcome) -> None:
        """Record in the journal that the worker published the outcome's result, if there is one; log a failure.

        A redelivered message then ends `already_handled`. Without the record the worker publishes its result again, and
        duplicate detection drops it within the queue's detection window.
        """
        reply = reply_of(outcome)
        if reply is None or reply.journalled is None:
            return
        try:
            await self._journal.mark_published(reply.journalled.message_id, reply.journalled.origin)
        except TemporarilyUnavailable as error:
            sentence = f"The worker published a result but could not record that in the journal: {error}"
            log(_log, logging.WARNING, "journal.write_failed", sentence, message_id=reply.journalled.message_id)
