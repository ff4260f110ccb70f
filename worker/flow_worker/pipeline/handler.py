"""The journey of one request: decode → authenticate → authorize → recall → call the flow → conclude.

The handler reaches Service Bus, HTTP and the clock only through its ports, so tests run it with plain data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import InvalidRequest, Unanswerable
from flow_contracts.result import FlowError, FlowResult, Status
from flow_worker.errors import CallFailed, Refused, TemporarilyUnavailable
from flow_worker.flows.invoker import Answer
from flow_worker.flows.limits import CallLimiter, Postponement, status_poll_key
from flow_worker.flows.registry import Flow
from flow_worker.flows.verdict import FlowHealth, Verdict, judge, judge_failure, judge_poll
from flow_worker.pipeline import results
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.conclude import Conclusions
from flow_worker.pipeline.decode import Reader
from flow_worker.pipeline.job import InvalidContinuation, Job
from flow_worker.pipeline.outcome import Outcome
from flow_worker.pipeline.ports import Caller
from flow_worker.pipeline.recall import LeasedJob, Recall
from flow_worker.pipeline.unreadable import UnreadableContinuations
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_INTERRUPTED = CallFailed(
    "interrupted", "The worker stopped before the flow answered.", may_have_run=True, counts_against_flow=False
)
_INTERNAL_ERROR = CallFailed(
    "internal_error",
    "An internal error in the worker; the flow may have run.",
    may_have_run=True,
    counts_against_flow=False,
)
_POLL_INTERNAL_ERROR = CallFailed(
    "internal_error", "An internal error in the worker.", may_have_run=False, counts_against_flow=False
)


@dataclass(slots=True)
class _Place:
    """A place among the calls in flight: the limits' decision on entry, and the call's report on leaving."""

    postponement: Postponement | None
    health: FlowHealth = FlowHealth.NEUTRAL
    """Neutral until there is a verdict: without a call there is no evidence for the flow's health."""
    not_before: datetime | None = None

    def report(self, verdict: Verdict) -> None:
        self.health, self.not_before = verdict.health, verdict.not_before


