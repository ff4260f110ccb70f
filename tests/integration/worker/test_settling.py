"""A lost answer, end to end: the result is `unknown`, and the record of the flow run settles it, exactly once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from flow_contracts.result import FlowResult, Status
from flow_worker.settings import Settings
from tests.support.system import WAIT, JsonObject, System, running_system

pytestmark = pytest.mark.timeout(120)

FLOW = "notify-team"
LOST: JsonObject = {"faults": [{"kind": "reset_after_reading", "next_calls": 1}]}

FAILED: JsonObject = {"run_status": "Failed", "run_error": {"code": "ActionFailed", "message": "No."}}


def settings(system: System, **changes: Any) -> Settings:
    url = system.emulator.web.dataverse_url
    hosts = [httpx.URL(each).netloc.decode() for each in (url, system.emulator.web.url)]
    records = {"enabled": True, "grace_seconds": 0.2, "pause_seconds": 0.3, "max_seconds": 60} | changes
    return system.settings(
        dataverse={"url": url, "request_seconds": 2},
        run_records=records,
        outbox={"interval_seconds": 0.2},
        delivery={"rows": {"kind": "dataverse_row"}},
        request_queues=[{"name": "flow-requests", "lanes": 2, "deliver_to": ["rows"]}],
        plain_http_hosts=hosts,
    )


async def settled_rows(system: System, count: int) -> list[JsonObject]:
    """Return the rows of the requests once so many are settled."""
    async with httpx.AsyncClient() as client, asyncio.timeout(WAIT):
        while True:
            url = f"{system.emulator.web.url}/emulator/dataverse/rows/new_flowrequests"
            rows: list[JsonObject] = (await client.get(url)).raise_for_status().json()["rows"]
            if sum(bool(row.get("new_settledby")) for row in rows) == count:
                return rows
            await asyncio.sleep(0.1)


async def test_a_lost_answer_is_unknown_at_once_and_then_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        running_system(monkeypatch) as system,
        system.worker(settings(system)),
        system.client() as client,
        client.background() as background,
    ):
        ends = []
        for run in ({"run_status": "Succeeded"}, FAILED):
            await system.put(f"flows/{FLOW}", LOST | run)
            sent = await background.submit(FLOW, {}, claim=system.claim())
            first = await background.wait(sent, WAIT)
            assert (first.status, first.settled_by) == (Status.UNKNOWN, None)
            settled = await background.wait_settled(sent, WAIT)
            assert (settled.settled_by, settled.attempts, settled.output) == ("flow_run", 1, None)
            assert settled.run is not None
            assert settled.run.run_id
            ends.append((settled.status, settled.error and settled.error.code))
        assert ends == [(Status.SUCCEEDED, None), (Status.FAILED, "ActionFailed")]
        assert len(await system.calls(FLOW)) == 2
        rows = await settled_rows(system, 2)
        assert {(row["new_status"], row["new_settledby"]) for row in rows} == {
            ("succeeded", "flow_run"),
            ("failed", "flow_run"),
        }


async def test_a_worker_that_stops_leaves_the_settling_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(monkeypatch) as system:
        await system.put(f"flows/{FLOW}", LOST)
        async with system.client() as client:
            async with system.worker(settings(system, grace_seconds=3)):
                sent = await client.submit(FLOW, {}, claim=system.claim())
                assert (await client.wait(sent, WAIT)).status is Status.UNKNOWN
            async with system.worker(settings(system)):
                settled = await client.wait_settled(sent, WAIT)
                assert settled.status is Status.SUCCEEDED
                await asyncio.sleep(1)  # time for a second settling result, which must not come
            taken: list[FlowResult | None] = [await client.take(sent), await client.take(sent)]
        assert [each and each.settled_by for each in taken] == ["flow_run", None]
        assert taken[1] is None, "the settled result goes with the settling one"
