"""The journey of one request: decode → authenticate → authorise → call the flow → conclude.

Knows nothing of Service Bus, HTTP or the clock beyond what it is handed, so it is tested with plain data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from pydantic import JsonValue, SecretStr

from contracts.message import ReceivedMessage
from contracts.request import FlowRequest, InvalidRequest, ReplyAddress, Unanswerable
from contracts.result import FlowError, FlowResult, Status, Times
from worker.access.principal import Principal, require_role
from worker.errors import CallFailed, NotKnownYet, Refused
from worker.flows.invoker import Answer
from worker.flows.registry import Flow, Registry
from worker.flows.verdict import Verdict, judge, judge_failure
from worker.logs import log
from worker.outcome import DeadLetter, Later, Outcome, Reply

_log = logging.getLogger(__name__)


class Authority(Protocol):
    """Tells who sent a request."""

    async def authenticate(self, claim: SecretStr | None, enqueued_at: datetime) -> Principal:
        """Raises `Refused` or `NotKnownYet`."""
        ...


class Caller(Protocol):
    """Calls a flow."""

    async def token(self) -> str:
        """Raises `NotKnownYet`."""
        ...

    async def invoke(
        self, flow: Flow, input_: JsonValue, *, token: str, correlation_id: str, traceparent: str | None
    ) -> Answer:
        """Raises `CallFailed`."""
        ...


_EXPIRED = FlowError(
    code="request_expired", message="The request's time to live ran out before its flow could be called."
)
_INTERRUPTED = CallFailed("interrupted", "The worker stopped before the flow answered.", may_have_run=True)
_FAULT = CallFailed("internal_error", "A fault in the worker; the flow may have run.", may_have_run=True)


@dataclass(frozen=True, slots=True)
class _Case:
    """One request on its journey, as far as it is known: `flow` is None until its body has been read."""

    message: ReceivedMessage
    address: ReplyAddress
    flow: str | None = None


class Handler:
    """Decides what is to be done about a request."""

    def __init__(
        self,
        *,
        authority: Authority,
        registry: Registry,
        caller: Caller,
        reply_queues: Collection[str],
        default_reply_queue: str,
        retry_pause_seconds: float,
        max_deliveries: int,
        now: Callable[[], datetime],
    ) -> None:
        self._authority = authority
        self._registry = registry
        self._caller = caller
        self._reply_queues = frozenset(reply_queues)
        self._default_reply_queue = default_reply_queue
        self._retry_pause = retry_pause_seconds
        self._max_deliveries = max_deliveries
        self._now = now

    async def handle(self, message: ReceivedMessage) -> Outcome:
        """Take one request as far as it goes.

        Raises nothing but `CancelledError`, and that only if no flow was called or the flow may be called again.
        """
        try:
            case = _Case(message, ReplyAddress.of(message))
        except Unanswerable as error:
            return DeadLetter(error.reason, error.description)
        try:
            request = FlowRequest.from_message(message)
            case = replace(case, flow=request.flow)
            return self._reply(case, await self._journey(request, case))
        except (InvalidRequest, Refused) as no:
            return self._reply(
                case, self._not_called(case, Status.REFUSED, FlowError(code=no.code, message=no.message))
            )
        except NotKnownYet as reason:
            return self._later(case, reason.code, reason.message)
        except Exception as error:  # noqa: BLE001 - a fault of ours before the call: the request must outlive it
            log(_log, logging.ERROR, "request.fault", "A request met a fault in the worker.")
            return self._later(case, "internal_error", f"a fault in the worker ({type(error).__name__})")

    async def _journey(self, request: FlowRequest, case: _Case) -> FlowResult:
        self._check_reply_queue(request)
        principal = await self._authority.authenticate(request.claim, case.message.enqueued_at)
        flow = self._authorise(principal, request)
        token = await self._caller.token()
        started = self._now()
        if case.message.expires_at is not None and started >= case.message.expires_at:
            return self._not_called(case, Status.EXPIRED, _EXPIRED)
        verdict = await self._call(flow, request, token)
        return self._concluded(case, verdict, started)

    def _check_reply_queue(self, request: FlowRequest) -> None:
        if request.reply_to is not None and request.reply_to not in self._reply_queues:
            raise Refused("reply_queue_not_allowed", "Results may not be sent to the queue named in reply-to.")

    def _authorise(self, principal: Principal, request: FlowRequest) -> Flow:
        if request.on_behalf_of is not None:
            raise Refused("on_behalf_of_not_allowed", "This sender may not name another user in 'on_behalf_of'.")
        flow = self._registry.find(request.flow)
        require_role(principal, flow.role, flow.name)
        flow.check_input(request.input)
        return flow

    async def _call(self, flow: Flow, request: FlowRequest, token: str) -> Verdict:
        """From here on the flow may run, so whatever happens is concluded, not tried again."""
        try:
            return judge(
                await self._caller.invoke(
                    flow,
                    request.input,
                    token=token,
                    correlation_id=request.correlation_id,
                    traceparent=request.traceparent,
                )
            )
        except CallFailed as failure:
            return judge_failure(failure, flow)
        except asyncio.CancelledError:
            if flow.idempotent:
                raise
            return judge_failure(_INTERRUPTED, flow)
        except Exception:  # noqa: BLE001 - the call may have gone out: its result must be told
            log(_log, logging.ERROR, "call.fault", "A call met a fault in the worker.")
            return judge_failure(_FAULT, flow)

    def _concluded(self, case: _Case, verdict: Verdict, started: datetime) -> FlowResult:
        return FlowResult(
            status=verdict.status,
            flow=case.flow,
            output=verdict.output,
            output_type=verdict.output_type,
            output_encoding=verdict.output_encoding,
            http_status=verdict.http_status,
            error=verdict.error,
            attempts=1,
            run=verdict.run,
            times=Times(accepted=case.message.enqueued_at, started=started, finished=self._now()),
            correlation_id=case.address.correlation_id,
            request_message_id=case.address.message_id,
        )

    def _not_called(self, case: _Case, status: Status, error: FlowError) -> FlowResult:
        return FlowResult(
            status=status,
            flow=case.flow,
            error=error,
            times=Times(accepted=case.message.enqueued_at, finished=self._now()),
            correlation_id=case.address.correlation_id,
            request_message_id=case.address.message_id,
        )

    def _later(self, case: _Case, code: str, cause: str) -> Outcome:
        """Give the request back; once it has been given back often enough, answer it and keep it for a person."""
        deliveries = case.message.delivery_count + 1
        if deliveries < self._max_deliveries:
            return Later(code, cause, self._retry_pause)
        error = FlowError(code=code, message=f"Given up: {cause}. The flow was not called.", retryable=True)
        reply = self._reply(case, self._not_called(case, Status.FAILED, error))
        return DeadLetter(code, f"Given up after {deliveries} deliveries: {cause}.", reply)

    def _reply(self, case: _Case, result: FlowResult) -> Reply:
        queue = case.address.queue
        if queue is None or queue not in self._reply_queues:
            queue = self._default_reply_queue
        return Reply(result, case.address, queue)
