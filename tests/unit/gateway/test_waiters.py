"""Callers that wait for a change: each is woken once, costs little, and no poll of the store."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from flow_worker.gateway.changes import ChangeFeed
from flow_worker.gateway.store import Changes, Cursor, PrincipalId, RequestRecord, StoredResult
from flow_worker.gateway.waiters import TooManyWaiters, Waiters
from tests.support.memory_gateway_store import MemoryGatewayStore
from tests.support.system import until

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
RESULT = StoredResult(b"{}", NOW)
MAX_WAITER_BYTES = 1_200


class CountingStore(MemoryGatewayStore):
    """Counts the reads of the feed."""

    reads = 0

    async def changes(self, cursor: Cursor) -> Changes:
        self.reads += 1
        return await super().changes(cursor)


def record(request_id: str) -> RequestRecord:
    return RequestRecord(request_id, PrincipalId("tenant", "ada"), None, "flow", "digest", NOW)


@asynccontextmanager
async def feeding(store: MemoryGatewayStore, waiters: Waiters) -> AsyncIterator[ChangeFeed]:
    feed = ChangeFeed(store, waiters)
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        feed.stop()
        await task


async def test_a_wait_ends_with_a_change_of_its_own_request_only() -> None:
    waiters = Waiters(max_count=10)
    async with waiters.watch("a") as one, waiters.watch("a") as two, waiters.watch("b") as other:
        waiting = [asyncio.create_task(watch.changed(5)) for watch in (one, two)]
        await asyncio.sleep(0)
        waiters.wake(["a", "nobody"])
        assert await asyncio.gather(*waiting) == [True, True]
        assert not await other.changed(0)
        assert not await one.changed(0.01)


async def test_a_change_during_the_read_of_the_store_is_noticed() -> None:
    waiters = Waiters(max_count=10)
    async with waiters.watch("a") as watch:
        waiters.wake(["a"])  # nobody waits yet
        assert await watch.changed(5)
        assert not await watch.changed(0)
    assert waiters.count == 0


async def test_the_number_of_waiters_is_bounded_and_their_places_return() -> None:
    waiters = Waiters(max_count=2)
    async with waiters.watch("a"), waiters.watch("a"):
        with pytest.raises(TooManyWaiters):
            async with waiters.watch("a"):
                raise AssertionError
    assert waiters.count == 0
    async with waiters.watch("a"):
        assert waiters.count == 1


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    waiters = Waiters(max_count=2)

    async def wait() -> None:
        async with waiters.watch("a") as watch:
            await watch.changed(60)

    task = asyncio.create_task(wait())
    await until(lambda: waiters.count == 1)
    task.cancel()
    await asyncio.wait([task])
    assert waiters.count == 0
    waiters.wake(["a"])


async def test_the_feed_wakes_for_the_changes_of_other_replicas_and_reads_nothing_while_nobody_waits() -> None:
    store, waiters = CountingStore(), Waiters(max_count=1000)
    async with feeding(store, waiters):
        await asyncio.sleep(5 * store.feed_seconds)
        assert store.reads == 0
        await store.add(record("a"))
        async with waiters.watch("a") as watch:
            await until(lambda: store.reads > 1)
            await watch.changed(0)  # the false alarm at the begin of the feed
            await store.put_result("a", RESULT)
            assert await watch.changed(5)
        await asyncio.sleep(2 * store.feed_seconds)
        reads = store.reads
        await asyncio.sleep(5 * store.feed_seconds)
        assert store.reads == reads


async def test_the_reads_of_the_feed_do_not_depend_on_the_number_of_waiters() -> None:
    store, waiters = CountingStore(), Waiters(max_count=1000)
    async with feeding(store, waiters):
        watches = [waiters.watch(str(number)) for number in range(1000)]
        for watch in watches:
            await watch.__aenter__()
        waiting = [asyncio.create_task(watch.changed(0.3)) for watch in watches]
        await asyncio.wait(waiting)
        for watch in watches:
            await watch.__aexit__(None, None, None)
    assert store.reads <= 0.3 / store.feed_seconds + 5


async def test_no_change_is_missed_during_an_outage_of_the_store() -> None:
    store, waiters = MemoryGatewayStore(), Waiters(max_count=10)
    await store.add(record("a"))
    async with feeding(store, waiters), waiters.watch("a") as watch:
        await watch.changed(1)  # the false alarm at the begin of the feed
        store.is_down = True
        store.changed.append("a")  # by another replica, which reaches the store
        assert not await watch.changed(5 * store.feed_seconds)
        store.is_down = False
        assert await watch.changed(5)


async def test_a_change_between_the_read_of_a_waiter_and_the_first_read_of_the_feed_is_noticed() -> None:
    store, waiters = MemoryGatewayStore(), Waiters(max_count=10)
    await store.add(record("a"))
    async with waiters.watch("a") as watch:
        stored = await store.get("a")
        assert stored is not None
        assert stored.result is None
        await store.put_result("a", RESULT)
        async with feeding(store, waiters):
            assert await watch.changed(5)


async def test_an_idle_waiter_costs_little_memory() -> None:
    count, waiters = 2_000, Waiters(max_count=2_000)

    async def wait(request_id: str) -> None:
        async with waiters.watch(request_id) as watch:
            await watch.changed(60)

    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    watches = [waiters.watch(f"{number:032x}") for number in range(count)]
    for watch in watches:
        await watch.__aenter__()
    futures = [asyncio.ensure_future(watch.changed(60)) for watch in watches]
    await asyncio.sleep(0)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for future in futures:
        future.cancel()
    await asyncio.wait(futures)
    assert (after - before) / count < MAX_WAITER_BYTES + 800  # the task and its coroutines belong to the test
