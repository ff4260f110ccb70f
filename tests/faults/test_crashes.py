"""The worker is killed at each point of the journey; the guarantees for calls and results still hold.

For each point and each journal, a worker that dies there takes one request for a flow that is idempotent and one for a
flow that is not; a second worker takes over. All scenarios run side by side, once; the tests check the endings.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import JsonValue

from flow_contracts.client import FlowClient
from flow_contracts.result import FlowResult
from servicebus_emulator.cloud.entra.issuer import TokenRequest
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from tests.support.azurite import Azurite, azurite
from tests.support.crashing_worker import POINTS
from tests.support.processes import CHECKOUT
from tests.support.system import ROLE, SEAL_KEY, short_lock, until, worker_settings

pytestmark = [pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

LOCK_SECONDS = 5
SIDE_BY_SIDE = 4
WAIT = 120.0
FLOW_SECONDS = 5.0
"""The time of the call during which the worker is killed: the kill must come before the answer."""
DURING = "during the call"
THROTTLED_AT = ("before the schedule", "between schedule and complete")
FLOWS = {"once": False, "again": True}
"""The flows and whether they are idempotent."""

Journal = dict[str, object]


@dataclass(frozen=True)
class Ending:
    """The end of one request."""

    effects: int
    """The number of runs of the flow."""
    results: list[FlowResult]

    @property
    def seen(self) -> tuple[int, list[str]]:
        return self.effects, [result.status.value for result in self.results]


EXPECTED: dict[str, tuple[tuple[int, str], tuple[int, str]]] = {
    # point: (flow that is not idempotent: effects, status), (flow that is)
    "before the call": ((0, "unknown"), (1, "succeeded")),
    DURING: ((1, "unknown"), (2, "succeeded")),
    "after the call, before the journal": ((1, "unknown"), (2, "succeeded")),
    "after the journal, before the reply": ((1, "succeeded"), (1, "succeeded")),
    "after the reply, before it is marked": ((1, "succeeded"), (1, "succeeded")),
    "after the reply, before it is settled": ((1, "succeeded"), (1, "succeeded")),
    "before the schedule": ((1, "succeeded"), (1, "succeeded")),
    "between schedule and complete": ((1, "succeeded"), (1, "succeeded")),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "table"])
async def endings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mapping[tuple[str, str], Ending]]:
    """The ending of each request at each point, with one of the journals."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield await _all_points(folder, None)
    else:
        async with azurite(folder) as tables:
            yield await _all_points(folder, tables)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("point", EXPECTED)
async def test_after_a_crash_each_request_has_exactly_the_expected_effects_and_one_result(
    endings: Mapping[tuple[str, str], Ending], point: str, flow: str
) -> None:
    effects, status = EXPECTED[point][FLOWS[flow]]
    assert endings[point, flow].seen == (effects, [status])


async def test_every_crash_point_has_an_expectation() -> None:
    assert set(EXPECTED) == {*POINTS, DURING}


async def _all_points(folder: Path, tables: Azurite | None) -> dict[tuple[str, str], Ending]:
    gate = asyncio.Semaphore(SIDE_BY_SIDE)
    endings: dict[tuple[str, str], Ending] = {}

    async def play(number: int, point: str) -> None:
        async with gate:
            scene = folder / str(number)
            scene.mkdir()
            journal: Journal = {"path": str(scene / "journal.sqlite3")}
            if tables is not None:
                journal = {
                    "backend": "table",
                    "table_connection_string": tables.connection_string,
                    "table_name": f"crashes{number}",
                }
            for flow, ending in (await _play(scene, point, journal)).items():
                endings[point, flow] = ending

    async with asyncio.TaskGroup() as tasks:
        for number, point in enumerate(EXPECTED):
            tasks.create_task(play(number, point), name=point)
    return endings


async def _play(scene: Path, point: str, journal: Journal) -> dict[str, Ending]:
    async with running_emulator(short_lock(LOCK_SECONDS), Endpoints("127.0.0.1", 0, 0)) as emulator:
        settings = _settings(emulator, scene, journal)
        for flow in FLOWS:
            # Longer than both requests need to reach the point, else the doomed worker itself makes the second call.
            throttled: JsonValue = [{"kind": "throttle", "next_calls": 1, "retry_after": "5"}]
            slow = FLOW_SECONDS if point == DURING else 0.0
            faults: JsonValue = throttled if point in THROTTLED_AT else []
            emulator.web.flows.put(flow, {"delay_seconds": slow, "faults": faults})
        async with FlowClient.from_connection_string(emulator.connection_string) as client:
            async with _worker(settings, scene, emulator, point) as doomed:
                claim = emulator.web.tokens.mint(TokenRequest.model_validate({"user": "ada", "roles": [ROLE]}))
                sent = {flow: await client.submit(flow, {"n": 1}, claim=claim) for flow in FLOWS}
                if point == DURING:
                    await until(lambda: all(_effects(emulator, flow) for flow in FLOWS), WAIT)
                    doomed.kill()
                await asyncio.wait_for(doomed.wait(), WAIT)
            async with _worker(settings, scene, emulator) as second:
                results = {flow: await client.wait(sent[flow], timeout=WAIT) for flow in FLOWS}
                requests = emulator.broker.find("flow-requests")
                await until(lambda: not requests.peek(0, 10, None), WAIT)  # nothing is left that could be answered
                second.terminate()
                await asyncio.wait_for(second.wait(), WAIT)
        # Counted in the queue, because the client drops copies of a result.
        replies = emulator.broker.find("flow-replies")
        messages = {flow: len(replies.peek(0, 10, sent[flow])) for flow in FLOWS}
        return {flow: Ending(_effects(emulator, flow), [results[flow]] * messages[flow]) for flow in FLOWS}


def _effects(emulator: Emulator, flow: str) -> int:
    return sum(bool(call["effect"]) for call in emulator.web.flows.calls(flow))


def _settings(emulator: Emulator, scene: Path, journal: Journal) -> Path:
    flows = {
        name: {"idempotent": idempotent, "timeout_seconds": 2 * FLOW_SECONDS} for name, idempotent in FLOWS.items()
    }
    document = worker_settings(emulator, flows) | {
        "journal": journal | {"lease_margin_seconds": 0.5},
        "request_queues": [{"name": "flow-requests", "lanes": 2}],
        "continuations": {"lanes": 2, "seal_key": SEAL_KEY},
        "retry": {"base_seconds": 0.2},
    }
    path = scene / "settings.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@asynccontextmanager
async def _worker(
    settings: Path, scene: Path, emulator: Emulator, point: str | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    doom = [] if point is None or point == DURING else [point, str(len(FLOWS))]
    with (scene / f"worker {point}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.crashing_worker",
            str(settings),
            *doom,
            cwd=CHECKOUT,
            env={**os.environ, **emulator.web.environment()},
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
