"""Concludes a request with its result or its next step, and journals it before any queue learns of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, assert_never

from pydantic import SecretStr
from pydantic_core import to_json

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import InvalidRequest, ReplyAddress, Unanswerable
from flow_contracts.result import FlowError, FlowResult, Status
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.registry import Registry
from flow_worker.flows.verdict import Verdict, VerdictKind
from flow_worker.journal import Concluded, JobKey, Journal, Lease
from flow_worker.pipeline import results
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.journal_share import JournalShare
from flow_worker.pipeline.keys import sender_of, stand_in
from flow_worker.pipeline.outcome import AlreadyHandled, Continue, DeadLetter, JournalledResult, Outcome, Reply
from flow_worker.pipeline.pauses import poll_pause, retry_pause
from flow_worker.settings import RetrySettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ConclusionRules:
    """The queues that may get results, and the retry settings of flows without settings of their own."""

    reply_queues: Collection[str]
    default_reply_queue: str
    retry: RetrySettings
    max_outage: timedelta
    """How long beyond its own age limit a request waits for a journal that is unavailable."""
    gateway_reply_queues: Mapping[str, str] = field(default_factory=dict)
    """The reply queue of each request queue of a gateway, by the request queue's name in lower case."""

    def reply_queue(self, address: ReplyAddress, request_queue: str) -> str:
        """Return the queue for the result of a request from `request_queue`.

        That is the gateway's reply queue for the requests of its own queue only, whatever any address names: the
        gateway hands out what the queue holds. For all others it is the queue that the address names, as the settings
        write it, if they allow it; else the default queue. Service Bus ignores the case of queue names.
        """
        if (of_gateway := self.gateway_reply_queues.get(request_queue.lower())) is not None:
            return of_gateway
        if address.queue is None or address.queue in self.reply_queues:
            return address.queue or self.default_reply_queue
        asked = address.queue.lower()
        return next((queue for queue in self.reply_queues if queue.lower() == asked), self.default_reply_queue)


