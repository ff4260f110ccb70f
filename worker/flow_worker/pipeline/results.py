"""Builds the one result of a request."""

from __future__ import annotations

from datetime import datetime

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import ReplyAddress
from flow_contracts.result import FlowError, FlowResult, Status, Times
from flow_worker.flows.verdict import Verdict, VerdictKind
from flow_worker.pipeline.job import Job

EXPIRED = FlowError(
    code="request_expired", message="The request's time to live ran out before its flow could be called."
)

_FINAL_STATUS: dict[VerdictKind, Status] = {
    VerdictKind.SUCCEEDED: Status.SUCCEEDED,
    VerdictKind.FAILED: Status.FAILED,
    VerdictKind.UNKNOWN: Status.UNKNOWN,
    VerdictKind.RETRY: Status.FAILED,
    VerdictKind.ACCEPTED: Status.FAILED,
}
"""The status of a request by its last verdict. A verdict that asks for another call ends as a failure."""


def unreadable(address: ReplyAddress, message: ReceivedMessage, error: FlowError, now: datetime) -> FlowResult:
    """Return the refusal of a request with an unreadable body."""
    return FlowResult(
        status=Status.REFUSED,
        error=error,
        times=Times(accepted=message.enqueued_at, finished=now),
        correlation_id=address.correlation_id,
        request_message_id=address.message_id,
    )


def without_answer(job: Job, status: Status, error: FlowError, now: datetime) -> FlowResult:
    """Return the result of a request that ends without an answer, or without another answer, of its flow."""
    return FlowResult(
        status=status,
        flow=_flow_of(job),
        error=error,
        attempts=job.calls,
        run=job.run,
        times=Times(accepted=job.accepted, started=job.started, finished=now),
        correlation_id=job.correlation_id,
        request_message_id=job.message_id,
        replay_of=job.replay_of,
        run_for=job.user,
    )


def _flow_of(job: Job) -> str | None:
    """Return the flow that a result without an answer names.

    The sender of a native message does not name the flow, so it learns it only if the flow was called.
    """
    is_native = job.dataverse_sender is not None or (
        job.principal is not None and job.principal.authority == "dataverse"
    )
    return None if is_native and job.calls == 0 else job.flow


def answered(job: Job, verdict: Verdict, now: datetime) -> FlowResult:
    """Return the result of a request that ends with this verdict."""
    # Without validation: the output was parsed strictly, and validating a large one takes longer than parsing it.
    return FlowResult.model_construct(
        status=_FINAL_STATUS[verdict.kind],
        flow=job.flow,
        output=verdict.output,
        output_type=verdict.output_type,
        output_encoding=verdict.output_encoding,
        http_status=verdict.http_status,
        error=verdict.error,
        note=verdict.note,
        attempts=job.calls,
        run=verdict.run or job.run,
        times=Times(accepted=job.accepted, started=job.started, finished=now),
        correlation_id=job.correlation_id,
        request_message_id=job.message_id,
        replay_of=job.replay_of,
        run_for=job.user,
    )
