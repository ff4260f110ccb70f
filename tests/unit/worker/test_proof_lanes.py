"""Requests that wait for the proof of their senders hold few lanes of a queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.pipeline import proof_lanes
from flow_worker.pipeline.proof_lanes import ProofLanes

QUEUE = "flow-requests"


async def known() -> str:
    """A proof that waits for nothing: the signing key is in memory."""
    return "ada"


async def refused() -> str:
    raise Refused("claim_missing", "no claim")


@asynccontextmanager
async def waiting(lanes: ProofLanes, count: int) -> AsyncIterator[asyncio.Event]:
    """Let requests wait for keys, which come when the event is set."""
    fetched = asyncio.Event()

    async def fetch() -> str:
        await fetched.wait()
        return "ada"

    tasks = [asyncio.create_task(lanes.prove(QUEUE, fetch())) for _ in range(count)]
    await asyncio.sleep(0)
    yield fetched
    fetched.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def hangs() -> str:
    await asyncio.Event().wait()
    return ""


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> ProofLanes:
    monkeypatch.setattr(proof_lanes, "_PATIENCE_SECONDS", 0.0)
    return ProofLanes({QUEUE: 8})


async def test_a_quarter_of_the_lanes_waits_for_keys_and_the_other_requests_return_later(lanes: ProofLanes) -> None:
    async with waiting(lanes, 2):
        for _ in range(100):
            with pytest.raises(TemporarilyUnavailable) as raised:
                await lanes.prove(QUEUE, hangs())
            assert raised.value.code == "keys_unavailable"


async def test_senders_whose_keys_are_known_are_proven_meanwhile(lanes: ProofLanes) -> None:
    async with waiting(lanes, 2):
        assert await lanes.prove(QUEUE, known()) == "ada"
        with pytest.raises(Refused):
            await lanes.prove(QUEUE, refused())


async def test_an_ended_wait_makes_room_for_the_next_one(lanes: ProofLanes) -> None:
    async with waiting(lanes, 2) as fetched:
        fetched.set()
        await asyncio.sleep(0.01)
        async with waiting(lanes, 2):
            pass


async def test_a_short_fetch_holds_up_nobody() -> None:
    """At the start of a worker every lane waits for the same keys."""
    lanes = ProofLanes({QUEUE: 8})

    async def short() -> str:
        await asyncio.sleep(0.01)
        return "ada"

    assert await asyncio.gather(*(lanes.prove(QUEUE, short()) for _ in range(8))) == ["ada"] * 8


async def test_an_interrupted_request_leaves_no_proof_running(lanes: ProofLanes) -> None:
    async with waiting(lanes, 2):
        task = asyncio.create_task(lanes.prove(QUEUE, asyncio.sleep(3600, "")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, TemporarilyUnavailable)):
            await task
