"""Answers requests that Service Bus itself dead-lettered, and leaves them in the dead-letter queue.

Those whose sender nobody has proven stay for a limited time only; see `UnprovenDeadLetters`.

The worker publishes a result before it dead-letters a request. Service Bus publishes no result when it dead-letters a
request after its time to live or after too many deliveries. The sender would wait in vain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import assert_never, get_args

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import InvalidRequest, InvalidRequestCode, Unanswerable
from flow_contracts.result import FlowError, Status
from flow_contracts.servicebus import DeadLetteredMessage
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.pipeline import results
from flow_worker.pipeline.decode import Reader, decode
from flow_worker.pipeline.handler import Handler
from flow_worker.pipeline.job import InvalidContinuation, UnprovenContinuation
from flow_worker.pipeline.outcome import (
    Abandon,
    AlreadyHandled,
    Continue,
    DeadLetter,
    Outcome,
    PassOn,
    Reply,
    reply_of,
)
from flow_worker.pipeline.seal import SealState
from flow_worker.runtime.answered_dead_letters import Answered, AnsweredDeadLetters
from flow_worker.runtime.ports import Bus, DeadLetterReader, OutcomeSender
from flow_worker.runtime.unproven_dead_letters import UnprovenDeadLetters
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_DELIVERIES_EXCEEDED = FlowError(
    code="deliveries_exceeded",
    message="The request was delivered too often without a result; it is in the dead-letter queue.",
    retryable=True,
)
_BY_BROKER: dict[str, tuple[Status, FlowError]] = {
    "TTLExpiredException": (Status.EXPIRED, results.EXPIRED),
    "MaxDeliveryCountExceeded": (Status.FAILED, _DELIVERIES_EXCEEDED),
}
"""The results by the broker's own reasons (Microsoft Learn, "Service Bus dead-letter queues")."""


_UNPROVEN = frozenset(
    {
        *("message_id_missing", "message_id_too_long", "correlation_id_too_long", "reply_to_session_id_too_long"),
        "continuation_unproven",
        *get_args(InvalidRequestCode),  # with an address, such a request is answered and not dead-lettered
    }
)
"""The worker's reasons for messages that have no result, and whose sender nobody has proven."""

_PAUSE_PER_BUSY_SECOND = 9.0
"""With this pause, reading takes at most a tenth of the time, however many dead letters the queue holds."""

_MAX_JOURNAL_FAILURES = 5


