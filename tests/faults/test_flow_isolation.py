"""Isolation of flows: a failing flow does not delay the calls of the others."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import JsonValue

from flow_contracts.client import Background
from flow_contracts.result import FlowResult, Status
from flow_worker.settings import Settings
from tests.support.system import WAIT, JsonObject, System, until

QUOTE: JsonValue = {"customer": "Contoso", "amount": 1}
NOISE = 12
LANES = 4
NEVER = 300.0
"""Seconds; longer than any test here."""


def settings_for(system: System, **of_flow: object) -> Settings:
    """Settings with a few lanes, and a flow whose timeout is longer than the test."""
    system.flows["notify-team"] = {"timeout_seconds": NEVER, **of_flow}
    return system.settings(
        request_queues=[{"name": "flow-requests", "lanes": LANES}],
        continuations={"lanes": LANES},
        http={"status_seconds": NEVER},
        shutdown_grace_seconds=0.5,
    )


@pytest.mark.parametrize(
    ("behaviour", "idempotent"),
    [
        ({"faults": [{"kind": "hang"}]}, False),
        ({"faults": [{"kind": "throttle", "retry_after": "300"}]}, False),
        ({"faults": [{"kind": "html", "status": 502}]}, True),
        ({"asynchronous": {"done_after_polls": 0}, "poll_faults": [{"kind": "hang"}], "response": {}}, False),
    ],
    ids=["hangs", "is throttled", "is broken", "never says how its runs end"],
)
async def test_a_failing_flow_leaves_lanes_to_the_other_flows(
    system: System, behaviour: JsonObject, idempotent: bool
) -> None:
    await system.put("flows/notify-team", behaviour)
    async with system.worker(settings_for(system, idempotent=idempotent)), system.client() as client:
        for _ in range(NOISE):
            await client.submit("notify-team", QUOTE, claim=system.claim())
        await until(lambda: system.depth("active") < LANES)  # those that lanes hold count too
        throttled_once = {"faults": [{"kind": "throttle", "retry_after": "0", "next_calls": 1}]}
        async with asyncio.timeout(WAIT), client.background() as background:
            await request(system, background)
            await system.put("flows/create-quote", throttled_once)  # so that it needs a lane of the continuations too
            result = await request(system, background)
    assert result.attempts == 2


async def request(system: System, background: Background) -> FlowResult:
    result = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
    assert result.status is Status.SUCCEEDED
    return result
