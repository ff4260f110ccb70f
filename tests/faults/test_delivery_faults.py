"""Killed workers and a Dataverse that is down: each request still has one row and one notification, with its result."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from flow_contracts.client import FlowClient
from flow_contracts.result import Status
from flow_worker.delivery.row_ids import row_id
from tests.support.azurite import azurite
from tests.support.crashing_deliveries import POINTS
from tests.support.processes import CHECKOUT
from tests.support.system import SEAL_KEY, WAIT, JsonObject, System, configured, running_system, until, worker_settings

pytestmark = pytest.mark.timeout(180)
FLOW = "create-quote"
LOST_ANSWERS = 2
CALLED_TWICE = ("before the journal",)
"""The flow is idempotent, so it is called again after a death that lost its answer."""


@dataclass(frozen=True)
class Sinks:
    """The tables of the sinks in the emulated organization."""

    system: System

    async def get(self, path: str, name: str) -> list[JsonObject]:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{self.system.emulator.web.url}/emulator/dataverse/{path}")
        found: list[JsonObject] = answer.raise_for_status().json()[name]
        return found

    async def rows(self) -> list[JsonObject]:
        return await self.get("rows/new_flowrequests", "rows")

    async def notifications(self) -> list[JsonObject]:
        return await self.get("rows/appnotifications", "rows")

    async def wait_for(self, count: int) -> None:
        """Wait until so many requests have their end at both sinks."""
        async with asyncio.timeout(WAIT):
            while True:
                ended = [row for row in await self.rows() if row["new_status"] not in (None, "pending")]
                if len(ended) >= count and len(await self.notifications()) >= count:
                    return
                await asyncio.sleep(0.1)


def settings_of(system: System, queues: Sequence[str], **changes: object) -> JsonObject:
    """Return settings with both sinks on these queues, and the waits of the tests."""
    url = system.emulator.web.dataverse_url
    hosts = [httpx.URL(each).netloc.decode() for each in (url, system.emulator.web.url)]
    waits = {"attempt_seconds": 1.5, "base_seconds": 0.1, "max_pause_seconds": 0.3}
    system.flows = {FLOW: {"idempotent": True, "timeout_seconds": 2}}
    return {
        "dataverse": {"url": url, "request_seconds": 1},
        "delivery": {
            "rows": {"kind": "dataverse_row"} | waits,
            "bell": {"kind": "in_app_notification", "opens": "rows"} | waits,
        },
        "request_queues": [{"name": name, "lanes": 4, "deliver_to": ["rows", "bell"]} for name in queues],
        "continuations": {"lanes": 1, "seal_key": SEAL_KEY},
        "outbox": {"interval_seconds": 0.2},
        "plain_http_hosts": hosts,
    } | changes


def right(row: JsonObject, number: int) -> bool:
    """Return whether the row holds the result of the request with this number."""
    output = json.loads(row["new_output"])
    return (row["new_status"], output["amount"]) == ("succeeded", number)


async def test_a_dataverse_that_is_down_for_a_whole_burst_delays_no_reply(system: System) -> None:
    count = 24
    sinks = Sinks(system)
    settings = system.settings(**settings_of(system, ["flow-requests"]))
    down: list[JsonObject] = [
        {"kind": "respond", "status": 503, "next_calls": 3},
        {"kind": "reset_after_reading", "next_calls": 3},
        {"kind": "close_midway", "takes_effect": True, "next_calls": LOST_ANSWERS},
        {"kind": "respond", "status": 503},
    ]
    await system.put("dataverse", {"faults": down})
    async with system.worker(settings) as worker, system.client() as client, client.background() as background:
        claim = system.claim()
        values: list[JsonObject] = [{"customer": "Contoso", "amount": number + 1} for number in range(count)]
        sent = [await background.submit(FLOW, value, claim=claim) for value in values]
        results = await asyncio.gather(*(background.wait(one, WAIT) for one in sent))
        assert {result.status for result in results} == {Status.SUCCEEDED}
        assert worker.health.report()["ready"]
        assert await sinks.get("calls", "calls"), "the worker has not even tried: nothing was tested"
        assert len(await sinks.rows()) + len(await sinks.notifications()) <= LOST_ANSWERS
        await system.put("dataverse", {"faults": []})
        await sinks.wait_for(count)
    rows = {row["new_correlationid"]: row for row in await sinks.rows()}
    assert len(rows) == len(await sinks.rows()) == len(await sinks.notifications()) == count
    assert all(right(rows[one], number + 1) for number, one in enumerate(sent))
    posts = [call for call in await sinks.get("calls", "calls") if call["path"].endswith("appnotifications")]
    assert sum(call["status"] == 204 for call in posts) <= count, "none was created, deleted and created again"


@pytest.mark.parametrize("backend", ["sqlite", "table"])
async def test_a_killed_worker_leaves_one_row_and_one_notification_with_the_result(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    queues = {f"requests-{number}": {"LockDuration": "PT5S"} for number in range(len(POINTS))}
    async with AsyncExitStack() as stack:
        journal: JsonObject = {"path": str(tmp_path / "journal.sqlite3")}
        if backend == "table":
            tables = await stack.enter_async_context(azurite(tmp_path))
            journal = {"backend": "table", "table_connection_string": tables.connection_string}
        system = await stack.enter_async_context(running_system(monkeypatch, configured(queues)))
        await system.put(f"flows/{FLOW}", {"delay_seconds": 0.3})
        settings = settings_of(system, list(queues), journal=journal | {"lease_margin_seconds": 0.5})
        senders = {
            point: await stack.enter_async_context(
                FlowClient.from_connection_string(system.emulator.connection_string, request_queue=queue)
            )
            for point, queue in zip(POINTS, queues, strict=True)
        }
        sent = await _sent_to_doomed_workers(system, tmp_path, settings, senders)
        async with system.worker(system.settings(**settings)):
            for queue in queues:
                system.emulator.broker.find(queue).expire_locks()
            results = await asyncio.gather(*(senders[point].wait(one, timeout=WAIT) for point, one in sent.items()))
            await Sinks(system).wait_for(len(POINTS))
            await until(lambda: not any(system.depth("active", queue) for queue in queues))
        await _check(system, sent, {result.correlation_id: result.status for result in results})


async def _check(system: System, sent: dict[str, str], statuses: dict[str, Status]) -> None:
    rows = {row["new_correlationid"]: row for row in await Sinks(system).rows()}
    notifications = await Sinks(system).notifications()
    assert len(rows) == len(await Sinks(system).rows()) == len(notifications) == len(POINTS)
    opened = Counter(json.loads(each["data"])["actions"][0]["data"]["url"].split("id=")[-1] for each in notifications)
    calls = Counter(call["client_tracking_id"] for call in await system.calls(FLOW))
    owner = str(system.emulator.web.dataverse.directory.ids_of("ada")[1])
    for number, (point, correlation_id) in enumerate(sent.items()):
        row = rows[correlation_id]
        assert (right(row, number + 1), row["ownerid"]) == (True, owner), point
        assert row["new_flowrequestid"] == row_id(row["new_messageid"]), point
        assert opened[row["new_flowrequestid"]] == 1, point
        assert statuses[correlation_id] == Status.SUCCEEDED, point
        assert len(system.emulator.broker.find("flow-replies").peek(0, 10, correlation_id)) == 1, point
        assert calls[correlation_id] == 1 or point in CALLED_TWICE or point.endswith("pending row"), point


async def _sent_to_doomed_workers(
    system: System, folder: Path, settings: JsonObject, senders: Mapping[str, FlowClient]
) -> dict[str, str]:
    """Let one worker for each point take one request and die there; return the correlation IDs."""
    document = worker_settings(system.emulator, system.flows) | settings | {"outbox": {"interval_seconds": 300}}
    for queue, point in zip(settings["request_queues"], POINTS, strict=True):
        text = json.dumps(document | {"request_queues": [queue]})
        (folder / f"{point}.json").write_text(text, encoding="utf-8")
    sent: dict[str, str] = {}
    async with _doomed(system, folder) as workers:
        for number, (point, sender) in enumerate(senders.items()):
            value: JsonObject = {"customer": "Contoso", "amount": number + 1}
            sent[point] = await sender.submit(FLOW, value, claim=system.claim())
        async with asyncio.timeout(2 * WAIT):
            output, _ = await workers.communicate()
    statuses = json.loads(output)
    assert statuses == [-9] * len(POINTS) or os.name == "nt", statuses
    return sent


@asynccontextmanager
async def _doomed(system: System, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with (folder / "doomed.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.crashing_deliveries", str(folder)),
            cwd=CHECKOUT,
            env={**os.environ, **system.emulator.web.environment()},
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