class DeadLetterWatch:
    """Answers the messages in the dead-letter queue of one queue.

    Each round starts at the front. Sequence numbers do not say what is new: a broker may keep a message's number when
    it dead-letters the message, partitioned queues do not number in order, and a queue that was created again starts
    again.
    """

    def __init__(
        self,
        queue: str,
        read: Reader,
        *,
        bus: Bus,
        handler: Handler,
        dispatcher: OutcomeSender,
        answered: AnsweredDeadLetters,
        unproven: UnprovenDeadLetters,
        max_age: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        """`max_age`: the watch answers no older dead letters, because the journal may have forgotten their requests."""
        self._queue = queue
        self._read = read
        self._bus = bus
        self._handler = handler
        self._dispatcher = dispatcher
        self._answered = answered
        self._unproven = unproven
        self._max_age = max_age
        self._now = now
        self._busy_seconds = 0.0
        self._sending_seconds = 0.0
        self._journal_failures = 0
        self._stopping = False
        self._reading: asyncio.Task[object] | None = None
        """The task of the round while it only reads, so that `stop` may cancel it."""

    def stop(self) -> None:
        """End the current round: now if it waits for the queue, after the current dead letter if it answers one."""
        self._stopping = True
        if self._reading is not None:
            self._reading.cancel()

    def pause_seconds(self) -> float:
        """Return the shortest pause before the next round, which follows from the cost of the last one.

        The time in which the watch waits for a reply queue does not count: it costs nothing.
        """
        return self._busy_seconds * _PAUSE_PER_BUSY_SECOND

    async def answer_all(self) -> None:
        """Answer the dead letters that have no result yet.

        Peeks instead of receiving: a received dead letter is locked, and a person could not handle it meanwhile.

        Raises `ServiceBusFailure` if the dead-letter queue cannot be read, `TemporarilyUnavailable` if the journal
        cannot.
        """
        self._busy_seconds = self._sending_seconds = 0.0
        self._journal_failures = 0
        self._unproven.begin_round()
        self._reading = asyncio.current_task()
        try:
            async with self._bus.dead_letter_queue(self._queue) as dead_letters:
                await self._answer_each(dead_letters)
                if self._unproven.has_surplus and not self._stopping:
                    began = time.monotonic()
                    await self._unproven.delete(dead_letters)
                    self._busy_seconds += time.monotonic() - began
        finally:
            self._reading = None
        if not self._stopping:
            self._answered.end_round()

    async def _answer_each(self, dead_letters: DeadLetterReader) -> None:
        began = time.monotonic()
        async for dead_letter in dead_letters.peek():
            reading, self._reading = self._reading, None
            await self._answer_or_postpone(dead_letter)
            if self._stopping:
                return
            self._reading = reading
            # Updated here and not at the end: a round that fails is counted without the wait for its failure.
            self._busy_seconds = time.monotonic() - began - self._sending_seconds

    async def _answer_or_postpone(self, dead_letter: DeadLetteredMessage) -> None:
        ending = _BY_BROKER.get(dead_letter.reason)
        try:
            if ending is None:
                if dead_letter.reason in _UNPROVEN:
                    self._unproven.keeps(dead_letter.message)
            elif dead_letter.message.enqueued_at < self._now() - self._max_age:
                await self._inspect_old(dead_letter.message)
            elif (answered := await self._known(dead_letter)) is None:
                await self._answer(dead_letter, *ending)
            elif answered.is_unproven:
                self._unproven.keeps(dead_letter.message)
        except Exception as error:
            if isinstance(error, TemporarilyUnavailable) and self._journal_failures >= _MAX_JOURNAL_FAILURES:
                raise
            sentence = f"The worker answers a dead-lettered request later: {error}"
            log(_log, logging.WARNING, "dead_letter.postponed", sentence, queue=self._queue)

    async def _inspect_old(self, message: ReceivedMessage) -> None:
        """Let an unproven dead letter leave that is too old for an answer. Its body is decoded once."""
        if (known := self._answered.remembered(message)) is None:
            known = self._answered.pass_over(message, is_unproven=await self._names_no_sender(message))
        if known.is_unproven:
            self._unproven.keeps(message)

    async def _names_no_sender(self, message: ReceivedMessage) -> bool:
        """Return whether nobody can have proven to be the sender: the message is no request, or has no claim."""
        try:
            job = await decode(message, self._read)
        except (InvalidRequest, Unanswerable):
            return True
        except UnprovenContinuation as unproven:  # a key is replaced, and a seal outdated, without a stranger
            return unproven.seal in (SealState.MISSING, SealState.BROKEN)
        except InvalidContinuation:  # another version of the worker may be able to read it
            return False
        return job.principal is None and job.claim is None and job.dataverse_sender is None

    async def _known(self, dead_letter: DeadLetteredMessage) -> Answered | None:
        # One failure may concern one record. After several in a row, each further one would cost a deadline.
        self._journal_failures += 1
        answered = await self._answered.find(dead_letter.message)
        self._journal_failures = 0
        return answered

    async def _answer(self, dead_letter: DeadLetteredMessage, status: Status, error: FlowError) -> None:
        if dead_letter.message.undecodable:
            self._log_undecodable(dead_letter)
        outcome = await self._handler.answer_dead_letter(
            dead_letter.message, self._read, status, error, queue=self._queue
        )
        if _is_open(outcome):
            return
        sent = await self._send(outcome)
        await self._dispatcher.mark_published(sent)
        if (reply := reply_of(sent)) is not None:
            self._log_answered(dead_letter, reply)
        if _is_open(sent):
            return
        # A dead letter that nobody can answer needs no record: another version of the worker may be able to read it.
        is_unanswerable = isinstance(sent, DeadLetter) and sent.reply is None
        is_unproven = sent.is_unproven if isinstance(sent, Reply) else _is_unproven_dead_letter(sent)
        leaves = is_unproven and not self._unproven.keeps(dead_letter.message)
        await self._answered.add(
            dead_letter.message, journalled=not is_unanswerable, is_unproven=is_unproven, leaves=leaves
        )

    async def _send(self, outcome: Outcome) -> Outcome:
        began = time.monotonic()
        try:
            return await self._dispatcher.send(outcome)
        finally:
            self._sending_seconds += time.monotonic() - began

    def _log_undecodable(self, dead_letter: DeadLetteredMessage) -> None:
        log(
            _log,
            logging.WARNING,
            "dead_letter.undecodable",
            "Parts of a dead-lettered message cannot be decoded; the worker answers it without them.",
            queue=self._queue,
            parts=", ".join(dead_letter.message.undecodable),
            message_id=dead_letter.message.message_id,
            sequence_number=dead_letter.message.sequence_number,
        )

    def _log_answered(self, dead_letter: DeadLetteredMessage, reply: Reply) -> None:
        log(
            _log,
            logging.WARNING,
            "dead_letter.answered",
            f"The worker answered a request that Service Bus dead-lettered ({dead_letter.reason}): "
            f"{reply.result.status}.",
            queue=self._queue,
            message_id=dead_letter.message.message_id,
            correlation_id=reply.address.correlation_id,
        )


def _is_unproven_dead_letter(outcome: Outcome) -> bool:
    return isinstance(outcome, DeadLetter) and outcome.reply is None and outcome.reason in _UNPROVEN


def _is_open(outcome: Outcome) -> bool:
    """Return whether the dead letter has no decision yet, so that the next round has to inspect it again."""
    match outcome:
        case Continue(continuation=continuation):
            # With `waits` above 0 another worker holds the lease and may still publish the result. A lane would
            # schedule this continuation to come back to the request. The watch comes back anyway, and must not start a
            # call for a dead-lettered request.
            return continuation.waits > 0
        case PassOn() | Abandon():
            return True
        case Reply() | DeadLetter() | AlreadyHandled():
            return False
        case _:
            assert_never(outcome)