class Handler:
    """Decides the outcome of each message."""

    def __init__(
        self,
        *,
        admission: Admission,
        recall: Recall,
        caller: Caller,
        limiter: CallLimiter,
        conclusions: Conclusions,
        unreadable: UnreadableContinuations,
        now: Callable[[], datetime],
    ) -> None:
        self._admission = admission
        self._recall = recall
        self._caller = caller
        self._limiter = limiter
        self._conclusions = conclusions
        self._unreadable = unreadable
        self._now = now

    async def handle(self, message: ReceivedMessage, read: Reader, queue: str) -> Outcome:
        """Take a message that a lane of `queue` received through its journey, and return its outcome.

        Raises only `CancelledError`, and only if no flow was called or the flow is idempotent.
        """
        try:
            job = read(message)
        except InvalidContinuation as error:
            return await self._unreadable.handle(message, error)
        except (InvalidRequest, Unanswerable) as error:
            return self._conclusions.undecodable(message, error)
        try:
            try:
                job = await self._admission.authenticate(job)
                flow = await self._admission.authorize(job)
            except Refused as refusal:
                reason = FlowError(code=refusal.code, message=refusal.message)
                return await self._recall.refuse_or_recall(job, Status.REFUSED, reason)
            if self._is_expired(job):
                return await self._recall.refuse_or_recall(job, Status.EXPIRED, results.EXPIRED)
            # Before the lease: a lease whose holder fails counts as a call whose answer was lost.
            token = await self._caller.token(fresh=job.fresh_token)
            # Also before the lease: a request that its flow's limits hold back must not hold a lease meanwhile.
            async with self._place(job, queue) as place:
                if place.postponement is not None:
                    return await self._recall.postpone_or_recall(job, place.postponement)
                leased = await self._recall.acquire_lease(job, flow)
                if not isinstance(leased, LeasedJob):
                    return leased
                verdict = await self._verdict(leased, flow, token)
                # Before the conclusion, which may fail: the limits must learn of every call.
                place.report(verdict)
                return await self._conclusions.from_verdict(leased.job, leased.lease, verdict)
        except TemporarilyUnavailable as outage:
            return self._conclusions.postpone(job, outage.code, outage.message, outage.until)
        except Exception as error:  # noqa: BLE001 - an internal error before the call: the request must not be lost
            log(_log, logging.ERROR, "request.internal_error", "An internal error postponed a request.")
            return self._conclusions.postpone(job, "internal_error", f"an internal error ({type(error).__name__})")

    async def answer_dead_letter(
        self, message: ReceivedMessage, read: Reader, status: Status, error: FlowError
    ) -> Outcome:
        """Return the outcome of a message that Service Bus dead-lettered: `status`, unless the journal has another.

        This calls no flow. Raises `TemporarilyUnavailable` if keys, Dataverse or the journal are unavailable.
        """
        try:
            job = read(message)
        except InvalidContinuation as unreadable:
            return await self._unreadable.answer_dead_letter(message, unreadable)
        except (InvalidRequest, Unanswerable) as undecodable:
            return self._conclusions.undecodable(message, undecodable)
        try:
            job = await self._admission.authenticate(job)
        except Refused:
            return await self._recall.end_unproven(job, status, error)
        return await self._recall.end_uncalled(job, status, error)

    async def record_result(self, job: Job, result: FlowResult) -> None:
        """Journal a published result that replaces the job's next step. Raises `TemporarilyUnavailable`."""
        await self._recall.record_result(job, result)

    def _is_expired(self, job: Job) -> bool:
        """Return whether the time to live ran out before the first call; afterwards the retry settings decide."""
        return job.calls == 0 and job.expires_at is not None and self._now() >= job.expires_at

    @asynccontextmanager
    async def _place(self, job: Job, queue: str) -> AsyncIterator[_Place]:
        """Hold a place among the flow's calls in flight during the block, if the flow's limits allow one."""
        key = _limit_key(job)
        place = _Place(await self._limiter.enter(key, job.origin, queue))
        try:
            yield place
        finally:
            if place.postponement is None:
                self._limiter.leave(key, job.origin, queue, health=place.health, until=place.not_before)

    async def _verdict(self, leased: LeasedJob, flow: Flow, token: str) -> Verdict:
        match leased.job.kind:
            case "call":
                return await self._call(leased, flow, token)
            case "poll":
                return await self._poll(leased.job, flow, token)
            case _:
                assert_never(leased.job.kind)

    async def _call(self, leased: LeasedJob, flow: Flow, token: str) -> Verdict:
        """Call the flow. From here on the flow may run, so every failure becomes a verdict instead of an exception."""
        job = leased.job
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
                # Another worker may call the flow at once instead of waiting for the lease to end.
                await self._recall.release(leased.lease)
                raise
            # Swallow the cancellation: the flow may have run, so the sender gets `unknown` and no second call follows.
            return judge_failure(_INTERRUPTED, flow)
        except Exception:  # noqa: BLE001 - the flow may have run: the sender must get a result
            log(_log, logging.ERROR, "call.internal_error", "An internal error ended a flow call.")
            return judge_failure(_INTERNAL_ERROR, flow)

    async def _poll(self, job: Job, flow: Flow, token: str) -> Verdict:
        status_url = job.status_url.get_secret_value() if job.status_url else ""
        response: Answer | CallFailed
        try:
            response = await self._caller.poll(flow, status_url, token=token)
        except CallFailed as failure:
            response = failure
        except Exception:  # noqa: BLE001 - a failed poll is counted, so that the polling ends
            log(_log, logging.ERROR, "call.internal_error", "An internal error ended a status poll.")
            response = _POLL_INTERNAL_ERROR
        return judge_poll(response, flow, status_url=status_url, now=self._now(), fresh_token=job.fresh_token)


def _limit_key(job: Job) -> str:
    """Return the key of the limits that apply: status polls have limits apart from those of the calls."""
    match job.kind:
        case "call":
            return job.flow
        case "poll":
            return status_poll_key(job.flow)
        case _:
            assert_never(job.kind)
