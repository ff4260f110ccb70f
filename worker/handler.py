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

from contracts.message import ReceivedMessage
from contracts.request import InvalidRequest, Unanswerable
from contracts.result import FlowError, Status
from worker.admission import Admission
from worker.conclusion import Conclusions
from worker.continuations import Continuation, InvalidContinuation
from worker.errors import CallFailed, NotKnownYet, Refused
from worker.flows.invoker import Answer
from worker.flows.pacing import NotNow, Pacing, looks_at
from worker.flows.registry import Flow, Registry
from worker.flows.verdict import Sign, Verdict, judge, judge_failure, judge_poll
from worker.journal import Begin, Begun, Busy, Claim, Concluded, Conflict, Journal, Subject, Waiting
from worker.logs import log
from worker.outcome import DeadLetter, Done, Entered, Outcome, Reply
from worker.settings import RetrySettings

_log = logging.getLogger(__name__)

Reader = Callable[[ReceivedMessage], Continuation]
"""Reads a message of one queue. Raises `InvalidRequest`, `InvalidContinuation`, `Unanswerable`."""


class Caller(Protocol):
    """Calls a flow."""

    async def token(self, *, fresh: bool = False) -> str:
        """Raises `NotKnownYet`."""
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
    "interrupted", "The worker stopped before the flow answered.", may_have_run=True, is_flows=False
)
_FAULT = CallFailed(
    "internal_error", "A fault in the worker; the flow may have run.", may_have_run=True, is_flows=False
)
_EXPIRED = FlowError(
    code="request_expired", message="The request's time to live ran out before its flow could be called."
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
        pacing: Pacing,
        journal: Journal,
        conclusions: Conclusions,
        retry: RetrySettings,
        lease_slack_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._admission = admission
        self._registry = registry
        self._caller = caller
        self._pacing = pacing
        self._journal = journal
        self._conclusions = conclusions
        self._retry = retry
        self._lease_slack = lease_slack_seconds
        self._now = now

    async def handle(self, message: ReceivedMessage, read: Reader, queue: str) -> Outcome:
        """Take one message, delivered to a lane of `queue`, as far as it goes.

        Raises nothing but `CancelledError`, and that only if no flow was called or the flow may be called again.
        """
        try:
            errand = read(message)
        except Unanswerable as error:
            return DeadLetter(error.reason, error.description)
        except InvalidContinuation as error:
            return DeadLetter("invalid_continuation", f"This is no continuation of this worker's: {error}.")
        except InvalidRequest as no:
            return self._conclusions.refuse_unread(message, no)
        try:
            try:
                errand = await self._admission.prove(errand)
            except Refused as no:
                return await self._not_admitted(errand, FlowError(code=no.code, message=no.message))
            return await self._journey(errand, queue)
        except Refused as no:
            return self._refuse(errand, FlowError(code=no.code, message=no.message))
        except NotKnownYet as reason:
            return self._put_off(errand, reason.code, reason.message, reason.until)
        except Exception as error:  # noqa: BLE001 - a fault of ours before the call: the request must outlive it
            log(_log, logging.ERROR, "request.fault", "A request met a fault in the worker.")
            return self._put_off(errand, "internal_error", f"a fault in the worker ({type(error).__name__})")

    async def _journey(self, errand: Continuation, queue: str) -> Outcome:
        try:
            flow = await self._admission.authorise(errand)
        except Refused as no:
            return await self._deny(errand, Status.REFUSED, FlowError(code=no.code, message=no.message))
        if self._is_expired(errand):
            return await self._deny(errand, Status.EXPIRED, _EXPIRED)
        token = await self._caller.token(fresh=errand.fresh_token)
        paced_as = errand.flow if errand.kind == "call" else looks_at(errand.flow)
        if (not_now := await self._pacing.admitted(paced_as, errand.origin, queue)) is not None:
            return await self._not_now(errand, not_now)
        paced = _Paced()
        try:
            return await self._claimed(errand, flow, token, paced)
        finally:
            self._pacing.leave(paced_as, errand.origin, queue, sign=paced.sign, until=paced.until)

    async def _claimed(self, errand: Continuation, flow: Flow, token: str, paced: _Paced) -> Outcome:
        begun = await self._begin(errand, flow)
        if not isinstance(begun, Begin):
            return self._not_ours(errand, begun)
        errand = _as_journalled(errand, begun)
        if begun.interrupted and errand.kind == "call" and not flow.idempotent:
            return await self._conclusions.lost(errand, begun.claim)
        if errand.kind == "poll":
            verdict = await self._poll(errand, flow, token)
        else:
            errand = errand.model_copy(update={"calls": errand.calls + 1, "started": errand.started or self._now()})
            verdict = await self._call(errand, flow, token, begun.claim)
        paced.sign, paced.until = verdict.sign, verdict.not_before
        return await self._conclusions.judged(errand, begun.claim, verdict, flow.retry or self._retry)

    def _is_expired(self, errand: Continuation) -> bool:
        return errand.calls == 0 and errand.expires_at is not None and self._now() >= errand.expires_at

    # --- recall --------------------------------------------------------------------------------------------------

    async def _begin(self, errand: Continuation, flow: Flow) -> Begun:
        """Claim the request. If the worker is told to stop meanwhile, the claim is given back."""
        lease = timedelta(seconds=flow.timeout_seconds + self._lease_slack)
        begin = self._journal.begin(_subject(errand), lease=lease, calls=errand.calls, again=flow.idempotent)
        claiming = asyncio.ensure_future(begin)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            [begun] = await asyncio.gather(claiming, return_exceptions=True)
            if isinstance(begun, Begin):
                await self._release(begun.claim)
            raise

    def _not_ours(self, errand: Continuation, begun: Concluded | Busy | Waiting | Conflict) -> Outcome:
        match begun:
            case Concluded(told=True):
                return Done("already_answered", "The request had its result before.")
            case Concluded(result=result):
                return self._conclusions.reply(errand, result, Entered(errand.message_id, errand.origin))
            case Conflict():
                result = self._conclusions.without_answer(errand, Status.REFUSED, _CONFLICT)
                return self._conclusions.reply(errand, result, variant=errand.fingerprint)
            case Busy(until=until):
                # Not put off: however long it takes, whoever is at it knows more than we do.
                waits = {"waits": errand.waits + 1, "code": "call_under_way", "cause": "another worker is at it"}
                return self._conclusions.scheduled(errand.model_copy(update=waits), until)
            case Waiting(step=step, origin=origin) if origin == errand.origin and step.number == errand.number + 1:
                # Journalled; whether it was scheduled too, nobody knows. Twice is once.
                return self._conclusions.scheduled(errand.at(step), step.due)
            case Waiting():
                return Done("superseded", "Another message carries the request on.")

    async def _deny(self, errand: Continuation, status: Status, error: FlowError) -> Outcome:
        """Not to be called; but what was called before is told as it was: a right may have been lost in between."""
        if await self._journal.recall(_subject(errand)) is None:
            return self._conclusions.reply(errand, self._conclusions.without_answer(errand, status, error))
        return await self._end(errand, _subject(errand), status, error)

    async def _not_admitted(self, errand: Continuation, error: FlowError) -> Outcome:
        """A claim that held before may not hold any more; what was called is told as it was all the same."""
        if errand.principal is not None:
            return await self._deny(errand, Status.REFUSED, error)
        subject = await self._same_message(errand)
        return (
            self._refuse(errand, error) if subject is None else await self._end(errand, subject, Status.REFUSED, error)
        )

    async def _same_message(self, errand: Continuation) -> Subject | None:
        """What this very message was journalled as when its sender was proven; None if it never was.

        The origin is the broker's own number of the message, which nobody can write: another message learns nothing.
        """
        found = await self._journal.find(errand.message_id)
        if found is None or found.origin != errand.origin:
            return None
        return Subject(
            message_id=errand.message_id, fingerprint=found.fingerprint, origin=errand.origin, number=errand.number
        )

    async def _end(self, errand: Continuation, subject: Subject, status: Status, error: FlowError) -> Outcome:
        """Conclude without calling: as `status` says, or `unknown` if a call went out."""
        begun = await self._journal.begin(subject, lease=timedelta(seconds=self._lease_slack), calls=errand.calls)
        if not isinstance(begun, Begin):
            return self._not_ours(errand, begun)
        errand = _as_journalled(errand, begun)
        if begun.interrupted or errand.kind == "poll":
            return await self._conclusions.lost(errand, begun.claim)
        result = self._conclusions.without_answer(errand, status, error)
        return await self._conclusions.conclude(errand, begun.claim, result)

    async def _not_now(self, errand: Continuation, not_now: NotNow) -> Outcome:
        known = await self._journal.recall(_subject(errand))
        if isinstance(known, Concluded):
            return self._not_ours(errand, known)
        return self._put_off(errand, not_now.code, not_now.cause, not_now.until)

    # --- call ----------------------------------------------------------------------------------------------------

    async def _call(self, errand: Continuation, flow: Flow, token: str, claim: Claim) -> Verdict:
        """From here on the flow may run, so whatever happens is judged, not raised."""
        try:
            answer = await self._caller.invoke(
                flow,
                errand.input,
                token=token,
                correlation_id=errand.correlation_id,
                traceparent=errand.traceparent,
            )
            return judge(answer, flow, now=self._now(), fresh_token=errand.fresh_token)
        except CallFailed as failure:
            return judge_failure(failure, flow)
        except asyncio.CancelledError:
            if flow.idempotent:
                await self._release(claim)
                raise
            return judge_failure(_INTERRUPTED, flow)
        except Exception:  # noqa: BLE001 - the call may have gone out: its result must be told
            log(_log, logging.ERROR, "call.fault", "A call met a fault in the worker.")
            return judge_failure(_FAULT, flow)

    async def _poll(self, errand: Continuation, flow: Flow, token: str) -> Verdict:
        status_url = errand.status_url.get_secret_value() if errand.status_url else ""
        happened: Answer | CallFailed
        try:
            happened = await self._caller.poll(flow, status_url, token=token)
        except CallFailed as failure:
            happened = failure
        except Exception:  # noqa: BLE001 - a look that fails is counted, so that it comes to an end
            log(_log, logging.ERROR, "call.fault", "A look at a run met a fault in the worker.")
            happened = CallFailed("internal_error", "A fault in the worker.", may_have_run=False, is_flows=False)
        return judge_poll(happened, flow, status_url=status_url, now=self._now(), fresh_token=errand.fresh_token)

    async def _release(self, claim: Claim) -> None:
        try:
            await self._journal.release(claim)
        except NotKnownYet as trouble:
            log(_log, logging.WARNING, "journal.not_written", f"A claim is left to run out by itself: {trouble}")

    # --- outside the journey -------------------------------------------------------------------------------------

    async def answer_dead(self, message: ReceivedMessage, read: Reader, status: Status, error: FlowError) -> Outcome:
        """What is to be told of a message that the broker dead-lettered; it stays where it is.

        Raises `NotKnownYet` if that cannot be said just now.
        """
        try:
            errand = read(message)
        except (Unanswerable, InvalidContinuation) as no:
            return Done("unanswerable", str(no))
        except InvalidRequest as no:
            return self._conclusions.refuse_unread(message, no)
        try:
            errand = await self._admission.prove(errand)
            subject = _subject(errand)
        except Refused:
            # If it was never called, its entry must not stand where a proven sender's request would.
            nobody = f"dead-letter {errand.origin}"
            unproven = Subject(message_id=nobody, fingerprint=nobody, origin=errand.origin, number=errand.number)
            subject = await self._same_message(errand) or unproven
        return await self._end(errand, subject, status, error)

    async def told(self, reply: Reply) -> None:
        """The reply queue has accepted the result: a redelivery need not tell it again."""
        if reply.entered is None:
            return
        try:
            await self._journal.told(reply.entered.message_id, reply.entered.origin)
        except NotKnownYet as trouble:
            log(_log, logging.WARNING, "journal.not_written", f"A result was told, but not marked so: {trouble}")

    def _refuse(self, errand: Continuation, error: FlowError) -> Reply:
        return self._conclusions.reply(errand, self._conclusions.without_answer(errand, Status.REFUSED, error))

    def _put_off(self, errand: Continuation, code: str, cause: str, until: datetime | None = None) -> Outcome:
        try:
            retry = self._registry.find(errand.flow).retry or self._retry
        except Refused:
            retry = self._retry
        return self._conclusions.put_off(errand, retry, code, cause, until)


class _Paced:
    """What a call says of its flow's health; nothing as long as there was none."""

    sign: Sign = Sign.NEUTRAL
    until: datetime | None = None


def _subject(errand: Continuation) -> Subject:
    return Subject(
        message_id=errand.message_id, fingerprint=errand.fingerprint, origin=errand.origin, number=errand.number
    )


def _as_journalled(errand: Continuation, begun: Begin) -> Continuation:
    """The errand as far as the journal has it: what is next, and how often it was called."""
    if begun.step is not None and begun.step.number >= errand.number:
        errand = errand.at(begun.step)
    calls = begun.calls + 1 if begun.interrupted and errand.kind == "call" else begun.calls
    return errand.model_copy(update={"calls": max(errand.calls, calls)})
