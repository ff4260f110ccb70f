"""Decides from the journal if the worker may call a request's flow now, or how the request ends instead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from flow_contracts.result import FlowError, FlowResult, Status
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.limits import Postponement
from flow_worker.flows.registry import Flow
from flow_worker.journal import Acquired, Acquisition, Busy, Concluded, Conflict, JobKey, Journal, Lease, Waiting
from flow_worker.pipeline.conclude import Conclusions
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.outcome import AlreadyHandled, JournalledResult, Outcome
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

    # --- the request may be called -------------------------------------------------------------------------------

    async def acquire_lease(self, job: Job, flow: Flow) -> LeasedJob | Outcome:
        """Acquire the lease for the job's next step, or return the outcome that the journal dictates instead."""
        duration = timedelta(seconds=flow.timeout_seconds) + self._lease_margin
        acquired = await self._acquire_unless_cancelled(job, duration, idempotent=flow.idempotent)
        if not isinstance(acquired, Acquired):
            return self._outcome_of_journalled(job, acquired)
        job = _at_journalled_step(job, acquired)
        if job.kind == "poll":
            return LeasedJob(job, acquired.lease)
        if acquired.interrupted and not flow.idempotent:
            return await self._conclusions.conclude_lost_call(job, acquired.lease)
        counted = {"calls": job.calls + 1, "started": job.started or self._now()}
        return LeasedJob(job.model_copy(update=counted), acquired.lease)

    async def _acquire_unless_cancelled(self, job: Job, duration: timedelta, *, idempotent: bool) -> Acquisition:
        """Acquire the lease; if the worker is interrupted meanwhile, release it and propagate the cancellation.

        The shield protects the journal write, because a cancelled write may still reach the store. The lease would then
        count as a call whose answer was lost, although no call went out.
        """
        acquire = self._journal.acquire(_key_of(job), duration=duration, calls=job.calls, repeatable=idempotent)
        acquiring = asyncio.ensure_future(acquire)
        try:
            return await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            [acquired] = await asyncio.gather(acquiring, return_exceptions=True)
            if isinstance(acquired, Acquired):
                await self.release(acquired.lease)
            raise

    async def release(self, lease: Lease) -> None:
        """Release a lease under which no call counts, so that another worker can acquire it at once."""
        try:
            await self._journal.release(lease)
        except TemporarilyUnavailable as error:
            sentence = f"The worker could not release a lease; the lease ends by itself: {error}"
            log(_log, logging.WARNING, "journal.write_failed", sentence, message_id=lease.message_id)

    # --- the request must not be called now ----------------------------------------------------------------------

    async def refuse_or_recall(self, job: Job, status: Status, error: FlowError) -> Outcome:
        """End a request that must not be called: with `status`, or by its entry if the journal has one.

        A right, a claim or the time to live may have ended between two deliveries. The sender still gets the result of
        an earlier call.
        """
        key = await self._begun_key(job)
        if key is None:
            # Nothing enters the journal: a refused request must not occupy the message ID of an allowed one.
            return self._conclusions.reply_uncalled(job, status, error)
        return await self._end(job, key, status, error)

    async def postpone_or_recall(self, job: Job, postponement: Postponement) -> Outcome:
        """Postpone a request that its flow's limits hold back, unless the journal has its result already."""
        recalled = await self._journal.recall(_key_of(job))
        if isinstance(recalled, Concluded):
            return self._outcome_of_journalled(job, recalled)
        return self._conclusions.postpone(job, postponement.code, postponement.cause, postponement.until)

    # --- the request must not be called any more -----------------------------------------------------------------

    async def end_uncalled(self, job: Job, status: Status, error: FlowError) -> Outcome:
        """End a dead-lettered request without a call: with `status`, or by its entry if the journal has one."""
        job = await self._at_delivered_origin(job)
        return await self._end(job, _key_of(job), status, error)

    async def end_unproven(self, job: Job, status: Status, error: FlowError) -> Outcome:
        """Do as `end_uncalled`, for a request whose sender could not be proven."""
        entry = await self._journal.find(job.message_id)
        if entry is not None and entry.published_for is not None and _is_same_message(entry.published_for, job):
            return AlreadyHandled("already_answered", "The request already has its result.")
        # If the journal has no entry for this message, its result gets a separate key. An unproven sender must not
        # occupy the message ID of a proven one.
        stand_in = f"dead-letter {job.origin}"
        unproven = JobKey(message_id=stand_in, fingerprint=stand_in, origin=job.origin, number=job.number)
        return await self._end(job, await self._key_of_same_delivery(job) or unproven, status, error)

    async def _at_delivered_origin(self, job: Job) -> Job:
        """Return the job of a dead letter under the origin that its message had in its own queue.

        A broker that numbers dead letters anew changes the sequence number in the origin. The journal would then take
        the dead letter for another message, and publish a result that was published before.
        """
        entry = await self._journal.find(job.message_id)
        for origin in (entry.published_for, entry.origin) if entry is not None else ():
            if origin is not None and _is_same_message(origin, job):
                return job.model_copy(update={"origin": origin})
        return job

    async def record_result(self, job: Job, result: FlowResult) -> None:
        """Journal the published result of a job without a next step, because its continuation is too large.

        Without this the journal would expect that step, and a later delivery would publish another result.
        """
        acquired = await self._journal.acquire(_key_of(job), duration=self._lease_margin, calls=job.calls)
        if isinstance(acquired, Acquired):
            await self._journal.conclude(acquired.lease, result)
            await self._journal.mark_published(job.message_id, job.origin)

    async def _end(self, job: Job, key: JobKey, status: Status, error: FlowError) -> Outcome:
        acquired = await self._journal.acquire(key, duration=self._lease_margin, calls=job.calls)
        if not isinstance(acquired, Acquired):
            return self._outcome_of_journalled(job, acquired, key.message_id)
        job = _at_journalled_step(job, acquired)
        # In both cases the flow may have run, and nobody will read its answer any more.
        if acquired.interrupted or job.kind == "poll":
            return await self._conclusions.conclude_lost_call(job, acquired.lease)
        return await self._conclusions.conclude_uncalled(job, acquired.lease, status, error)

    # --- the journal's answers -----------------------------------------------------------------------------------

    async def _begun_key(self, job: Job) -> JobKey | None:
        """Return the key under which the journal has the request; None if the request was never begun."""
        if job.principal is None:
            return await self._key_of_same_delivery(job)
        key = _key_of(job)
        return None if await self._journal.recall(key) is None else key

    async def _key_of_same_delivery(self, job: Job) -> JobKey | None:
        """Return the key of this very message from an earlier delivery with a proven sender; None if there is none.

        The origin is the broker's own identity of the message, which no sender can write. So a sender who copies the
        message ID of another request learns nothing about that request.
        """
        entry = await self._journal.find(job.message_id)
        if entry is None or entry.origin != job.origin:
            return None
        return JobKey(message_id=job.message_id, fingerprint=entry.fingerprint, origin=job.origin, number=job.number)

    def _outcome_of_journalled(
        self, job: Job, journalled: Concluded | Busy | Waiting | Conflict, message_id: str | None = None
    ) -> Outcome:
        """Return the outcome of a message whose request this worker may not act on now.

        `message_id`: the journal's key, if that is not the job's own.
        """
        match journalled:
            case Concluded(published=True):
                return AlreadyHandled("already_answered", "The request already has its result.")
            case Concluded(result=result):
                journalled_result = JournalledResult(message_id or job.message_id, job.origin)
                return self._conclusions.reply(job, result, journalled_result)
            case Conflict():
                # The variant gives this refusal a message ID apart from the other request's result.
                return self._conclusions.reply_uncalled(
                    job, Status.REFUSED, _MESSAGE_ID_CONFLICT, variant=job.fingerprint
                )
            case Busy(until=until):
                # Not `postpone`, which gives up in the end: the holder of the lease knows more about this request.
                waits = {"waits": job.waits + 1, "code": "call_under_way", "cause": "another worker holds its lease"}
                return self._conclusions.continuation(job.model_copy(update=waits), until)
            case Waiting(step=step, origin=origin) if origin == job.origin and step.number == job.number + 1:
                # The step was journalled; a crash may have come before its continuation was scheduled. Scheduling it
                # twice does no harm: duplicate detection drops the second message.
                return self._conclusions.continuation(job.at_step(step), step.due)
            case Waiting():
                return AlreadyHandled("superseded", "Another message continues the request.")
            case _:
                assert_never(journalled)


def _key_of(job: Job) -> JobKey:
    return JobKey(message_id=job.message_id, fingerprint=job.fingerprint, origin=job.origin, number=job.number)


def _is_same_message(origin: str, job: Job) -> bool:
    """Return whether `origin` is that of the message that began the job, whatever its sequence number.

    The caller compares the message IDs, and the journal the fingerprints.
    """
    queue, time = f"{job.request_queue}:", f":{job.accepted.isoformat()}"
    number = origin.removeprefix(queue).removesuffix(time)
    return origin == job.origin or (origin == f"{queue}{number}{time}" and number.isdecimal())


def _at_journalled_step(job: Job, acquired: Acquired) -> Job:
    """Return the job at the step that the journal has as the next, with the calls that the journal has counted."""
    if acquired.step is not None and acquired.step.number >= job.number:
        job = job.at_step(acquired.step)
    # An interrupted call may have gone out, so it counts; `acquired.calls` leaves it out.
    calls = acquired.calls + 1 if acquired.interrupted and job.kind == "call" else acquired.calls
    return job.model_copy(update={"calls": max(job.calls, calls)})
