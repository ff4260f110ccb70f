"""Sample jobs, steps and results for the journal's tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from flow_contracts.result import SETTLED_BY_FLOW_RUN, FlowResult, Status
from flow_worker.journal import Acquired, JobKey, Journal, Lease, NextStep

LEASE = timedelta(seconds=60)
STEP = NextStep(
    number=1,
    kind="poll",
    due=datetime(2026, 11, 23, 12, 0, 20, tzinfo=UTC),
    calls=1,
    code="flow_running",
    cause="The flow is still running.",
    status_url="https://flow.example/runs/1?sig=secret",
)


def job(
    message_id: str = "m-1", *, fingerprint: str = "ada: quote", origin: str = "requests:1", number: int = 0
) -> JobKey:
    return JobKey(message_id=message_id, fingerprint=fingerprint, origin=origin, number=number)


def result(output: JsonValue = None, status: Status = Status.SUCCEEDED) -> FlowResult:
    return FlowResult(
        status=status,
        output=output,
        output_encoding="json",
        attempts=1,
        correlation_id="c-1",
        request_message_id="m-1",
    )


def settled(status: Status = Status.SUCCEEDED) -> FlowResult:
    return result(status=status).model_copy(update={"output_encoding": None, "settled_by": SETTLED_BY_FLOW_RUN})


async def leased(journal: Journal, key: JobKey | None = None) -> Lease:
    """Acquire the lease on a request that no other attempt holds."""
    answer = await journal.acquire(key or job(), duration=LEASE, calls=0)
    assert isinstance(answer, Acquired), answer
    return answer.lease
