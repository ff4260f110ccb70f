"""A worker whose machine has a wrong clock serves requests like any other; the emulator's clock is right."""

from __future__ import annotations

import asyncio
import signal

import pytest

from flow_contracts.result import FlowResult
from tests.support.system import JsonObject, System, running_system, short_lock, until
from tests.support.worker_process import worker_process

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the worker's clock jumps at a signal of POSIX"),
]

FLOW = "create-quote"
WAIT = 150.0
LOCK_SECONDS = 8
"""Longer than a busy machine delays the renewal of a lock."""
AHEAD, BEHIND, RIGHT = 600.0, -600.0, 0.0


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
    async with worker_process(system, skew) as worker:
        results = await results_of(system, 30)
        status, offset = await worker.health()
        assert [result.status for result in results] == ["succeeded"] * 30
        assert len(await system.calls(FLOW)) == 30
        assert status == 200
        assert offset == pytest.approx(skew, abs=5)
        assert worker.events("clock.offset") in (1, 2)  # a line for the offset, perhaps one for a better estimate


async def test_beside_a_right_worker_a_wrong_clock_ruins_no_request(system: System) -> None:
    await prepare(system)
    async with worker_process(system, AHEAD), system.worker():
        results = await results_of(system, 100)
    assert [result.status for result in results] == ["succeeded"] * 100
    assert len(await system.calls(FLOW)) == 100


@pytest.mark.parametrize("skew", [RIGHT, AHEAD, BEHIND])
async def test_a_wrong_clock_reschedules_throttled_requests_as_often_as_a_right_one(
    system: System, skew: float
) -> None:
    await prepare(system, throttled=10)
    async with worker_process(system, skew) as worker:
        results = await results_of(system, 20)
        assert [result.status for result in results] == ["succeeded"] * 20
        # About 180 with a right clock; due times in the broker's past cause thousands.
        assert 1 <= worker.events("request.rescheduled") <= 600


@pytest.mark.parametrize("jump", [3_600.0, -3_000.0, 86_400.0])
async def test_a_clock_that_jumps_while_a_flow_runs_loses_no_lock(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    async with running_system(monkeypatch, short_lock(LOCK_SECONDS)) as system:
        await prepare(system, delay=LOCK_SECONDS + 2)
        async with worker_process(system, RIGHT, jump) as worker:
            answer = asyncio.create_task(results_of(system, 1))
            await until(lambda: bool(system.emulator.web.flows.calls(FLOW)))
            worker.process.send_signal(signal.SIGUSR1)
            assert [result.status for result in await answer] == ["succeeded"]
            assert worker.events("request.lock_lost") == 0
        assert len(await system.calls(FLOW)) == 1


@pytest.mark.parametrize("skew", [AHEAD, BEHIND, 20.0, -20.0])
async def test_a_wrong_clock_renews_a_short_lock_in_time(monkeypatch: pytest.MonkeyPatch, skew: float) -> None:
    async with running_system(monkeypatch, short_lock(LOCK_SECONDS)) as system:
        await prepare(system, delay=LOCK_SECONDS + 4)
        async with worker_process(system, skew) as worker:
            assert [result.status for result in await results_of(system, 2)] == ["succeeded"] * 2
            assert worker.events("request.lock_lost") == 0
        assert len(await system.calls(FLOW)) == 2


async def test_a_clock_beyond_the_retention_deletes_no_lease_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(monkeypatch, short_lock(5)) as system:
        await prepare(system, delay=4)
        system.flows[FLOW]["timeout_seconds"] = 8
        async with worker_process(system, journal=short_lease(system)) as killed:
            answer = asyncio.create_task(results_of(system, 1))
            await until(lambda: bool(system.emulator.web.flows.calls(FLOW)))
            killed.process.kill()
            await killed.process.wait()
        async with worker_process(system, 8 * 86_400.0, journal=short_lease(system)):
            assert [result.status for result in await answer] == ["unknown"]
        assert len(await system.calls(FLOW)) == 1


def short_lease(system: System) -> JsonObject:
    """Return the journal's settings with the shortest lease beyond the flow's timeout."""
    return {"path": str(system.folder / "journal.sqlite3"), "lease_margin_seconds": 0.1}
