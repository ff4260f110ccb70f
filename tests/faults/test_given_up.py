"""A worker is killed while its flow runs, and the request comes back too late for another call, whatever stands in
the way then: the sender learns that the flow may have run, and never that it may safely send again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from pydantic import JsonValue

from flow_contracts.result import FlowResult
from tests.support.processes import CHECKOUT
from tests.support.system import WAIT, JsonObject, System, configured, running_system, until, worker_settings

FLOW = "typed"
INPUT: JsonValue = "x" * 2000
"""Larger than the continuation queue takes in the test of that name."""
AWAY: JsonObject = {"faults": [{"kind": "respond", "status": 403}]}
PLACES = {"token away": "identity", "keys away": "issuer", "dataverse away": "dataverse"}


@pytest.mark.parametrize("cause", ["throttled", *PLACES, "continuation too large"])
async def test_a_flow_that_was_called_by_a_killed_worker_is_never_reported_as_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cause: str
) -> None:
    queues: dict[str, JsonObject] = {"flow-requests": {"LockDuration": "PT60S"}}
    if cause == "continuation too large":
        queues["flow-continuations"] = {"MaxMessageSizeInKilobytes": 1}
    async with running_system(monkeypatch, configured(queues)) as system, system.client() as client:
        _configure(system, cause)
        await system.put(f"flows/{FLOW}", {"delay_seconds": 60, "input_schema": None})
        sent = await client.submit(FLOW, INPUT, claim=system.claim(user="ada"))
        await _kill_in_the_call(system, tmp_path)
        if cause in PLACES:
            await system.put(PLACES[cause], AWAY)
        if cause == "continuation too large":
            await system.put("identity", AWAY)
        await system.put(f"flows/{FLOW}", {"delay_seconds": 0, "input_schema": None})
        async with system.worker(system.settings(**_dataverse(system), **_changes(cause))):
            others = 0
            if cause == "throttled":  # the other request takes the flow's only call
                other = await client.submit(FLOW, 1, claim=system.claim(user="ada"))
                assert (await client.wait(other, WAIT)).status == "succeeded"
                others = 1
            system.emulator.broker.find("flow-requests").expire_locks()
            result = await client.wait(sent, WAIT)
            await until(lambda: not system.depth("active"))
        assert _ending(result) == ("unknown", "answer_lost", False, 1)
        assert len(await system.calls(FLOW)) == 1 + others


def _ending(result: FlowResult) -> tuple[str, str, bool, int]:
    assert result.error is not None
    return result.status, result.error.code, result.error.retryable, result.attempts


def _configure(system: System, cause: str) -> None:
    # Short, so that the lease of the killed worker ends soon; long enough to kill it in the call.
    system.flows[FLOW] = {"timeout_seconds": 4}
    if cause == "dataverse away":
        system.flows[FLOW] |= {"privilege": "prvCreatenew_quote"}


def _dataverse(system: System) -> JsonObject:
    caches = {"privilege_cache_seconds": 0, "missing_privilege_cache_seconds": 0}
    return {"dataverse": {"url": system.emulator.web.dataverse_url} | caches}


def _changes(cause: str) -> JsonObject:
    """Return the settings of the worker that takes over."""
    changes: JsonObject = {"retry": {"base_seconds": 0.2, "max_age_seconds": 1}}
    if cause == "throttled":
        changes["limits"] = {"max_calls": 1, "window_seconds": 600}
    if cause == "continuation too large":
        changes["retry"] = {"base_seconds": 0.2, "max_age_seconds": 600}
    return changes


async def _kill_in_the_call(system: System, folder: Path) -> None:
    """Start a worker process, and kill it when the flow has received the call."""
    path = folder / "settings.json"
    journal = {"path": str(system.folder / "journal.sqlite3"), "lease_margin_seconds": 0.1}
    document = worker_settings(system.emulator, system.flows) | _dataverse(system) | {"journal": journal}
    path.write_text(json.dumps(document), encoding="utf-8")
    command = [sys.executable, "-m", "tests.support.crashing_worker", str(path)]
    environment = {**os.environ, **system.emulator.web.environment()}
    with (folder / "worker.log").open("wb") as log:
        doomed = await asyncio.create_subprocess_exec(*command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(WAIT):
                while not await system.calls(FLOW):  # noqa: ASYNC110 - the flow can only be asked
                    await asyncio.sleep(0.02)
        finally:
            doomed.kill()
            await doomed.wait()
