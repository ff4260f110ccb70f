"""A worker may die at any point between journal, reply, outbox and sink: the sink still gets the end, and in order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import pytest

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.result import FlowResult
from flow_worker.delivery.lane import LaneRules, SinkLane
from flow_worker.delivery.opening import DeliveryOpener, Routes
from flow_worker.delivery.outbox import DeliveryOutbox
from flow_worker.delivery.port import Attempt, Delivered, Delivery, Sink
from flow_worker.delivery.report import NoMeasures, SinkReport
from flow_worker.delivery.runner import DeliveryRunner
from flow_worker.delivery.store import OutboxStore, Row, StoredRow
from flow_worker.journal import Entry
from flow_worker.pipeline.outcome import JournalledResult, Reply
from flow_worker.telemetry.sink_health import SinkHealth
from tests.support.deliveries import job
from tests.support.outbox import RETENTION, Clock, MemoryOutbox, entry, result

_T = TypeVar("_T")
JOB = job()
pytestmark = pytest.mark.asyncio
LEASE = timedelta(seconds=60)
RULES = LaneRules(4, 30.0, ExponentialBackoff(2.0, 300.0), timedelta(days=3), timedelta(seconds=900))


@dataclass
class World:
    """What survives a worker."""

    clock: Clock = field(default_factory=Clock)
    store: MemoryOutbox = field(default_factory=MemoryOutbox)
    entry: Entry | None = None
    replies: list[FlowResult] = field(default_factory=list)
    is_marked: bool = False
    is_completed: bool = False
    delivered: list[Delivery] = field(default_factory=list)


class Mortal:
    """One life of a worker: it stops at its n-th operation, before or behind the operation's effect."""

    def __init__(self, crash_at: int, *, behind: bool) -> None:
        self._crash_at, self._behind = crash_at, behind
        self._operations = 0
        self.dead = asyncio.Event()

    async def do(self, effect: Callable[[], Awaitable[_T]]) -> _T:
        self._operations += 1
        number = self._operations
        if self.dead.is_set() or (number == self._crash_at and not self._behind):
            await self._die()
        done = await effect()
        if number == self._crash_at:
            await self._die()
        return done

    async def _die(self) -> None:
        self.dead.set()
        await asyncio.Event().wait()


class MortalStore:
    """An `OutboxStore` whose worker may die in each operation."""

    def __init__(self, store: OutboxStore, life: Mortal) -> None:
        self._store, self._life = store, life

    async def read(self, key: str) -> StoredRow | None:
        return await self._life.do(lambda: self._store.read(key))

    async def write(self, row: Row, version: str | None) -> str | None:
        return await self._life.do(lambda: self._store.write(row, version))

    async def delete(self, key: str, version: str) -> bool:
        return await self._life.do(lambda: self._store.delete(key, version))

    async def due(self, sink: str, now: datetime, limit: int) -> list[StoredRow]:
        return await self._store.due(sink, now, limit)

    async def sinks(self) -> list[str]:
        return await self._store.sinks()

    def rows(self) -> AsyncIterator[StoredRow]:
        return self._store.rows()

    async def purge(self, now: datetime, limit: int) -> int:
        return await self._store.purge(now, limit)

    async def close(self) -> None:
        pass


class MortalSink(Sink):
    """A sink whose worker may die before or behind the effect of an attempt."""

    name = "row"

    def __init__(self, world: World, life: Mortal) -> None:
        self._world, self._life = world, life

    def wants(self, delivery: Delivery) -> bool:
        return True

    async def deliver(self, delivery: Delivery) -> Attempt:
        async def effect() -> Attempt:
            self._world.delivered.append(delivery)
            return Delivered(is_new=True)

        return await self._life.do(effect)

    async def close(self) -> None:
        pass


class Worker:
    """One life of a worker that handles one request."""

    def __init__(self, world: World, crash_at: int, *, behind: bool) -> None:
        self._world = world
        self.life = Mortal(crash_at, behind=behind)
        outbox = DeliveryOutbox(
            MortalStore(world.store, self.life), retention=RETENTION, deadline_seconds=60, now=world.clock.now
        )
        sink = MortalSink(world, self.life)
        report = SinkReport("row", SinkHealth(), NoMeasures())
        self._runner = DeliveryRunner(
            outbox, [SinkLane(sink, RULES, outbox, self._find, report, now=world.clock.now)], interval_seconds=0.0
        )
        self._opener = DeliveryOpener(
            outbox, world.clock.now, Routes(lambda *_: ("row",), [sink]), offer=self._runner.offer
        )

    async def _find(self, _: str) -> Entry | None:
        return self._world.entry

    async def live(self) -> None:
        """Work until nothing is left to do, or until the death."""
        working = [asyncio.create_task(self._handle()), asyncio.create_task(self._deliver())]
        finished = asyncio.gather(*working)
        dying = asyncio.ensure_future(self.life.dead.wait())
        finished.add_done_callback(lambda _: dying.cancel())
        await asyncio.wait([dying])
        if not self.life.dead.is_set():
            await finished
        self._runner.interrupt()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, finished, return_exceptions=True)

    async def _deliver(self) -> None:
        for _ in range(12):
            await self._runner.turn()
            for _turn in range(12):
                await asyncio.sleep(0)

    async def _handle(self) -> None:
        """Do as the lane does: admit, call, conclude, publish, open, mark, complete."""
        world, life = self._world, self.life
        if world.is_completed:
            return
        if not world.is_marked:
            if world.entry is None or world.entry.result is None:
                await self._opener.admitted(JOB)
                await life.do(self._conclude)
            await life.do(self._publish)
            await self._opener.published(
                Reply(result(), JOB.address, "flow-replies", JournalledResult("m-1", JOB.origin), job=JOB)
            )
        await life.do(self._mark)
        await life.do(self._complete)

    async def _conclude(self) -> None:
        self._world.entry = entry(result(output="the quote"), fingerprint=JOB.fingerprint)

    async def _publish(self) -> None:
        self._world.replies.append(result())

    async def _mark(self) -> None:
        self._world.is_marked = True

    async def _complete(self) -> None:
        self._world.is_completed = True


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("first", range(1, 14))
async def test_a_worker_may_die_twice_at_any_point(first: int, behind: bool) -> None:
    for second, second_behind in itertools.product(range(1, 14, 3), (False, True)):
        world = World()
        await Worker(world, first, behind=behind).live()
        world.clock.time += LEASE
        await Worker(world, second, behind=second_behind).live()
        for _ in range(3):
            world.clock.time += LEASE
            await Worker(world, 0, behind=False).live()
        place = (first, behind, second, second_behind)
        states = [each.state for each in world.delivered]
        assert states[-1] == "ended", place
        assert states == sorted(states, reverse=True), place  # "pending" sorts behind "ended": never after it
        newest = world.delivered[-1].result
        assert newest is not None, place
        assert newest.output == "the quote", place
        assert world.is_completed, place
        assert world.store.rows_by_key == {}, place


async def test_without_a_death_each_state_is_delivered_once() -> None:
    world = World()
    await Worker(world, 0, behind=False).live()
    assert [each.state for each in world.delivered] in (["pending", "ended"], ["ended"])
    assert world.store.rows_by_key == {}
