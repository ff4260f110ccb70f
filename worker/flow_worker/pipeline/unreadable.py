"""Decides about continuation messages that this version cannot read, in an upgrade or a rollback of the workers.

A worker of another version may read such a message. So this one schedules it again for a while, then answers it. It
answers only messages whose seal is valid: the address in any other message may be a stranger's or a victim's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import assert_never

from flow_contracts.message import ReceivedMessage
from flow_contracts.result import FlowError, FlowResult, Status, Times
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Journal
from flow_worker.journal.entry import Entry, JobKey
from flow_worker.journal.port import Acquired, Busy, Concluded, Conflict, Waiting
from flow_worker.pipeline.conclude import ConclusionRules
from flow_worker.pipeline.fragment import Fragment
from flow_worker.pipeline.job import InvalidContinuation
from flow_worker.pipeline.outcome import AlreadyHandled, DeadLetter, JournalledResult, Outcome, PassOn, Reply
from flow_worker.pipeline.passing_on import first_delivery, pass_on, unproven_pauses, waited
from flow_worker.pipeline.seal import SealState
from flow_worker.pipeline.unproven import dead_letter_unproven
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_ANSWER = FlowError(
    code="continuation_unreadable",
    message="No worker could read the continuation of the request; its flow may have run.",
)


class UnreadableContinuations:
    """Leaves unreadable continuations to other workers, and answers their requests when the time for that is over."""

    def __init__(
        self,
        journal: Journal,
        rules: ConclusionRules,
        *,
        wait_seconds: float,
        lease_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        """`wait_seconds`: the time from the first delivery on for which other workers may read a message."""
        self._journal = journal
        self._rules = rules
        self._wait = timedelta(seconds=wait_seconds)
        self._lease = timedelta(seconds=lease_seconds)
        self._now = now

    async def handle(self, message: ReceivedMessage, error: InvalidContinuation) -> Outcome:
        """Return the outcome of a message that a lane received. Raises only `CancelledError`."""
        passed_on_for = waited(message)
        if error.seal is SealState.UNKNOWN_KEY and passed_on_for < self._wait:
            cause = f"its seal is {error.seal}, and this version cannot read it ({error})"
            return pass_on(message, cause, self._now(), pauses=unproven_pauses(self._wait))
        if error.seal is not SealState.VALID:
            return dead_letter_unproven(message, error.seal)
        if error.other_version and passed_on_for < self._wait:
            return self._pass_on(message, f"this version cannot read it ({error})")
        try:
            return await self._end(message, error)
        except TemporarilyUnavailable as outage:
            # The journal may hold the result, so the answer waits for it, but for a bounded time.
            if passed_on_for < 2 * self._wait:
                return self._pass_on(message, outage.message)
        except Exception as fault:  # noqa: BLE001 - an internal error: the request must not be lost
            log(_log, logging.ERROR, "request.internal_error", "An internal error postponed a request.")
            if passed_on_for < 2 * self._wait:
                return self._pass_on(message, f"an internal error ({type(fault).__name__})")
        return self._dead_letter(error, self._unjournalled_reply(Fragment.of(message)))

    async def answer_dead_letter(self, message: ReceivedMessage, error: InvalidContinuation) -> Outcome:
        """Return the outcome of a message that Service Bus dead-lettered. `PassOn` leaves it to other workers' watches.

        Raises `TemporarilyUnavailable` if the journal is unavailable.
        """
        if error.seal is not SealState.VALID:
            return dead_letter_unproven(message, error.seal)
        if error.other_version and self._now() - first_delivery(message) < self._wait:
            return self._pass_on(message, f"this version cannot read it ({error})")
        return await self._end(message, error)

    def _pass_on(self, message: ReceivedMessage, cause: str, not_before: datetime | None = None) -> PassOn:
        return pass_on(message, cause, self._now(), not_before)

    # --- the answer ----------------------------------------------------------------------------------------------

    async def _end(self, message: ReceivedMessage, error: InvalidContinuation) -> Outcome:
        """End the request through the journal, if it has an entry. Raises `TemporarilyUnavailable`."""
        fragment = Fragment.of(message)
        entry = None if fragment is None else await self._journal.find(fragment.address.message_id)
        if fragment is None or entry is None:
            return self._dead_letter(error, self._unjournalled_reply(fragment))
        key = _key(entry, fragment)
        acquired = await self._journal.acquire(key, duration=self._lease, calls=entry.calls, ending=True)
        match acquired:
            case Concluded(published=True):
                return AlreadyHandled("already_answered", "The request already has its result.")
            case Concluded(result=result):
                return self._dead_letter(error, self._reply(fragment, result, key))
            case Acquired(lease=lease):
                result = await self._journal.conclude(lease, self._unknown(fragment, acquired))
                return self._dead_letter(error, self._reply(fragment, result, key))
            case Busy(until=until):
                return self._pass_on(message, "another worker holds the lease of its request", until)
            case Waiting(step=step, origin=origin) if origin == key.origin and step.number > key.number:
                # The next step is journalled; a crash may have come before its continuation was scheduled. This worker
                # cannot schedule it. If it does not come, the journal lets the next pass take over.
                return self._pass_on(message, "the next continuation of its request is due", step.due)
            case Waiting() | Conflict():
                return AlreadyHandled("superseded", "Another message continues the request.")
            case _:
                assert_never(acquired)

    def _unknown(self, fragment: Fragment, acquired: Acquired | None = None) -> FlowResult:
        step = acquired.step if acquired else None
        calls = max(acquired.calls if acquired else 0, step.calls if step else 0)
        call_lost = acquired is not None and acquired.interrupted and (step is None or step.kind == "call")
        return FlowResult(
            status=Status.UNKNOWN,
            flow=fragment.flow,
            error=_ANSWER,
            attempts=calls + call_lost,
            run=step.run if step else None,
            times=Times(started=step.started if step else None, finished=self._now()),
            correlation_id=fragment.address.correlation_id,
            request_message_id=fragment.address.message_id,
            replay_of=fragment.replay_of,
        )

    def _unjournalled_reply(self, fragment: Fragment | None) -> Reply | None:
        """Return the reply to a request that the journal does not have or does not reveal: its flow may have run."""
        return None if fragment is None else self._reply(fragment, self._unknown(fragment))

    def _reply(self, fragment: Fragment, result: FlowResult, key: JobKey | None = None) -> Reply:
        queue = self._rules.reply_queue(fragment.address, fragment.request_queue)
        if key is None:
            return Reply(result, fragment.address, queue, variant=f"unreadable {fragment.origin or ''}")
        return Reply(result, fragment.address, queue, JournalledResult(key.message_id, key.origin))

    @staticmethod
    def _dead_letter(error: InvalidContinuation, reply: Reply | None) -> DeadLetter:
        reason = "continuation_unreadable" if error.other_version else "invalid_continuation"
        answered = "" if reply is not None else " It names no address for a result."
        return DeadLetter(reason, f"No worker could read the message as a continuation: {error}.{answered}", reply)


def _key(entry: Entry, fragment: Fragment) -> JobKey:
    expected = entry.step.number if entry.step else entry.holder.number if entry.holder else 0
    number = expected if fragment.number is None else fragment.number
    return JobKey(entry.message_id, entry.fingerprint, fragment.origin or entry.origin, number)
