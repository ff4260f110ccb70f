"""What follows for a request: its result now, or its next step later. Journalled before it is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import SecretStr

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import InvalidRequest, ReplyAddress
from flow_contracts.result import FlowError, FlowResult, Status
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.verdict import Verdict, VerdictKind
from flow_worker.journal import Journal, Lease, NextStep
from flow_worker.pipeline import results
from flow_worker.pipeline.job import Job, poll_pause, retry_pause
from flow_worker.pipeline.outcome import Continue, DeadLetter, JournalledResult, Outcome, Reply
from flow_worker.settings import RetrySettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Rules:
    """Where results may go, and how long a request is tried whose flow has no rules of its own."""

    reply_queues: Collection[str]
    default_reply_queue: str
    retry: RetrySettings


class Conclusions:
    """Draws the conclusion from a verdict, or from the lack of one."""

    def __init__(self, journal: Journal, rules: Rules, now: Callable[[], datetime]) -> None:
        self._journal = journal
        self._rules = rules
        self._now = now

    # --- the verdict is known ------------------------------------------------------------------------------------

    async def judged(self, job: Job, lease: Lease, verdict: Verdict, retry: RetrySettings) -> Outcome:
        """The outcome of a call or a poll that we held the claim for."""
        match verdict.kind:
            case VerdictKind.ACCEPTED:
                return await self._poll_later(job, lease, verdict, retry)
            case VerdictKind.RETRY if job.kind == "poll":
                return await self._poll_again(job, lease, verdict, retry)
            case VerdictKind.RETRY:
                return await self._call_again(job, lease, verdict, retry)
            case _:
                return await self.conclude(job, lease, results.answered(job, verdict, self._now()))

    async def _call_again(self, job: Job, lease: Lease, verdict: Verdict, retry: RetrySettings) -> Outcome:
        due = self._due(verdict, retry_pause(retry, job.calls))
        cause = _cause(verdict)
        spent = self._spent(job, retry, due)
        if spent is None:
            return await self._wait(job, lease, due, cause, fresh_token=verdict.fresh_token)
        given_up = cause.model_copy(update={"message": f"Given up {spent}. {cause.message}"})
        result = results.answered(job, verdict, self._now()).model_copy(update={"error": given_up})
        return DeadLetter(cause.code, given_up.message, await self.conclude(job, lease, result))

    async def _poll_later(self, job: Job, lease: Lease, verdict: Verdict, retry: RetrySettings) -> Outcome:
        running = self._now() - (job.started or self._now())
        return await self._wait(
            job,
            lease,
            self._due(verdict, poll_pause(retry, running)),
            FlowError(code="flow_running", message="The flow is still running."),
            kind="poll",
            input=None,
            status_url=SecretStr(verdict.status_url or ""),
            run=verdict.run or job.run,
            poll_failures=0,
            fresh_token=False,
        )

    async def _poll_again(self, job: Job, lease: Lease, verdict: Verdict, retry: RetrySettings) -> Outcome:
        cause, failures = _cause(verdict), job.poll_failures + 1
        if failures >= retry.max_poll_failures:
            message = f"Given up after {failures} attempts to learn how the run ended. {cause.message}"
            return await self.conclude(job, lease, self._unknown(job, cause.code, message))
        pause = max(retry_pause(retry, failures), timedelta(seconds=retry.poll_seconds))
        due = self._due(verdict, pause)
        return await self._wait(job, lease, due, cause, poll_failures=failures, fresh_token=verdict.fresh_token)

    async def _wait(self, job: Job, lease: Lease, due: datetime, cause: FlowError, **changes: object) -> Outcome:
        """Journal the next step, then have it scheduled: after a crash in between, the next delivery schedules it."""
        changes |= {"number": job.number + 1, "waits": 0, "code": cause.code, "cause": cause.message}
        following = job.model_copy(update=changes)
        try:
            await _unbroken(self._journal.schedule(lease, _step(following, due)))
        except TemporarilyUnavailable as trouble:
            self._say_not_journalled(job, trouble)
        return self.scheduled(following, due)

    async def conclude(self, job: Job, lease: Lease, result: FlowResult) -> Reply:
        """Journal the result. The one that stands is told, should another worker have been first."""
        try:
            result = await _unbroken(self._journal.conclude(lease, result))
        except TemporarilyUnavailable as trouble:
            self._say_not_journalled(job, trouble)
        return self.reply(job, result, JournalledResult(lease.message_id, job.origin))

    async def lost(self, job: Job, lease: Lease) -> Reply:
        """An earlier call may have run the flow, and the worker that made it is gone."""
        message = "The flow was called, and the worker was lost before its answer was known."
        return await self.conclude(job, lease, self._unknown(job, "answer_lost", message))

    # --- nothing was called --------------------------------------------------------------------------------------

    def put_off(self, job: Job, retry: RetrySettings, code: str, cause: str, until: datetime | None = None) -> Outcome:
        """Nothing was called and nothing is decided: come back later, unless that was said for too long."""
        due = until or self._now() + retry_pause(retry, job.waits)
        if job.kind == "call" and due - job.tried_since > timedelta(seconds=retry.max_age_seconds):
            return self._give_up(job, code, f"Given up after {retry.max_age_seconds:g} s: {cause}.")
        return self.scheduled(job.model_copy(update={"waits": job.waits + 1, "code": code, "cause": cause}), due)

    def scheduled(self, following: Job, due: datetime) -> Continue:
        """Its next step, when it is due."""
        cause = f"The request waits ({following.code}), but the continuation queue does not take a message of its size."
        return Continue(following, due, self._give_up(following, "continuation_too_large", cause))

    def _give_up(self, job: Job, code: str, message: str) -> DeadLetter:
        # What a journal that was away all the time would have said of an earlier call, nobody knows.
        if job.kind == "poll" or code == "journal_unavailable":
            return DeadLetter(code, message, self.reply(job, self._unknown(job, code, message)))
        error = FlowError(code=code, message=message, retryable=True)
        return DeadLetter(code, message, self.reply(job, self.without_answer(job, Status.FAILED, error)))

    # --- results -------------------------------------------------------------------------------------------------

    def without_answer(self, job: Job, status: Status, error: FlowError) -> FlowResult:
        """The result of a request that ends without (another) answer of its flow."""
        return results.without_answer(job, status, error, self._now())

    def _unknown(self, job: Job, code: str, message: str) -> FlowResult:
        return self.without_answer(job, Status.UNKNOWN, FlowError(code=code, message=message))

    def reply(
        self, job: Job, result: FlowResult, journalled: JournalledResult | None = None, *, variant: str = ""
    ) -> Reply:
        """The result on its way to where the request wants it."""
        return Reply(result, job.address, self._queue_for(job.address), journalled, variant)

    def refuse_unread(self, message: ReceivedMessage, no: InvalidRequest) -> Reply:
        """The refusal of a request that cannot be read. Raises `contracts.request.Unanswerable`."""
        address = no.address or ReplyAddress.of(message)
        result = results.unreadable(address, message, FlowError(code=no.code, message=no.message), self._now())
        return Reply(result, address, self._queue_for(address))

    def _queue_for(self, address: ReplyAddress) -> str:
        queue = address.queue
        return queue if queue is not None and queue in self._rules.reply_queues else self._rules.default_reply_queue

    # --- bounds --------------------------------------------------------------------------------------------------

    def _due(self, verdict: Verdict, pause: timedelta) -> datetime:
        return max(self._now() + pause, verdict.not_before or self._now())

    @staticmethod
    def _spent(job: Job, retry: RetrySettings, due: datetime) -> str | None:
        """Why a call that would be due then is not made any more, if it is not."""
        if job.calls >= retry.max_calls:
            return f"after {job.calls} calls"
        if due - job.tried_since > timedelta(seconds=retry.max_age_seconds):
            return f"after {retry.max_age_seconds:g} s"
        if job.expires_at is not None and due >= job.expires_at:
            return "at the end of the request's time to live"
        return None

    @staticmethod
    def _say_not_journalled(job: Job, trouble: TemporarilyUnavailable) -> None:
        log(
            _log,
            logging.ERROR,
            "journal.write_failed",
            f"What became of a request could not be journalled; it goes on all the same: {trouble}",
            message_id=job.message_id,
            correlation_id=job.correlation_id,
        )


def _cause(verdict: Verdict) -> FlowError:
    return verdict.error or FlowError(code="internal_error", message="A retry without a cause.")


def _step(following: Job, due: datetime) -> NextStep:
    """What the journal keeps of a continuation: all but the request itself."""
    return NextStep(
        number=following.number,
        kind=following.kind,
        due=due,
        calls=following.calls,
        code=following.code or "",
        cause=following.cause or "",
        status_url=following.status_url.get_secret_value() if following.status_url else None,
        fresh_token=following.fresh_token,
        run=following.run,
        started=following.started,
        failures=following.poll_failures,
    )


async def _unbroken(work: Coroutine[Any, Any, _T]) -> _T:
    """The work's result, even if the worker is told to stop meanwhile: what was called must be journalled."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    return task.result()
