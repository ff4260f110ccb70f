"""The one result of a request, from what is known when it is concluded."""

from __future__ import annotations

from datetime import datetime

from contracts.message import ReceivedMessage
from contracts.request import ReplyAddress
from contracts.result import FlowError, FlowResult, Status, Times
from worker.continuations import Continuation
from worker.flows.verdict import Kind, Verdict

_STATUS = {Kind.SUCCEEDED: Status.SUCCEEDED, Kind.UNKNOWN: Status.UNKNOWN}


def unreadable(address: ReplyAddress, message: ReceivedMessage, error: FlowError, now: datetime) -> FlowResult:
    """The refusal of a request whose body is beyond reading."""
    return FlowResult(
        status=Status.REFUSED,
        error=error,
        times=Times(accepted=message.enqueued_at, finished=now),
        correlation_id=address.correlation_id,
        request_message_id=address.message_id,
    )


def without_answer(errand: Continuation, status: Status, error: FlowError, now: datetime) -> FlowResult:
    """A request that ends without (another) answer of its flow."""
    return FlowResult(
        status=status,
        flow=errand.flow,
        error=error,
        attempts=errand.calls,
        run=errand.run,
        times=Times(accepted=errand.accepted, started=errand.started, finished=now),
        correlation_id=errand.correlation_id,
        request_message_id=errand.message_id,
        replay_of=errand.replay_of,
        run_for=errand.user,
    )


def answered(errand: Continuation, verdict: Verdict, now: datetime) -> FlowResult:
    """A request that ends with this verdict; one that would be tried again has failed by now."""
    return FlowResult(
        status=_STATUS.get(verdict.kind, Status.FAILED),
        flow=errand.flow,
        output=verdict.output,
        output_type=verdict.output_type,
        output_encoding=verdict.output_encoding,
        http_status=verdict.http_status,
        error=verdict.error,
        note=verdict.note,
        attempts=errand.calls,
        run=verdict.run or errand.run,
        times=Times(accepted=errand.accepted, started=errand.started, finished=now),
        correlation_id=errand.correlation_id,
        request_message_id=errand.message_id,
        replay_of=errand.replay_of,
        run_for=errand.user,
    )
