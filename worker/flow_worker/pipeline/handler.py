"""The journey of one request: decode → authenticate → authorise → recall → call the flow → conclude.

Knows nothing of Service Bus, HTTP or the clock beyond what it is handed, so it is tested with plain data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from pydantic import JsonValue

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import InvalidRequest, Unanswerable
from flow_contracts.result import FlowError, Status
from flow_worker.errors import CallFailed, Refused, TemporarilyUnavailable
from flow_worker.flows.invoker import Answer
from flow_worker.flows.limits import CallLimiter, Postponement, status_poll_key
from flow_worker.flows.registry import Flow, Registry
from flow_worker.flows.verdict import FlowHealth, Verdict, judge, judge_failure, judge_poll
from flow_worker.journal import Acquired, Acquisition, Busy, Concluded, Conflict, JobKey, Journal, Lease, Waiting
from flow_worker.pipeline import results
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.conclude import Conclusions
from flow_worker.pipeline.job import InvalidContinuation, Job
from flow_worker.pipeline.outcome import AlreadyHandled, DeadLetter, JournalledResult, Outcome, Reply
from flow_worker.settings import RetrySettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

Reader = Callable[[ReceivedMessage], Job]
"""Reads a message of one queue. Raises `InvalidRequest`, `InvalidContinuation`, `Unanswerable`."""


class Caller(Protocol):
    """Calls a flow."""

    async def token(self, *, fresh: bool = False) -> str:
        """Raises `TemporarilyUnavailable`."""
        ...

    async def invoke(
        self, flow: Flow, input_: JsonValue, *, token: str, correlation_id: str, traceparent: str | None
    ) -> Answer:
        """Raises `CallFailed`."""
        ...

    async def poll(self, flow: Flow, status_url: str, *, token: str) -> Answer:
        """Raises `CallFailed`."""
        ...


_INTERRUPTED = CallFailed(
    "interrupted", "The worker stopped before the flow answered.", may_have_run=True, counts_against_flow=False
)
_FAULT = CallFailed(
    "internal_error", "A fault in the worker; the flow may have run.", may_have_run=True, counts_against_flow=False
)
_CONFLICT = FlowError(
    code="message_id_conflict",
    message="Another request has this message ID already; send this one under an ID of its own.",
)


class Handler:
    """Decides what is to be done about a request."""

    def __init__(
        self,
        *,
        admission: Admission,
        registry: Registry,
        caller: Caller,
        limiter: CallLimiter,
        journal: Journal,
        conclusions: Conclusions,
        retry: RetrySettings,
        lease_margin_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._admission = admission
        self._registry = registry
        self._caller = caller
        self._limiter = limiter
        self._journal = journal
        self._conclusions = conclusions
        self._retry = retry
        self._lease_margin = lease_margin_seconds
        self._now = now

    async def handle(self, message: ReceivedMessage, read: Reader, queue: str) -> Outcome:
        """Take one message, delivered to a lane of `queue`, as far as it goes.

        Raises nothing but `CancelledError`, and that only if no flow was called or the flow may be called again.
        """
        try:
            job = read(message)
        except Unanswerable as error:
            return DeadLetter(error.reason, error.description)
        except InvalidContinuation as error:
            return DeadLetter("invalid_continuation", f"This is no continuation of this worker's: {error}.")
        except InvalidRequest as refusal:
            return self._conclusions.refuse_unread(message, refusal)
        try:
            try:
                job = await self._admission.prove(job)
            except Refused as refusal:
                return await self._not_admitted(job, FlowError(code=refusal.code, message=refusal.message))
            return await self._journey(job, queue)
        except Refused as refusal:
            return self._refuse(job, FlowError(code=refusal.code, message=refusal.message))
        except TemporarilyUnavailable as reason:
            return self._put_off(job, reason.code, reason.message, reason.until)
        except Exception as error:  # noqa: BLE001 - a fault of ours before the call: the request must outlive it
            log(_log, logging.ERROR, "request.internal_error", "A request met a fault in the worker.")
            return self._put_off(job, "internal_error", f"a fault in the worker ({type(error).__name__})")

    async def _journey(self, job: Job, queue: str) -> Outcome:
        try:
            flow = await self._admission.authorise(job)
        except Refused as refusal:
            return await self._deny(job, Status.REFUSED, FlowError(code=refusal.code, message=refusal.message))
        if self._is_expired(job):
            return await self._deny(job, Status.EXPIRED, results.EXPIRED)
        token = await self._caller.token(fresh=job.fresh_token)
        limit_key = job.flow if job.kind == "call" else status_poll_key(job.flow)
        if (postponement := await self._limiter.enter(limit_key, job.origin, queue)) is not None:
            return await self._postpone(job, postponement)
        paced = _Paced()
        try:
            return await self._claimed(job, flow, token, paced)
        finally:
            self._limiter.leave(limit_key, job.origin, queue, health=paced.health, until=paced.until)

    async def _claimed(self, job: Job, flow: Flow, token: str, paced: _Paced) -> Outcome:
        begun = await self._begin(job, flow)
        if not isinstance(begun, Acquired):
            return self._not_ours(job, begun)
        job = _as_journalled(job, begun)
        if begun.interrupted and job.kind == "call" and not flow.idempotent:
            return await self._conclusions.lost(job, begun.lease)
        if job.kind == "poll":
            verdict = await self._poll(job, flow, token)
        else:
            job = job.model_copy(update={"calls": job.calls + 1, "started": job.started or self._now()})
            verdict = await self._call(job, flow, token, begun.lease)
        paced.health, paced.until = verdict.health, verdict.not_before
        return await self._conclusions.judged(job, begun.lease, verdict, flow.retry or self._retry)

    def _is_expired(self, job: Job) -> bool:
        return job.calls == 0 and job.expires_at is not None and self._now() >= job.expires_at

    # --- recall --------------------------------------------------------------------------------------------------

    async def _begin(self, job: Job, flow: Flow) -> Acquisition:
        """Claim the request. If the worker is told to stop meanwhile, the claim is given back."""
        duration = timedelta(seconds=flow.timeout_seconds + self._lease_margin)
        begin = self._journal.acquire(_key(job), duration=duration, calls=job.calls, repeatable=flow.idempotent)
        leasing = asyncio.ensure_future(begin)
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:
            [begun] = await asyncio.gather(leasing, return_exceptions=True)
            if isinstance(begun, Acquired):
                await self._release(begun.lease)
            raise

    def _not_ours(self, job: Job, begun: Concluded | Busy | Waiting | Conflict) -> Outcome:
        match begun:
            case Concluded(published=True):
                return AlreadyHandled("already_answered", "The request had its result before.")
            case Concluded(result=result):
                return self._conclusions.reply(job, result, JournalledResult(job.message_id, job.origin))
            case Conflict():
                result = self._conclusions.without_answer(job, Status.REFUSED, _CONFLICT)
                return self._conclusions.reply(job, result, variant=job.fingerprint)
            case Busy(until=until):
                # Not put off: however long it takes, whoever is at it knows more than we do.
                waits = {"waits": job.waits + 1, "code": "call_under_way", "cause": "another worker is at it"}
                return self._conclusions.scheduled(job.model_copy(update=waits), until)
            case Waiting(step=step, origin=origin) if origin == job.origin and step.number == job.number + 1:
                # Journalled; whether it was scheduled too, nobody knows. Twice is once.
                return self._conclusions.scheduled(job.at(step), step.due)
            case Waiting():
                return AlreadyHandled("superseded", "Another message carries the request on.")

    async def _deny(self, job: Job, status: Status, error: FlowError) -> Outcome:
        """Not to be called; but what was called before is told as it was: a right may have been lost in between."""
        if await self._journal.recall(_key(job)) is None:
            return self._conclusions.reply(job, self._conclusions.without_answer(job, status, error))
        return await self._end(job, _key(job), status, error)

    async def _not_admitted(self, job: Job, error: FlowError) -> Outcome:
        """A claim that held before may not hold any more; what was called is told as it was all the same."""
        if job.principal is not None:
            return await self._deny(job, Status.REFUSED, error)
        key = await self._same_message(job)
        return self._refuse(job, error) if key is None else await self._end(job, key, Status.REFUSED, error)

    async def _same_message(self, job: Job) -> JobKey | None:
        """What this very message was journalled as when its sender was proven; None if it never was.

        The origin is the broker's own number of the message, which nobody can write: another message learns nothing.
        """
        found = await self._journal.find(job.message_id)
        if found is None or found.origin != job.origin:
            return None
        return JobKey(message_id=job.message_id, fingerprint=found.fingerprint, origin=job.origin, number=job.number)

    async def _end(self, job: Job, key: JobKey, status: Status, error: FlowError) -> Outcome:
        """Conclude without calling: as `status` says, or `unknown` if a call went out."""
        begun = await self._journal.acquire(key, duration=timedelta(seconds=self._lease_margin), calls=job.calls)
        if not isinstance(begun, Acquired):
            return self._not_ours(job, begun)
        job = _as_journalled(job, begun)
        if begun.interrupted or job.kind == "poll":
            return await self._conclusions.lost(job, begun.lease)
        result = self._conclusions.without_answer(job, status, error)
        return await self._conclusions.conclude(job, begun.lease, result)

    async def _postpone(self, job: Job, postponement: Postponement) -> Outcome:
        known = await self._journal.recall(_key(job))
        if isinstance(known, Concluded):
            return self._not_ours(job, known)
        return self._put_off(job, postponement.code, postponement.cause, postponement.until)

    # --- call ----------------------------------------------------------------------------------------------------

    async def _call(self, job: Job, flow: Flow, token: str, lease: Lease) -> Verdict:
        """From here on the flow may run, so whatever happens is judged, not raised."""
        try:
            answer = await self._caller.invoke(
                flow,
                job.input,
                token=token,
                correlation_id=job.correlation_id,
                traceparent=job.traceparent,
            )
            return judge(answer, flow, now=self._now(), fresh_token=job.fresh_token)
        except CallFailed as failure:
            return judge_failure(failure, flow)
        except asyncio.CancelledError:
            if flow.idempotent:
                await self._release(lease)
                raise
            return judge_failure(_INTERRUPTED, flow)
        except Exception:  # noqa: BLE001 - the call may have gone out: its result must be told
            log(_log, logging.ERROR, "call.internal_error", "A call met a fault in the worker.")
            return judge_failure(_FAULT, flow)

    async def _poll(self, job: Job, flow: Flow, token: str) -> Verdict:
        status_url = job.status_url.get_secret_value() if job.status_url else ""
        happened: Answer | CallFailed
        try:
            happened = await self._caller.poll(flow, status_url, token=token)
        except CallFailed as failure:
            happened = failure
        except Exception:  # noqa: BLE001 - a look that fails is counted, so that it comes to an end
            log(_log, logging.ERROR, "call.internal_error", "A look at a run met a fault in the worker.")
            happened = CallFailed(
                "internal_error", "A fault in the worker.", may_have_run=False, counts_against_flow=False
            )
        return judge_poll(happened, flow, status_url=status_url, now=self._now(), fresh_token=job.fresh_token)

    async def _release(self, lease: Lease) -> None:
        try:
            await self._journal.release(lease)
        except TemporarilyUnavailable as trouble:
            log(_log, logging.WARNING, "journal.write_failed", f"A claim is left to run out by itself: {trouble}")

    # --- outside the journey -------------------------------------------------------------------------------------

    async def answer_dead(self, message: ReceivedMessage, read: Reader, status: Status, error: FlowError) -> Outcome:
        """What is to be told of a message that the broker dead-lettered; it stays where it is.

        Raises `TemporarilyUnavailable` if that cannot be said just now.
        """
        try:
            job = read(message)
        except (Unanswerable, InvalidContinuation) as refusal:
            return AlreadyHandled("unanswerable", str(refusal))
        except InvalidRequest as refusal:
            return self._conclusions.refuse_unread(message, refusal)
        try:
            job = await self._admission.prove(job)
            key = _key(job)
        except Refused:
            # If it was never called, its entry must not stand where a proven sender's request would.
            nobody = f"dead-letter {job.origin}"
            unproven = JobKey(message_id=nobody, fingerprint=nobody, origin=job.origin, number=job.number)
            key = await self._same_message(job) or unproven
        return await self._end(job, key, status, error)

    async def published(self, reply: Reply) -> None:
        """The reply queue has accepted the result: a redelivery need not tell it again."""
        if reply.journalled is None:
            return
        try:
            await self._journal.mark_published(reply.journalled.message_id, reply.journalled.origin)
        except TemporarilyUnavailable as trouble:
            log(_log, logging.WARNING, "journal.write_failed", f"A result was told, but not marked so: {trouble}")

    def _refuse(self, job: Job, error: FlowError) -> Reply:
        return self._conclusions.reply(job, self._conclusions.without_answer(job, Status.REFUSED, error))

    def _put_off(self, job: Job, code: str, cause: str, until: datetime | None = None) -> Outcome:
        try:
            retry = self._registry.find(job.flow).retry or self._retry
        except Refused:
            retry = self._retry
        return self._conclusions.put_off(job, retry, code, cause, until)


class _Paced:
    """What a call says of its flow's health; nothing as long as there was none."""

    health: FlowHealth = FlowHealth.NEUTRAL
    until: datetime | None = None


def _key(job: Job) -> JobKey:
    return JobKey(message_id=job.message_id, fingerprint=job.fingerprint, origin=job.origin, number=job.number)


def _as_journalled(job: Job, begun: Acquired) -> Job:
    """The errand as far as the journal has it: what is next, and how often it was called."""
    if begun.step is not None and begun.step.number >= job.number:
        job = job.at(begun.step)
    calls = begun.calls + 1 if begun.interrupted and job.kind == "call" else begun.calls
    return job.model_copy(update={"calls": max(job.calls, calls)})
