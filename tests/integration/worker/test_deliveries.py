"""Replies come on time while Dataverse is down; the rows and notifications follow once it heals, each once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from flow_contracts.result import FlowResult
from flow_worker.delivery.row_ids import row_id
from flow_worker.settings import Settings
from tests.support.system import WAIT, JsonObject, System, running_system, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
ROWS, BELLS = "new_flowrequests", "appnotifications"
BURST = 40
QUOTE: JsonObject = {"customer": "Contoso", "amount": 1250}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with running_system(monkeypatch) as running:
            yield running


def settings_of(system: System, **changes: Any) -> Settings:
    web = system.emulator.web
    sink: JsonObject = {"base_seconds": 0.2, "max_pause_seconds": 0.5}
    hosts = [httpx.URL(each).netloc.decode() for each in (web.url, web.dataverse_url)]
    return system.settings(
        request_queues=[{"name": "flow-requests", "lanes": 4, "deliver_to": ["rows", "bell"]}],
        dataverse={"url": web.dataverse_url, "request_seconds": 2},
        delivery={
            "rows": {"kind": "dataverse_row"} | sink,
            "bell": {"kind": "in_app_notification", "opens": "rows"} | sink,
        },
        outbox={"interval_seconds": 0.2},
        plain_http_hosts=hosts,
        **changes,
    )


async def stored(system: System, table: str) -> list[JsonObject]:
    async with httpx.AsyncClient() as client:
        found = await client.get(f"{system.emulator.web.url}/emulator/dataverse/rows/{table}")
    rows: list[JsonObject] = found.raise_for_status().json()["rows"]
    return rows


async def statuses(system: System) -> dict[str, str]:
    return {str(row["new_flowrequestid"]): str(row["new_status"]) for row in await stored(system, ROWS)}


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(WAIT):
        while not await condition():  # noqa: ASYNC110 - no event announces the condition
            await asyncio.sleep(0.1)


async def test_replies_do_not_wait_for_dataverse_and_rows_follow_once(system: System) -> None:
    await system.put("dataverse", {"faults": [{"kind": "throttle", "retry_after": "1"}]})
    async with system.worker(settings_of(system)) as supervisor, system.client() as client:
        async with client.background() as background:
            sent = [await background.submit("create-quote", QUOTE, claim=system.claim()) for _ in range(BURST)]
            refused = await background.submit("create-quote", QUOTE, claim=system.claim("Other.Role"))
            unproven = await background.submit("create-quote", QUOTE, claim=system.claim(forged=True))
            results: list[FlowResult] = [await background.wait(one, WAIT) for one in (*sent, refused, unproven)]
        assert [one.status for one in results] == [*(["succeeded"] * BURST), "refused", "refused"]
        assert await stored(system, ROWS) == []
        report = supervisor.health.report()
        assert report["ready"] is True
        sinks = report["deliveries"]
        assert isinstance(sinks, dict)
        assert sinks["rows"]["available"] is False
        await system.put("dataverse", {"faults": []})
        *proven, stranger = results
        expected = {row_id(one.request_message_id): one.status.value for one in proven}

        async def are_delivered() -> bool:
            return await statuses(system) == expected and len(await stored(system, BELLS)) == len(proven)

        await eventually(are_delivered)
        await until(lambda: all(sink.in_flight == 0 for sink in supervisor.health.sinks.values()))
        assert all(sink.is_available for sink in supervisor.health.sinks.values())
        assert row_id(stranger.request_message_id) not in await statuses(system)


async def test_a_request_is_pending_first_and_a_worker_that_stops_leaves_the_rest_to_the_next(system: System) -> None:
    await system.put("flows/slow-report", {"delay_seconds": 2})
    settings = settings_of(system)
    async with system.client() as client, client.background() as background:
        async with system.worker(settings):
            sent = await background.submit("slow-report", {}, claim=system.claim(), message_id="m-slow")

            async def is_pending() -> bool:
                return (await statuses(system)).get(row_id("m-slow")) == "pending"

            await eventually(is_pending)
            await system.put("dataverse", {"faults": [{"kind": "throttle", "retry_after": "1"}]})
            result = await background.wait(sent, WAIT)
        assert (await statuses(system))[row_id("m-slow")] == "pending"
        await system.put("dataverse", {"faults": []})
        async with system.worker(settings):

            async def has_ended() -> bool:
                return (await statuses(system)).get(row_id("m-slow")) == result.status.value

            await eventually(has_ended)