class Conclusions:
    """Draws the conclusion of a request from a verdict, or from the lack of a call."""

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        rules: ConclusionRules,
        now: Callable[[], datetime],
        *,
        max_message_bytes: Callable[[str], int | None] = lambda _: None,
        journal_share: JournalShare | None = None,
    ) -> None:
        """`max_message_bytes` returns the largest message that a reply queue takes; None if that is unknown yet.

        `journal_share` limits the bytes that the journal keeps for each sender.
        """
        self._journal = journal
        self._registry = registry
        self._rules = rules
        self._max_message_bytes = max_message_bytes
        self._journal_share = journal_share
        self._now = now

    # --- after a call or a poll, under its lease -----------------------------------------------------------------

    async def from_verdict(self, job: Job, lease: Lease, verdict: Verdict) -> Outcome:
        """Return the outcome of a call or a poll that the worker made under the lease."""
        match verdict.kind:
            case VerdictKind.ACCEPTED:
                return await self._poll_later(job, lease, verdict)
            case VerdictKind.RETRY:
                again = self._poll_again if job.kind == "poll" else self._call_again
                return await again(job, lease, verdict)
            case VerdictKind.SUCCEEDED | VerdictKind.FAILED | VerdictKind.UNKNOWN:
                return await self._conclude(job, lease, self._answered(job, verdict))
            case _:
                assert_never(verdict.kind)

    def _answered(self, job: Job, verdict: Verdict) -> FlowResult:
        """Return the result, without an output that its reply queue certainly refuses: nothing keeps that."""
        result = results.answered(job, verdict, self._now())
        max_bytes = self._max_message_bytes(self._rules.reply_queue(job.address, job.request_queue))
        if max_bytes is None or verdict.output_bytes <= max_bytes:
            return result
        return result.without_output(output_bytes=verdict.output_bytes)

    async def conclude_lost_call(self, job: Job, lease: Lease) -> Reply | AlreadyHandled:
        """Conclude `unknown`: an earlier call may have run the flow, and the worker that made it was lost."""
        message = "The flow was called, and the worker was lost before it knew the flow's answer."
        return await self._conclude(job, lease, self._unknown(job, "answer_lost", message))

    async def conclude_uncalled(
        self, job: Job, lease: Lease, status: Status, error: FlowError
    ) -> Reply | AlreadyHandled:
        """Conclude a request without calling its flow (again)."""
        return await self._conclude(job, lease, results.without_answer(job, status, error, self._now()))

    async def _conclude(self, job: Job, lease: Lease, result: FlowResult) -> Reply | AlreadyHandled:
        """Journal the result, and reply with the one that the journal keeps: another worker may have been first.

        Raises `TemporarilyUnavailable` only if no call went out under the lease: then nothing is lost by waiting.
        """
        try:
            max_bytes = self._max_journalled_bytes(job, result)
            stands = await _uninterrupted(self._journal.conclude(lease, result, max_bytes=max_bytes))
        except TemporarilyUnavailable as error:
            if lease.ending:
                raise
            # Publish the result all the same: no other place has it. The mark under the stand-in key tells a later
            # delivery, which finds a lease whose holder was lost.
            self._log_not_journalled(job, error)
            return replace(
                self.reply(job, result, JournalledResult(lease.message_id, job.origin)), stand_in=stand_in(job.origin)
            )
        if stands.status is not result.status and await self._is_published(job, lease):
            return AlreadyHandled("already_answered", "The request already has its result.")
        return self.reply(job, stands, JournalledResult(lease.message_id, job.origin))

    def _max_journalled_bytes(self, job: Job, result: FlowResult) -> int | None:
        """Return the size above which the journal keeps the result without its output; 0 beyond the sender's share."""
        share = self._journal_share
        if share is None or result.output is None or share.take(sender_of(job), len(to_json(result.output))):
            return self._max_message_bytes(self._rules.reply_queue(job.address, job.request_queue))
        return 0

    async def _is_published(self, job: Job, lease: Lease) -> bool:
        """Return whether another worker has published the result that stands instead of this worker's."""
        key = JobKey(lease.message_id, lease.entry.fingerprint, job.origin, job.number)
        try:
            recalled = await _uninterrupted(self._journal.recall(key))
        except TemporarilyUnavailable:
            return False
        return isinstance(recalled, Concluded) and recalled.published

    async def _call_again(self, job: Job, lease: Lease, verdict: Verdict) -> Outcome:
        retry = self._retry_settings(job)
        due = self._due(verdict, retry_pause(retry, job.calls))
        cause = _cause(verdict)
        exhausted = _exhausted(job, retry, due)
        if exhausted is None:
            return await self._wait(job, lease, due, cause, fresh_token=verdict.fresh_token)
        error = cause.model_copy(update={"message": f"The worker gave up {exhausted}. {cause.message}"})
        result = self._answered(job, replace(verdict, error=error))
        reply = await self._conclude(job, lease, result)
        return DeadLetter(cause.code, error.message, reply) if isinstance(reply, Reply) else reply

    async def _poll_later(self, job: Job, lease: Lease, verdict: Verdict) -> Outcome:
        ends = self._run_ends(job)
        if self._now() >= ends:
            return await self._conclude(job, lease, self._run_too_long(job))
        running = self._now() - (job.started or self._now())
        return await self._wait(
            job,
            lease,
            min(self._due(verdict, poll_pause(self._retry_settings(job), running)), ends),
            FlowError(code="flow_running", message="The flow is still running."),
            kind="poll",
            input=None,
            status_url=SecretStr(verdict.status_url or ""),
            run=verdict.run or job.run,
            poll_failures=0,
            fresh_token=False,
        )

    def _run_ends(self, job: Job) -> datetime:
        """Return the time of the last poll: a flow may answer 202 for ever."""
        return (job.started or self._now()) + timedelta(seconds=self._retry_settings(job).max_run_seconds)

    def _run_too_long(self, job: Job) -> FlowResult:
        seconds = self._retry_settings(job).max_run_seconds
        message = f"The flow's run did not end within {seconds:g} s: check its run history."
        return self._unknown(job, "run_too_long", message)

    async def _poll_again(self, job: Job, lease: Lease, verdict: Verdict) -> Outcome:
        retry = self._retry_settings(job)
        cause, failures = _cause(verdict), job.poll_failures + 1
        ends = self._run_ends(job)
        if failures >= retry.max_poll_failures or self._now() >= ends:
            message = f"The worker gave up after {failures} failed status polls of the run. {cause.message}"
            return await self._conclude(job, lease, self._unknown(job, cause.code, message))
        pause = max(retry_pause(retry, failures), timedelta(seconds=retry.poll_seconds))
        due = min(self._due(verdict, pause), ends)
        return await self._wait(job, lease, due, cause, poll_failures=failures, fresh_token=verdict.fresh_token)

    async def _wait(self, job: Job, lease: Lease, due: datetime, cause: FlowError, **changes: object) -> Outcome:
        """Journal the next step, and return the continuation that does it.

        The order matters: the worker writes the journal, then schedules the continuation, then completes the message.
        After a crash in between, the next delivery finds the step in the journal and schedules the same continuation.
        """
        changes |= {"number": job.number + 1, "waits": 0, "code": cause.code, "cause": cause.message}
        following = job.model_copy(update=changes)
        try:
            await _uninterrupted(self._journal.schedule(lease, following.to_step(due)))
        except TemporarilyUnavailable as error:
            # The continuation itself carries all that the journal would have kept.
            self._log_not_journalled(job, error)
        return Continue(following, due)

    # --- without a call ------------------------------------------------------------------------------------------

    def undecodable(
        self, message: ReceivedMessage, error: InvalidRequest | Unanswerable, queue: str
    ) -> Reply | DeadLetter:
        """Return the outcome of an undecodable request: a refusal, or a dead letter if nobody can be answered.

        `queue` is the request queue from which the worker received the message.
        """
        match error:
            case Unanswerable():
                return DeadLetter(error.reason, error.description)
            case InvalidRequest():
                address = error.address or ReplyAddress.of(message)
                refusal = FlowError(code=error.code, message=error.message)
                result = results.unreadable(address, message, refusal, self._now())
                # Not the origin: a dead letter may have another sequence number than the message had.
                variant = f"undecodable {message.enqueued_at.isoformat()}"
                reply_queue = self._rules.reply_queue(address, queue)
                return Reply(result, address, reply_queue, variant=variant, of_stranger=True)
            case _:
                assert_never(error)

    def postpone(self, job: Job, code: str, cause: str, until: datetime | None = None) -> Continue | None:
        """Return the same step again later; None if a call would then be older than `max_age_seconds`."""
        due = self._next_due(job, until)
        if job.kind == "call" and due - job.tried_since > timedelta(seconds=self.max_age_seconds(job)):
            return None
        return self._same_step(job, due, code, cause)

    def sort(self, job: Job) -> Continue:
        """Return the same step at once, as a continuation: lanes that sort a burst call no flow."""
        cause = "it arrived in a burst of unproven requests"
        waits = {"waits": job.waits + 1, "code": "request_burst", "cause": cause}
        return Continue(job.model_copy(update=waits), self._now())

    def wait_for_holder(self, job: Job, until: datetime | None = None) -> Continue:
        """Return the same step again later, without a bound: the holder of the lease knows more about the request."""
        waits = {"waits": job.waits + 1, "code": "call_under_way", "cause": "another worker holds its lease"}
        return Continue(job.model_copy(update=waits), self._next_due(job, until))

    def wait_for_journal(self, job: Job, outage: TemporarilyUnavailable) -> Outcome:
        """Return the same step again later for a request that only the journal can end; in the end, `unknown`.

        An earlier delivery of the request may have called the flow.
        """
        due = self._next_due(job, outage.until)
        limit = timedelta(seconds=self.max_age_seconds(job)) + self._rules.max_outage
        if due - job.tried_since <= limit:
            return self._same_step(job, due, outage.code, outage.message)
        message = f"The worker gave up after {limit.total_seconds():g} s: {outage.message}. The flow may have run."
        unknown = self._unknown(job, "journal_unavailable", message)
        return DeadLetter("journal_unavailable", message, self._unjournalled(job, unknown))

    def _same_step(self, job: Job, due: datetime, code: str, cause: str) -> Continue:
        return Continue(job.model_copy(update={"waits": job.waits + 1, "code": code, "cause": cause}), due)

    def _next_due(self, job: Job, until: datetime | None) -> datetime:
        """Return the time until which the cause lasts; if that is unknown, a time after the retry pause."""
        return until or self._now() + retry_pause(self._retry_settings(job), job.waits)

    def reply_uncalled(self, job: Job, status: Status, error: FlowError, *, variant: str = "") -> Reply:
        """Return the reply to a request that ends without a call and without an entry in the journal."""
        return self._unjournalled(job, results.without_answer(job, status, error, self._now()), variant=variant)

    def reply(self, job: Job, result: FlowResult, journalled: JournalledResult) -> Reply:
        """Return the outcome that publishes a result of the journal to the request's reply address."""
        own = journalled.message_id == job.message_id
        variant = "" if own else journalled.message_id
        queue = self._rules.reply_queue(job.address, job.request_queue)
        # The entry under the request's own key is that of a proven sender: its fingerprint covers the principal.
        is_strange = job.principal is None and not own
        return Reply(result, job.address, queue, journalled, variant=variant, of_stranger=is_strange, job=job)

    def _unjournalled(self, job: Job, result: FlowResult, *, variant: str = "") -> Reply:
        queue, key = self._rules.reply_queue(job.address, job.request_queue), stand_in(job.origin)
        is_strange = job.principal is None
        return Reply(
            result, job.address, queue, variant=variant or key.message_id, stand_in=key, of_stranger=is_strange, job=job
        )

    def _unknown(self, job: Job, code: str, message: str) -> FlowResult:
        return results.without_answer(job, Status.UNKNOWN, FlowError(code=code, message=message), self._now())

    # --- settings ------------------------------------------------------------------------------------------------

    def max_age_seconds(self, job: Job) -> float:
        """Return the age after which the worker gives the request up."""
        return self._retry_settings(job).max_age_seconds

    def _retry_settings(self, job: Job) -> RetrySettings:
        try:
            return self._registry.find(job.flow).retry or self._rules.retry
        except Refused:  # the flow is unknown; `Admission.authorize` refuses the request for that
            return self._rules.retry

    def _due(self, verdict: Verdict, pause: timedelta) -> datetime:
        return max(self._now() + pause, verdict.not_before or self._now())

    @staticmethod
    def _log_not_journalled(job: Job, error: TemporarilyUnavailable) -> None:
        log(
            _log,
            logging.ERROR,
            "journal.write_failed",
            f"The worker could not journal the outcome of a request, and carries the outcome out nevertheless: {error}",
            message_id=job.message_id,
            correlation_id=job.correlation_id,
        )


def _cause(verdict: Verdict) -> FlowError:
    return verdict.error or FlowError(code="internal_error", message="A retry without a cause.")


def _exhausted(job: Job, retry: RetrySettings, due: datetime) -> str | None:
    """Return the bound that forbids another call at `due`; None if there is no such bound."""
    if job.calls >= retry.max_calls:
        return f"after {job.calls} calls"
    if due - job.tried_since > timedelta(seconds=retry.max_age_seconds):
        return f"after {retry.max_age_seconds:g} s"
    if job.expires_at is not None and due >= job.expires_at:
        return "at the end of the request's time to live"
    return None


async def _uninterrupted(work: Coroutine[Any, Any, _T]) -> _T:
    """Finish the work even if the task is cancelled meanwhile, and swallow the cancellation.

    The journal must learn of a call that went out. The lane's interruption is meant for the wait for the flow, not for
    this.
    """
    task = asyncio.ensure_future(work)
    # A loop, because each cancellation ends one `shield`, while the work itself continues.
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # the work was cancelled itself, as when the event loop closes
                raise
    return task.result()
