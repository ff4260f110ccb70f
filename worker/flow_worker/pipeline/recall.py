"""Decides from the journal if the worker may call a request's flow now, or how the request ends instead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from flow_contracts.result import FlowError, Status
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.registry import Flow
from flow_worker.journal import (
    Acquired,
    Acquisition,
    Busy,
    Concluded,
    Conflict,
    JobKey,
    Journal,
    Lease,
    Waiting,
)
from flow_worker.pipeline.conclude import Conclusions
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.keys import Sole, key_of, stand_in
from flow_worker.pipeline.outcome import AlreadyHandled, Continue, JournalledResult, Outcome
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_MESSAGE_ID_CONFLICT = FlowError(
    code="message_id_conflict",
    message="Another request already has this message ID; send this request under a new message ID.",
)


@dataclass(frozen=True, slots=True)
class LeasedJob:
    """A job at the step that the journal has as the next, and the lease under which the worker may do it."""

    job: Job
    """If the step is a call, it is counted already."""
    lease: Lease


class Recall:
    """Recalls requests from the journal. Every method raises `TemporarilyUnavailable` if the journal is unavailable."""

    def __init__(
        self, journal: Journal, conclusions: Conclusions, *, lease_margin_seconds: float, now: Callable[[], datetime]
    ) -> None:
        """`lease_margin_seconds`: the time by which a lease outlasts the flow's timeout."""
        self._journal = journal
        self._conclusions = conclusions
        self._lease_margin = timedelta(seconds=lease_margin_seconds)
        self._now = now

    # --- leases --------------------------------------------------------------------------------------------------

    async def acquire_lease(self, job: Job, flow: Flow, sole: Sole) -> LeasedJob | Outcome:
        """Acquire the lease for the job's next step, or return the outcome that the journal dictates instead."""
        duration = timedelta(seconds=flow.timeout_seconds) + self._lease_margin
        acquired = await self._acquire_unless_cancelled(job, duration, idempotent=flow.idempotent)
        if not isinstance(acquired, Acquired):
            return await self.outcome_of_journalled(job, key_of(job), acquired)
        if (ended := await self.ended_apart(job, acquired, sole)) is not None:
            return ended
        job = at_journalled_step(job, acquired)
        if job.kind == "poll":
            return LeasedJob(job, acquired.lease)
        if acquired.interrupted and not flow.idempotent:
            return await self._conclusions.conclude_lost_call(job, acquired.lease)
        counted = {"calls": job.calls + 1, "started": job.started or self._now()}
        return LeasedJob(job.model_copy(update=counted), acquired.lease)

    async def acquire_to_end(self, job: Job, key: JobKey) -> Acquisition:
        """Acquire the lease under which the worker ends the request without a call."""
        return await self._journal.acquire(key, duration=self._lease_margin, calls=job.calls, ending=True)

    async def _acquire_unless_cancelled(self, job: Job, duration: timedelta, *, idempotent: bool) -> Acquisition:
        """Acquire the lease; if the worker is interrupted meanwhile, release it and propagate the cancellation.

        The shield protects the journal write, because a cancelled write may still reach the store. The lease would then
        count as a call whose answer was lost, although no call went out.
        """
        acquire = self._journal.acquire(key_of(job), duration=duration, calls=job.calls, repeatable=idempotent)
        acquiring = asyncio.ensure_future(acquire)
        try:
            return await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            [acquired] = await asyncio.gather(acquiring, return_exceptions=True)
            if isinstance(acquired, Acquired):
                await self.release(acquired.lease)
            raise

    async def release(self, lease: Lease, *, calls: int = 0) -> None:
        """Release a lease, so that another worker can acquire it at once.

        `calls`: the number of calls so far, if one went out under the lease and may be repeated.
        """
        try:
            await self._journal.release(lease, calls=calls)
        except TemporarilyUnavailable as error:
            sentence = f"The worker could not release a lease; the lease ends by itself: {error}"
            log(_log, logging.WARNING, "journal.write_failed", sentence, message_id=lease.message_id)

    # --- requests that ended, or were begun, under another key ---------------------------------------------------

    async def ended_apart(self, job: Job, acquired: Acquired, sole: Sole) -> Outcome | None:
        """Return the outcome if another delivery ended the request under its stand-in key, and release the lease.

        The order matters. This looks for the stand-in after the lease on the request; the other side looks for the
        request after the lease on the stand-in. So one of the two sees the other, whenever each of them was frozen.
        """
        # Before a continuation of a step, the request had its own entry. Only the journal's failure at its end leads to
        # the stand-in then.
        if sole() or (job.number > 0 and not acquired.interrupted):
            return None
        try:
            outcome = await self.outcome_of_stand_in(job)
        except (TemporarilyUnavailable, asyncio.CancelledError):
            await self.release(acquired.lease)
            raise
        if outcome is not None:
            await self.release(acquired.lease)
        return outcome

    async def outcome_of_stand_in(self, job: Job) -> Outcome | None:
        """Return the outcome if another delivery of the message ended, or is ending, under the stand-in key."""
        key = stand_in(job.origin)
        if await self._journal.find(key.message_id) is None:
            return None
        found = await self.acquire_to_end(job, key)
        match found:
            case Acquired(lease=lease):
                # The holder before did not finish. Its lease is lost now, so it cannot conclude any more.
                await self.release(lease)
                return None
            case Concluded() | Busy():
                return await self.outcome_of_journalled(job, key, found)
            case Waiting() | Conflict():
                return None
            case _:
                assert_never(found)

    async def is_published(self, key: JobKey) -> bool:
        """Return whether the journal knows that the result under the key was published for this message."""
        recalled = await self._journal.recall(key)
        return isinstance(recalled, Concluded) and recalled.published

    async def begun_key(self, job: Job) -> JobKey | None:
        """Return the key under which the journal has the request; None if the request was never begun."""
        if job.principal is None:
            return await self._key_of_same_delivery(job)
        key = key_of(job)
        return None if await self._journal.recall(key) is None else key

    async def _key_of_same_delivery(self, job: Job) -> JobKey | None:
        """Return the key of this very message from an earlier delivery with a proven sender; None if there is none.

        The origin is the broker's own identity of the message, which no sender can write. So a sender who copies the
        message ID of another request learns nothing about that request.
        """
        entry = await self._journal.find(job.message_id)
        if entry is None or job.origin not in entry.origins:
            return None
        return JobKey(message_id=job.message_id, fingerprint=entry.fingerprint, origin=job.origin, number=job.number)

    async def at_delivered_origin(self, job: Job) -> Job:
        """Return the job of a dead letter under the origin that its message had in its own queue.

        A broker that numbers dead letters anew changes the sequence number in the origin. The journal would then take
        the dead letter for another message, and publish a result that was published before.
        """
        entry = await self._journal.find(job.message_id)
        for origin in (entry.published_for, entry.origin, *entry.earlier_origins) if entry is not None else ():
            if origin is not None and _is_same_message(origin, job):
                return job.model_copy(update={"origin": origin})
        return job

    async def is_answered_or_continued(self, job: Job) -> bool:
        """Return whether the message's result was published, or a continuation will take the next step."""
        entry = await self._journal.find(job.message_id)
        return entry is not None and (entry.published_for == job.origin or entry.state == "waiting")

    # --- the journal's answers -----------------------------------------------------------------------------------

    async def concluded(self, job: Job) -> Outcome | None:
        """Return the outcome of a request that has its result already."""
        recalled = await self._journal.recall(key_of(job))
        return await self.outcome_of_journalled(job, key_of(job), recalled) if isinstance(recalled, Concluded) else None

    async def outcome_of_journalled(
        self, job: Job, key: JobKey, journalled: Concluded | Busy | Waiting | Conflict
    ) -> Outcome:
        """Return the outcome of a message whose request this worker may not act on now."""
        match journalled:
            case Concluded(published=True):
                return AlreadyHandled("already_answered", "The request already has its result.")
            case Concluded(result=result):
                return self._conclusions.reply(job, result, JournalledResult(key.message_id, key.origin))
            case Conflict():
                # The variant gives this refusal a message ID apart from the other request's result.
                return await self.outcome_of_stand_in(job) or self._conclusions.reply_uncalled(
                    job, Status.REFUSED, _MESSAGE_ID_CONFLICT, variant=job.fingerprint
                )
            case Busy(until=until):
                return self._conclusions.wait_for_holder(job, until)
            case Waiting(step=step, origin=origin) if origin == job.origin and step.number > job.number:
                # The step was journalled; a crash may have come before its continuation was scheduled. It is more than
                # one step ahead if this very message took an overdue step over. Scheduling it twice does no harm:
                # duplicate detection drops the second message, and the journal lets only one of them act.
                return Continue(job.at_step(step), step.due)
            case Waiting():
                return AlreadyHandled("superseded", "Another message continues the request.")
            case _:
                assert_never(journalled)


def _is_same_message(origin: str, job: Job) -> bool:
    """Return whether `origin` is that of the message that began the job, whatever its sequence number.

    The caller compares the message IDs, and the journal the fingerprints.
    """
    queue, time = f"{job.request_queue}:", f":{job.accepted.isoformat()}"
    number = origin.removeprefix(queue).removesuffix(time)
    return origin == job.origin or (origin == f"{queue}{number}{time}" and number.isdecimal())


def at_journalled_step(job: Job, acquired: Acquired) -> Job:
    """Return the job at the step that the journal has as the next, with the calls that the journal has counted."""
    if acquired.step is not None and acquired.step.number >= job.number:
        job = job.at_step(acquired.step)
    # An interrupted call may have gone out, so it counts; `acquired.calls` leaves it out.
    calls = acquired.calls + 1 if acquired.interrupted and job.kind == "call" else acquired.calls
    return job.model_copy(update={"calls": max(job.calls, calls)})
