"""What follows for a request: its result now, or its next step later. Journalled before it is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import SecretStr

from contracts.message import ReceivedMessage
from contracts.request import InvalidRequest, ReplyAddress
from contracts.result import FlowError, FlowResult, Status
from worker import results
from worker.continuations import Continuation, poll_pause, retry_pause
from worker.errors import NotKnownYet
from worker.flows.verdict import Kind, Verdict
from worker.journal import Claim, Journal, Step
from worker.logs import log
from worker.outcome import Continue, DeadLetter, Entered, Outcome, Reply
from worker.settings import RetrySettings

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

    async def judged(self, errand: Continuation, claim: Claim, verdict: Verdict, retry: RetrySettings) -> Outcome:
        """The outcome of a call or a poll that we held the claim for."""
        match verdict.kind:
            case Kind.ACCEPTED:
                return await self._poll_later(errand, claim, verdict, retry)
            case Kind.RETRY if errand.kind == "poll":
                return await self._poll_again(errand, claim, verdict, retry)
            case Kind.RETRY:
                return await self._call_again(errand, claim, verdict, retry)
            case _:
                return await self.conclude(errand, claim, results.answered(errand, verdict, self._now()))

    async def _call_again(self, errand: Continuation, claim: Claim, verdict: Verdict, retry: RetrySettings) -> Outcome:
        due = self._due(verdict, retry_pause(retry, errand.calls))
        cause = _cause(verdict)
        spent = self._spent(errand, retry, due)
        if spent is None:
            return await self._wait(errand, claim, due, cause, fresh_token=verdict.fresh_token)
        given_up = cause.model_copy(update={"message": f"Given up {spent}. {cause.message}"})
        result = results.answered(errand, verdict, self._now()).model_copy(update={"error": given_up})
        return DeadLetter(cause.code, given_up.message, await self.conclude(errand, claim, result))

    async def _poll_later(self, errand: Continuation, claim: Claim, verdict: Verdict, retry: RetrySettings) -> Outcome:
        running = self._now() - (errand.started or self._now())
        return await self._wait(
            errand,
            claim,
            self._due(verdict, poll_pause(retry, running)),
            FlowError(code="flow_running", message="The flow is still running."),
            kind="poll",
            input=None,
            status_url=SecretStr(verdict.status_url or ""),
            run=verdict.run or errand.run,
            poll_failures=0,
            fresh_token=False,
        )

    async def _poll_again(self, errand: Continuation, claim: Claim, verdict: Verdict, retry: RetrySettings) -> Outcome:
        cause, failures = _cause(verdict), errand.poll_failures + 1
        if failures >= retry.max_poll_failures:
            message = f"Given up after {failures} attempts to learn how the run ended. {cause.message}"
            return await self.conclude(errand, claim, self._unknown(errand, cause.code, message))
        pause = max(retry_pause(retry, failures), timedelta(seconds=retry.poll_seconds))
        due = self._due(verdict, pause)
        return await self._wait(errand, claim, due, cause, poll_failures=failures, fresh_token=verdict.fresh_token)

    async def _wait(
        self, errand: Continuation, claim: Claim, due: datetime, cause: FlowError, **changes: object
    ) -> Outcome:
        """Journal the next step, then have it scheduled: after a crash in between, the next delivery schedules it."""
        changes |= {"number": errand.number + 1, "waits": 0, "code": cause.code, "cause": cause.message}
        following = errand.model_copy(update=changes)
        try:
            await _unbroken(self._journal.wait(claim, _step(following, due)))
        except NotKnownYet as trouble:
            self._say_not_journalled(errand, trouble)
        return self.scheduled(following, due)

    async def conclude(self, errand: Continuation, claim: Claim, result: FlowResult) -> Reply:
        """Journal the result. The one that stands is told, should another worker have been first."""
        try:
            result = await _unbroken(self._journal.conclude(claim, result))
        except NotKnownYet as trouble:
            self._say_not_journalled(errand, trouble)
        return self.reply(errand, result, Entered(claim.message_id, errand.origin))

    async def lost(self, errand: Continuation, claim: Claim) -> Reply:
        """An earlier call may have run the flow, and the worker that made it is gone."""
        message = "The flow was called, and the worker was lost before its answer was known."
        return await self.conclude(errand, claim, self._unknown(errand, "answer_lost", message))

    # --- nothing was called --------------------------------------------------------------------------------------

    def put_off(
        self, errand: Continuation, retry: RetrySettings, code: str, cause: str, until: datetime | None = None
    ) -> Outcome:
        """Nothing was called and nothing is decided: come back later, unless that was said for too long."""
        due = until or self._now() + retry_pause(retry, errand.waits)
        if errand.kind == "call" and due - errand.tried_since > timedelta(seconds=retry.max_age_seconds):
            return self._give_up(errand, code, f"Given up after {retry.max_age_seconds:g} s: {cause}.")
        return self.scheduled(errand.model_copy(update={"waits": errand.waits + 1, "code": code, "cause": cause}), due)

    def scheduled(self, following: Continuation, due: datetime) -> Continue:
        """Its next step, when it is due."""
        cause = f"The request waits ({following.code}), but the continuation queue does not take a message of its size."
        return Continue(following, due, self._give_up(following, "continuation_too_large", cause))

    def _give_up(self, errand: Continuation, code: str, message: str) -> DeadLetter:
        # What a journal that was away all the time would have said of an earlier call, nobody knows.
        if errand.kind == "poll" or code == "journal_unavailable":
            return DeadLetter(code, message, self.reply(errand, self._unknown(errand, code, message)))
        error = FlowError(code=code, message=message, retryable=True)
        return DeadLetter(code, message, self.reply(errand, self.without_answer(errand, Status.FAILED, error)))

    # --- results -------------------------------------------------------------------------------------------------

    def without_answer(self, errand: Continuation, status: Status, error: FlowError) -> FlowResult:
        """The result of a request that ends without (another) answer of its flow."""
        return results.without_answer(errand, status, error, self._now())

    def _unknown(self, errand: Continuation, code: str, message: str) -> FlowResult:
        return self.without_answer(errand, Status.UNKNOWN, FlowError(code=code, message=message))

    def reply(
        self, errand: Continuation, result: FlowResult, entered: Entered | None = None, *, variant: str = ""
    ) -> Reply:
        """The result on its way to where the request wants it."""
        return Reply(result, errand.address, self._queue_for(errand.address), entered, variant)

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
    def _spent(errand: Continuation, retry: RetrySettings, due: datetime) -> str | None:
        """Why a call that would be due then is not made any more, if it is not."""
        if errand.calls >= retry.max_calls:
            return f"after {errand.calls} calls"
        if due - errand.tried_since > timedelta(seconds=retry.max_age_seconds):
            return f"after {retry.max_age_seconds:g} s"
        if errand.expires_at is not None and due >= errand.expires_at:
            return "at the end of the request's time to live"
        return None

    @staticmethod
    def _say_not_journalled(errand: Continuation, trouble: NotKnownYet) -> None:
        log(
            _log,
            logging.ERROR,
            "journal.not_written",
            f"What became of a request could not be journalled; it goes on all the same: {trouble}",
            message_id=errand.message_id,
            correlation_id=errand.correlation_id,
        )


def _cause(verdict: Verdict) -> FlowError:
    return verdict.error or FlowError(code="internal_error", message="A retry without a cause.")


def _step(following: Continuation, due: datetime) -> Step:
    """What the journal keeps of a continuation: all but the request itself."""
    return Step(
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
