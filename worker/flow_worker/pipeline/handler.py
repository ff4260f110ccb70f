"""The journey of one request: decode → authenticate → authorize → recall → call the flow → conclude.

The handler reaches Service Bus, HTTP and the clock only through its ports, so tests run it with plain data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import InvalidRequest, Unanswerable
from flow_contracts.result import FlowError, Status
from flow_worker.errors import CallFailed, Refused, TemporarilyUnavailable
from flow_worker.flows.answer import Answer
from flow_worker.flows.limits import CallLimiter, Postponement, status_poll_key
from flow_worker.flows.registry import Flow
from flow_worker.flows.verdict import FlowHealth, Verdict, judge, judge_failure, judge_poll
from flow_worker.journal import LeaseLost
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.conclude import Conclusions
from flow_worker.pipeline.decode import Reader, decode
from flow_worker.pipeline.ending import Endings
from flow_worker.pipeline.job import InvalidContinuation, Job, UnprovenContinuation, origin_of
from flow_worker.pipeline.keys import LockHeld, Sole, always_held, never_sole, person_of, sender_of
from flow_worker.pipeline.outcome import Abandon, AlreadyHandled, Outcome, Reply
from flow_worker.pipeline.ports import Caller, Deliveries, NoDeliveries, NoProgress, Progress
from flow_worker.pipeline.proof_lanes import ProofLanes
from flow_worker.pipeline.recall import LeasedJob, Recall
from flow_worker.pipeline.unproven import UnprovenContinuations
from flow_worker.pipeline.unreadable import UnreadableContinuations
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_PROVABLE_EARLIER = frozenset({"request_too_old"})
"""The refusals of an authority that a request met only later: an earlier delivery may have proven its sender."""

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
        endings: Endings,
        caller: Caller,
        limiter: CallLimiter,
        conclusions: Conclusions,
        unreadable: UnreadableContinuations,
        unproven: UnprovenContinuations,
        now: Callable[[], datetime],
        reached: Callable[[], datetime] | None = None,
        proof_lanes: ProofLanes | None = None,
        progress: Progress | None = None,
        deliveries: Deliveries | None = None,
    ) -> None:
        """`reached`: returns a time that has provably come, by which requests expire; default `now`.

        `proof_lanes` limits the lanes in which requests wait for the proof of their senders.
        """
        self._admission = admission
        self._recall = recall
        self._endings = endings
        self._caller = caller
        self._limiter = limiter
        self._conclusions = conclusions
        self._unreadable = unreadable
        self._unproven = unproven
        self._now = now
        self._reached = reached or now
        self._proof_lanes = proof_lanes or ProofLanes({})
        self._progress = progress or NoProgress()
        self._deliveries = deliveries or NoDeliveries()

    async def handle(
        self, message: ReceivedMessage, read: Reader, queue: str, *, lock_held: LockHeld = always_held
    ) -> Outcome:
        """Take a message that a lane of `queue` received through its journey, and return its outcome.

        `lock_held` returns whether the lane still holds the message's lock. Raises only `CancelledError`, and only if
        no flow was called or the flow is idempotent.
        """
        return await self._guarded(self._handle(message, read, queue, lock_held))

    async def sort(
        self, message: ReceivedMessage, read: Reader, queue: str, *, lock_held: LockHeld = always_held
    ) -> Outcome:
        """Return the outcome of a message in a burst, without a wait and without a call of its flow.

        A request whose sender is proven, or cannot be proven now, goes to the continuation queue.
        """
        return await self._guarded(self._handle(message, read, queue, lock_held, sorts=True))

    @staticmethod
    async def _guarded(handling: Coroutine[None, None, Outcome]) -> Outcome:
        try:
            return await handling
        except Exception:  # noqa: BLE001 - an internal error: another delivery may succeed, and none is lost
            log(_log, logging.ERROR, "request.internal_error", "An internal error abandoned a request.")
            return Abandon("internal_error", "an internal error")

    async def _handle(
        self, message: ReceivedMessage, read: Reader, queue: str, lock_held: LockHeld, *, sorts: bool = False
    ) -> Outcome:
        first = message.delivery_count == 0
        try:
            job = await decode(message, read)
        except UnprovenContinuation as unproven:
            examined = await self._unproven.examine(message, unproven)
            if not isinstance(examined, Job):
                return examined
            return self._unproven.unsealed(message, examined, await self._journey(examined, queue, never_sole))
        except InvalidContinuation as error:
            return await self._unreadable.handle(message, error)
        except (InvalidRequest, Unanswerable) as error:
            undecodable = self._conclusions.undecodable(message, error, queue)
            return await self._once(undecodable, origin_of(message, queue), lambda: first and lock_held())
        first = first and job.number == job.waits == 0 and job.replay_of is None
        if sorts:
            return await self._sorted(job, lambda: first and lock_held())
        return await self._journey(job, queue, lambda: first and lock_held())

    async def _sorted(self, job: Job, sole: Sole) -> Outcome:
        # Keys or the journal may be unavailable: a lane of the continuation queue then does the same with more time.
        with contextlib.suppress(TemporarilyUnavailable, LeaseLost):
            try:
                job = await self._proof_lanes.prove_at_once(self._admission.authenticate(job))
            except Refused as refusal:
                return await self._refuse(job, refusal, sole)
        return self._conclusions.sort(job)

    async def _refuse(self, job: Job, refusal: Refused, sole: Sole) -> Outcome:
        return await self._endings.refuse(job, FlowError(code=refusal.code, message=refusal.message), sole)

    async def _journey(self, job: Job, queue: str, sole: Sole) -> Outcome:
        try:
            try:
                job = await self._authenticated(job, queue)
                flow = await self._admission.authorize(job, queue)
            except Refused as refusal:
                return await self._refuse(job, refusal, sole)
            if self._is_expired(job):
                return await self._endings.expire(job, sole)
            await self._deliveries.admitted(job)
            # Before the lease: a lease whose holder fails counts as a call whose answer was lost.
            token = await self._caller.token(fresh=job.fresh_token)
            # Also before the lease: a request that its flow's limits hold back must not hold a lease meanwhile.
            async with self._place(job, queue) as place:
                if place.postponement is not None:
                    return await self._endings.hold_back(job, place.postponement, sole)
                leased = await self._recall.acquire_lease(job, flow, sole)
                if not isinstance(leased, LeasedJob):
                    return leased
                verdict = await self._verdict(leased, flow, token)
                # Before the conclusion, which may fail: the limits must learn of every call.
                place.report(verdict)
                return await self._conclusions.from_verdict(leased.job, leased.lease, verdict)
        except LeaseLost:
            return self._conclusions.wait_for_holder(job)
        except TemporarilyUnavailable as outage:
            return await self._endings.postpone(job, outage.code, outage.message, outage.until, sole)
        except Exception as error:  # noqa: BLE001 - an internal error before the call: the request must not be lost
            log(_log, logging.ERROR, "request.internal_error", "An internal error postponed a request.")
            cause = f"an internal error ({type(error).__name__})"
            return await self._endings.postpone(job, "internal_error", cause, None, sole)

    async def _authenticated(self, job: Job, queue: str) -> Job:
        """Return the job with its proven sender; see `Admission.authenticate`."""
        proof = self._admission.authenticate(job)
        if job.principal is not None:
            return await proof
        return await self._proof_lanes.prove(queue, proof)

    async def answer_dead_letter(
        self, message: ReceivedMessage, read: Reader, status: Status, error: FlowError, *, queue: str = ""
    ) -> Outcome:
        """Return the outcome of a message that Service Bus dead-lettered: `status`, unless the journal has another.

        `queue` is the request queue whose dead-letter queue holds it. This calls no flow. Raises
        `TemporarilyUnavailable` if keys, Dataverse or the journal are unavailable.
        """
        try:
            job = await decode(message, read)
        except UnprovenContinuation as unproven:
            examined = await self._unproven.examine_dead_letter(message, unproven)
            if not isinstance(examined, Job):
                return examined
            job = examined
        except InvalidContinuation as unreadable:
            return await self._unreadable.answer_dead_letter(message, unreadable)
        except (InvalidRequest, Unanswerable) as undecodable:
            return await self._endings.undecodable_dead_letter(
                self._conclusions.undecodable(message, undecodable, queue), origin_of(message, queue)
            )
        # A sender that cannot be proven, any more, is answered too.
        try:
            job = await self._admission.authenticate(job)
        except Refused as refusal:
            if job.principal is None and refusal.code not in _PROVABLE_EARLIER:
                return await self._endings.end_unproven_dead_letter(job, status, error)
        return await self._endings.end_dead_letter(job, status, error)

    async def end_oversized(self, job: Job) -> Outcome:
        """Return the outcome of a request whose continuation is too large for its queue.

        Raises `TemporarilyUnavailable` if the journal is unavailable.
        """
        return await self._endings.end_oversized(job)

    async def _once(self, outcome: Outcome, origin: str, sole: Sole) -> Outcome:
        """Return the outcome of an undecodable message, unless its result was published before."""
        if not isinstance(outcome, Reply):
            return outcome
        reply = await self._endings.once(outcome, origin, sole)
        return reply or AlreadyHandled("already_answered", "The request already has its result.")

    def _is_expired(self, job: Job) -> bool:
        """Return whether the time to live ran out before the first call; afterwards the retry settings decide."""
        return job.calls == 0 and job.expires_at is not None and self._reached() >= job.expires_at

    @asynccontextmanager
    async def _place(self, job: Job, queue: str) -> AsyncIterator[_Place]:
        """Hold a place among the flow's calls in flight during the block, if the flow's limits allow one."""
        key, sender = _limit_key(job), sender_of(job)
        place = _Place(await self._limiter.enter(key, job.origin, queue, sender=sender))
        try:
            yield place
        finally:
            if place.postponement is None:
                self._limiter.leave(
                    key,
                    job.origin,
                    queue,
                    health=place.health,
                    until=place.not_before,
                    sender=sender,
                    person=person_of(job),
                )

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
            with self._progress.calling(job):
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
                await self._recall.release(leased.lease, calls=job.calls)
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
