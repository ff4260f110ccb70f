"""Ends requests without a call: refused, expired or given up. The journal decides if a call may have gone out."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import datetime

from flow_contracts.result import FlowError, Status
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.limits import Postponement
from flow_worker.journal import Acquired, JobKey, LeaseLost
from flow_worker.pipeline import results
from flow_worker.pipeline.conclude import Conclusions
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.keys import Sole, key_of, never_sole, stand_in
from flow_worker.pipeline.outcome import AlreadyHandled, DeadLetter, Outcome, Reply
from flow_worker.pipeline.recall import Recall, at_journalled_step

_NOT_PROVEN = FlowError(
    code="answer_lost", message="The flow may have run, but the sender can no longer be proven to be the caller."
)


@dataclass(frozen=True, slots=True)
class _Ending:
    """The end of a request for which no call went out."""

    status: Status
    error: FlowError
    given_up: bool = False
    """The request goes to the dead-letter queue for a person to inspect."""


class Endings:
    """Ends or postpones requests that must not be called now.

    If the journal is unavailable, its absence alone decides nothing. Only the first delivery of a message ends without
    it, because then nothing was called.
    """

    def __init__(self, recall: Recall, conclusions: Conclusions) -> None:
        self._recall = recall
        self._conclusions = conclusions

    # --- the request must not be called now ----------------------------------------------------------------------

    async def hold_back(self, job: Job, postponement: Postponement, sole: Sole) -> Outcome:
        """Postpone a request that its flow's limits hold back, unless the journal has its result already."""
        try:
            concluded = await self._recall.concluded(job)
        except TemporarilyUnavailable:
            concluded = None  # a postponement needs no journal
        if concluded is not None:
            return concluded
        return await self.postpone(job, postponement.code, postponement.cause, postponement.until, sole)

    async def postpone(self, job: Job, code: str, cause: str, until: datetime | None, sole: Sole) -> Outcome:
        """Return the same step again later, without the journal; after `max_age_seconds` give up through the journal.

        A poll is postponed without bound: its flow was called, so giving up would lose the result.
        """
        waits = self._conclusions.postpone(job, code, cause, until)
        if waits is not None:
            return waits
        message = f"The worker gave up after {self._conclusions.max_age_seconds(job):g} s: {cause}."
        return await self._give_up(job, FlowError(code=code, message=message, retryable=True), sole)

    async def _give_up(self, job: Job, error: FlowError, sole: Sole) -> Outcome:
        try:
            return await self._end(job, _Ending(Status.FAILED, error, given_up=True), sole)
        except LeaseLost:
            return self._conclusions.wait_for_holder(job)
        except TemporarilyUnavailable as outage:
            if sole():
                return DeadLetter(
                    error.code, error.message, self._conclusions.reply_uncalled(job, Status.FAILED, error)
                )
            return self._conclusions.wait_for_journal(job, outage)

    # --- the request must not be called any more -----------------------------------------------------------------

    async def refuse(self, job: Job, error: FlowError, sole: Sole) -> Outcome:
        """End a request that must not be called as `refused`, or by its entry if the journal has one.

        A right or a claim may have ended between two deliveries. The sender still gets the result of an earlier call.
        A first delivery is refused without the journal, too.
        """
        ending = _Ending(Status.REFUSED, error)
        if not sole():
            return await self._end_apart(job, ending, sole)
        # A refusal needs no journal. But another message may have begun the same request: a repetition by the sender.
        with contextlib.suppress(TemporarilyUnavailable):
            key = await self._recall.begun_key(job)
            if key is not None:
                return await self._end_under(job, key, ending, sole)
        reply = self._conclusions.reply_uncalled(job, Status.REFUSED, error)
        return replace(reply, is_unproven=job.principal is None)

    async def expire(self, job: Job, sole: Sole) -> Outcome:
        """End a request as `expired`, or by its entry if the journal has one.

        The journal learns of the end before the sender. A frozen worker that had checked the time to live earlier finds
        it there, and does not call the flow.
        """
        try:
            return await self._end(job, _Ending(Status.EXPIRED, results.EXPIRED), sole)
        except TemporarilyUnavailable:
            if sole():
                return self._conclusions.reply_uncalled(job, Status.EXPIRED, results.EXPIRED)
            raise

    async def end_oversized(self, job: Job) -> Outcome:
        """End a request whose continuation `job` is larger than the continuation queue takes."""
        message = f"The request waits ({job.code}), but it is larger than the continuation queue takes."
        error = FlowError(code="continuation_too_large", message=message, retryable=True)
        try:
            return await self._end(job, _Ending(Status.FAILED, error, given_up=True), never_sole)
        except LeaseLost:
            return self._conclusions.wait_for_holder(job)

    async def end_dead_letter(self, job: Job, status: Status, error: FlowError) -> Outcome:
        """End a request that Service Bus dead-lettered: with `status`, or by its entry if the journal has one."""
        delivered = await self._recall.at_delivered_origin(job)
        if job.principal is not None or delivered.origin == job.origin:
            return await self._end(delivered, _Ending(status, error), never_sole)
        # A broker that numbers dead letters anew leaves it open if the entry is that of this message. An unproven
        # sender must not learn the result of another request, but must not believe either that the flow did not run.
        if await self._recall.is_answered_or_continued(delivered):
            return AlreadyHandled("superseded", "Another message continues the request.")
        return await self._end_apart(job, _Ending(Status.UNKNOWN, _NOT_PROVEN), never_sole)

    async def end_unproven_dead_letter(self, job: Job, status: Status, error: FlowError) -> Outcome:
        """End a dead-lettered request whose sender can never be proven. The journal gets no entry of its own for it.

        Anyone can send such requests. So if the journal knows nothing of this one, the reply is all: no worker can
        have called a flow for it.
        """
        delivered = await self._recall.at_delivered_origin(job)
        if delivered.origin != job.origin or await self._recall.begun_key(job) is not None:
            return await self.end_dead_letter(job, status, error)
        if await self._recall.is_published(stand_in(job.origin)):
            return AlreadyHandled("already_answered", "The request already has its result.")
        reply = self._conclusions.reply_uncalled(job, status, error)
        return replace(reply, stand_in=None, is_unproven=True)

    async def undecodable_dead_letter(self, outcome: Reply | DeadLetter, origin: str) -> Outcome:
        """Return the outcome of an undecodable dead letter, unless a lane answered the message before."""
        if not isinstance(outcome, Reply):
            return outcome
        if await self._recall.is_published(stand_in(origin)):
            return AlreadyHandled("already_answered", "The request already has its result.")
        return replace(outcome, is_unproven=True)

    async def once(self, reply: Reply, origin: str, sole: Sole) -> Reply | None:
        """Return the reply to an undecodable message; None if the journal knows that it was published before."""
        key = stand_in(origin)
        with contextlib.suppress(TemporarilyUnavailable):  # a refusal needs no journal
            if not sole() and await self._recall.is_published(key):
                return None
        return replace(reply, stand_in=key, is_unproven=True)

    # --- through the journal -------------------------------------------------------------------------------------

    async def _end(self, job: Job, ending: _Ending, sole: Sole) -> Outcome:
        if job.principal is None:
            return await self._end_apart(job, ending, sole)
        return await self._end_under(job, key_of(job), ending, sole)

    async def _end_under(self, job: Job, key: JobKey, ending: _Ending, sole: Sole) -> Outcome:
        """End a request under its own key."""
        acquired = await self._recall.acquire_to_end(job, key)
        if not isinstance(acquired, Acquired):
            return await self._recall.outcome_of_journalled(job, key, acquired)
        if (ended := await self._recall.ended_apart(job, acquired, sole)) is not None:
            return ended
        return await self._conclude(job, acquired, ending)

    async def _end_apart(self, job: Job, ending: _Ending, sole: Sole) -> Outcome:
        """End a request that must not occupy its message ID, because it is not proven or not allowed.

        If the journal has an entry of an earlier delivery, the request ends under that; see `Recall.ended_apart`.
        """
        key = stand_in(job.origin)
        acquired = await self._recall.acquire_to_end(job, key)
        if not isinstance(acquired, Acquired):
            return await self._recall.outcome_of_journalled(job, key, acquired)
        begun = await self._recall.begun_key(job)
        if begun is not None:
            await self._recall.release(acquired.lease)
            return await self._end_under(job, begun, ending, sole)
        return await self._conclude(job, acquired, ending)

    async def _conclude(self, job: Job, acquired: Acquired, ending: _Ending) -> Outcome:
        job, lease = at_journalled_step(job, acquired), acquired.lease
        if acquired.interrupted and job.kind == "call":
            return await self._conclusions.conclude_lost_call(job, lease)
        if job.kind == "poll" and not ending.given_up:
            # The flow may have run, and nobody will read its answer any more.
            return await self._conclusions.conclude_lost_call(job, lease)
        status, error = ending.status, ending.error
        if job.kind == "poll":
            status, error = Status.UNKNOWN, error.model_copy(update={"retryable": False})
        reply = await self._conclusions.conclude_uncalled(job, lease, status, error)
        return DeadLetter(error.code, error.message, reply) if ending.given_up and isinstance(reply, Reply) else reply
