"""A worker whose machine has a wrong clock serves requests like any other; the emulator's clock is right."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from flow_contracts.result import FlowResult
from tests.support.azurite import free_port
from tests.support.processes import CHECKOUT
from tests.support.system import WAIT, System, running_system, short_lock, until, worker_settings

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the worker's clock jumps at a signal of POSIX"),
]

FLOW = "create-quote"
AHEAD, BEHIND, RIGHT = 600.0, -600.0, 0.0


class SkewedWorker:
    """A worker process with a wrong clock."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, port: int) -> None:
        self.process = process
        self._log = log
        self._port = port

    def events(self, event: str) -> int:
        """Return how often the worker has logged the event."""
        return self._log.read_text(encoding="utf-8").count(f"[{event} ")

    async def health(self) -> tuple[int, float]:
        """Return the readiness probe's status, and the offset that it reports; 0 while nothing answers."""
        try:
            async with httpx.AsyncClient() as client:
                response = await client.get(f"http://127.0.0.1:{self._port}/health/ready")
        except httpx.HTTPError:
            return 0, 0.0
        return response.status_code, float(response.json()["clock"]["offset_seconds"])


@asynccontextmanager
async def skewed_worker(system: System, skew: float, jump: float = 0.0) -> AsyncIterator[SkewedWorker]:
    port = free_port()
    document = worker_settings(system.emulator, system.flows) | {
        "journal": {"path": str(system.folder / "journal.sqlite3")},
        "health": {"port": port},
    }
    settings, log = system.folder / f"settings{port}.json", system.folder / f"worker{port}.log"
    settings.write_text(json.dumps(document), encoding="utf-8")
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.support.skewed_worker", str(settings), str(skew), str(jump)),
            cwd=CHECKOUT,
            env={**os.environ, **system.emulator.web.environment()},
            stderr=errors,
        )
        worker = SkewedWorker(process, log, port)
        try:
            async with asyncio.timeout(WAIT):
                while (await worker.health())[0] != 200:  # noqa: ASYNC110 - no event announces it
                    await asyncio.sleep(0.1)
            yield worker
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def results_of(system: System, count: int) -> list[FlowResult]:
    """Send requests, and return their results."""
    async with system.client() as client, client.background() as background:
        claim = system.claim()
        sent = [await background.submit(FLOW, {"n": n}, claim=claim) for n in range(count)]
        return await asyncio.gather(*(background.wait(one, WAIT) for one in sent))


async def prepare(system: System, *, delay: float = 0.0, throttled: int = 0) -> None:
    faults = [{"kind": "throttle", "next_calls": throttled, "retry_after": "1"}] if throttled else []
    await system.put(f"flows/{FLOW}", {"delay_seconds": delay, "input_schema": None, "faults": faults})


@pytest.mark.parametrize("skew", [AHEAD, 86_400.0, BEHIND, -3_000.0])
async def test_a_worker_with_a_wrong_clock_answers_every_request_with_one_call(system: System, skew: float) -> None:
    await prepare(system)
    async with skewed_worker(system, skew) as worker:
        results = await results_of(system, 30)
        status, offset = await worker.health()
        assert [result.status for result in results] == ["succeeded"] * 30
        assert len(await system.calls(FLOW)) == 30
        assert status == 200
        assert offset == pytest.approx(skew, abs=5)
        assert worker.events("clock.offset") in (1, 2)  # a line for the offset, perhaps one for a better estimate


async def test_beside_a_right_worker_a_wrong_clock_ruins_no_request(system: System) -> None:
    await prepare(system)
    async with skewed_worker(system, AHEAD), system.worker():
        results = await results_of(system, 100)
    assert [result.status for result in results] == ["succeeded"] * 100
    assert len(await system.calls(FLOW)) == 100


@pytest.mark.parametrize("skew", [RIGHT, AHEAD, BEHIND])
async def test_a_wrong_clock_reschedules_throttled_requests_as_often_as_a_right_one(
    system: System, skew: float
) -> None:
    await prepare(system, throttled=10)
    async with skewed_worker(system, skew) as worker:
        results = await results_of(system, 20)
        assert [result.status for result in results] == ["succeeded"] * 20
        # About 180 with a right clock; due times in the broker's past cause thousands.
        assert 1 <= worker.events("request.rescheduled") <= 600


@pytest.mark.parametrize("jump", [3_600.0, -3_000.0, 86_400.0])
async def test_a_clock_that_jumps_while_a_flow_runs_loses_no_lock(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    async with running_system(monkeypatch, short_lock(5)) as system:
        await prepare(system, delay=7)
        async with skewed_worker(system, RIGHT, jump) as worker:
            answer = asyncio.create_task(results_of(system, 1))
            await until(lambda: bool(system.emulator.web.flows.calls(FLOW)))
            worker.process.send_signal(signal.SIGUSR1)
            assert [result.status for result in await answer] == ["succeeded"]
            assert worker.events("request.lock_lost") == 0
        assert len(await system.calls(FLOW)) == 1


@pytest.mark.parametrize("skew", [AHEAD, BEHIND, 20.0, -20.0])
async def test_a_wrong_clock_renews_a_short_lock_in_time(monkeypatch: pytest.MonkeyPatch, skew: float) -> None:
    async with running_system(monkeypatch, short_lock(5)) as system:
        await prepare(system, delay=12)
        async with skewed_worker(system, skew) as worker:
            assert [result.status for result in await results_of(system, 2)] == ["succeeded"] * 2
            assert worker.events("request.lock_lost") == 0
        assert len(await system.calls(FLOW)) == 2
