"""The worker is killed (SIGKILL) while it settles an `unknown` result: one settling result, with either journal."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flow_contracts.client import FlowClient
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import ConnectionString, ServiceBus
from servicebus_emulator.cloud.entra.issuer import TokenRequest
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from tests.support.azurite import Azurite, azurite
from tests.support.crashing_worker import SETTLING
from tests.support.processes import CHECKOUT
from tests.support.system import ROLE, SEAL_KEY, short_lock, worker_settings

pytestmark = pytest.mark.timeout(300)

FLOW = "notify-team"
WAIT = 120.0


async def test_a_killed_worker_settles_a_result_exactly_once(tmp_path: Path) -> None:
    async with azurite(tmp_path) as tables, asyncio.TaskGroup() as tasks:
        scenes = {
            (point, backend): tasks.create_task(_play(tmp_path / f"{number}-{backend}", point, backend, tables))
            for number, point in enumerate(SETTLING)
            for backend in ("sqlite", "table")
        }
    seen = {name: task.result() for name, task in scenes.items()}
    assert seen == dict.fromkeys(scenes, ([Status.UNKNOWN, Status.SUCCEEDED], 1))


async def _play(scene: Path, point: str, backend: str, tables: Azurite) -> tuple[list[Status], int]:
    """Return the statuses of all result messages of a request, and the number of its flow calls."""
    scene.mkdir()
    async with (
        running_emulator(short_lock(5), Endpoints("127.0.0.1", 0, 0)) as emulator,
        FlowClient.from_connection_string(emulator.connection_string) as client,
    ):
        settings = _settings(emulator, scene, backend, tables)
        emulator.web.flows.put(FLOW, {"faults": [{"kind": "reset_after_reading", "next_calls": 1}]})
        async with _worker(settings, scene, emulator, point) as doomed:
            claim = emulator.web.tokens.mint(TokenRequest.model_validate({"user": "ada", "roles": [ROLE]}))
            sent = await client.submit(FLOW, {"n": 1}, claim=claim)
            await asyncio.wait_for(doomed.wait(), WAIT)
        async with _worker(settings, scene, emulator):
            settled = await client.wait_settled(sent, WAIT)
            assert settled.settled_by == "flow_run"
            # Another settling result would come at once after the first one: the next delivery repeats it.
            await asyncio.sleep(1)
        return await _statuses(emulator, sent), len(emulator.web.flows.calls(FLOW))


async def _statuses(emulator: Emulator, session: str) -> list[Status]:
    # In the queue, because the client drops copies of a result.
    async with (
        ServiceBus(ConnectionString(emulator.connection_string)) as bus,
        bus.session_receiver("flow-replies", session) as receiver,
    ):
        return [FlowResult.from_message(message).status async for message in receiver.messages()]


def _settings(emulator: Emulator, scene: Path, backend: str, tables: Azurite) -> Path:
    journal: dict[str, Any] = {"path": str(scene / "journal.sqlite3")}
    if backend == "table":
        name = "settling" + scene.name.partition("-")[0]
        journal = {
            "backend": "table",
            "table_connection_string": tables.connection_string,
            "table_name": name,
        }
    web = emulator.web
    records = {"enabled": True, "grace_seconds": 0.5, "pause_seconds": 0.3, "max_seconds": 600, "attempt_seconds": 2}
    document = worker_settings(emulator, {FLOW: {}}) | {
        "journal": journal | {"lease_margin_seconds": 0.5},
        "continuations": {"lanes": 1, "seal_key": SEAL_KEY},
        "dataverse": {"url": web.dataverse_url, "request_seconds": 1},
        "run_records": records,
        "outbox": {"interval_seconds": 0.3},
        "plain_http_hosts": [each.split("/")[2] for each in (web.url, web.dataverse_url)],
    }
    path = scene / "settings.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@asynccontextmanager
async def _worker(
    settings: Path, scene: Path, emulator: Emulator, point: str | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    doom = [] if point is None else [point, "1"]
    arguments = ["-m", "tests.support.crashing_worker", str(settings), *doom]
    environment = {**os.environ, **emulator.web.environment()}
    with (scene / f"worker {point}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=CHECKOUT, env=environment, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
