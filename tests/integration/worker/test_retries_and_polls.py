"""Retries, status polls and throttling, over the real continuation queue."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import JsonValue

from flow_contracts.client import Background
from flow_contracts.result import FlowResult
from tests.support.system import WAIT, JsonObject, System, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

INPUT: JsonValue = {"n": 1}


@pytest.fixture(scope="module", autouse=True)
def flows(system: System) -> None:
    """Flows of this module, before its worker starts."""
    for name in ("patient", "long", "lost", "spent", "dear"):
        system.flows[name] = {"idempotent": name in {"lost", "spent"}}
    system.flows["spent"]["retry"] = {"max_calls": 3, "base_seconds": 0.1, "max_pause_seconds": 0.2}


def outcome(result: FlowResult) -> tuple[str, str | None]:
    return result.status, result.error.code if result.error else None


async def ask(system: System, background: Background, flow: str, **behaviour: object) -> FlowResult:
    """Send one request to a flow with this behaviour, and return the result."""
    await system.put(f"flows/{flow}", behaviour)
    return await background.request(flow, INPUT, WAIT, claim=system.claim())


async def effects(system: System, flow: str) -> int:
    return sum(bool(call["effect"]) for call in await system.calls(flow))


async def test_a_throttled_flow_is_called_again_after_retry_after(system: System, background: Background) -> None:
    faults: list[JsonObject] = [{"kind": "throttle", "retry_after": "1", "next_calls": 2}]
    result = await ask(system, background, "patient", faults=faults)
    assert (outcome(result), result.attempts) == (("succeeded", None), 3)
    assert result.times.started is not None
    assert result.times.finished is not None
    assert (result.times.finished - result.times.started).total_seconds() >= 2
    assert await effects(system, "patient") == 1


@pytest.mark.parametrize("signed", [True, False])
async def test_a_long_run_is_polled_until_it_ends(system: System, background: Background, signed: bool) -> None:
    asynchronous = {"done_after_polls": 3, "signed_status_url": signed, "retry_after": None}
    result = await ask(system, background, "long", asynchronous=asynchronous, response={"echo": True})
    assert (outcome(result), result.output, result.attempts) == (("succeeded", None), INPUT, 1)
    call = (await system.calls("long"))[-1]
    assert call["polls"] >= 3
    assert call["polled_with_bearer"] is not signed
    assert result.run is not None
    assert result.run.run_id == call["run_id"]


async def test_a_call_of_an_idempotent_flow_is_retried_after_a_lost_answer(
    system: System, background: Background
) -> None:
    faults: list[JsonObject] = [{"kind": "reset_after_reading", "next_calls": 1}]
    result = await ask(system, background, "lost", faults=faults)
    assert (outcome(result), result.attempts) == (("succeeded", None), 2)


async def test_a_lost_answer_of_a_flow_that_is_not_idempotent_is_unknown(
    system: System, background: Background
) -> None:
    faults: list[JsonObject] = [{"kind": "reset_after_reading", "next_calls": 1}]
    result = await ask(system, background, "dear", faults=faults)
    assert (outcome(result), result.attempts) == (("unknown", "flow_no_answer"), 1)


async def test_a_request_whose_flow_never_answers_fails_and_is_dead_lettered(
    system: System, background: Background
) -> None:
    dead = system.depth("dead_lettered", "flow-continuations")
    result = await ask(system, background, "spent", faults=[{"kind": "reset_after_reading"}])
    assert (outcome(result), result.attempts) == (("failed", "flow_no_answer"), 3)
    await until(lambda: system.depth("dead_lettered", "flow-continuations") == dead + 1)


async def test_the_queues_are_empty_after_all_requests_ended(system: System, background: Background) -> None:
    await asyncio.gather(*(background.request("patient", INPUT, WAIT, claim=system.claim()) for _ in range(5)))
    for queue in ("flow-requests", "flow-continuations"):
        await until(lambda queue=queue: not system.depth("active", queue) and not system.depth("scheduled", queue))
