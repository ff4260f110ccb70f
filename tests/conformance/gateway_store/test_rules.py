"""The guarantees of the gateway's store over every backend."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from flow_worker.gateway.store import (
    NOW,
    GatewayStore,
    PrincipalId,
    PutResult,
    RequestState,
    Standing,
    StateName,
    StoredResult,
)
from tests.conformance.gateway_store.conftest import RETENTION, Place

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECOND = timedelta(seconds=1)


def noise(size: int) -> bytes:
    """Return bytes that cannot be compressed."""
    return Random(size).randbytes(size)  # noqa: S311 - not a secret


async def body_of(store: GatewayStore, request_id: str) -> bytes | None:
    stored = await store.get(request_id)
    return None if stored is None or stored.result is None else stored.result.body


# --- records -----------------------------------------------------------------------------------------------------


async def test_a_record_is_read_by_every_replica_as_it_was_added(place: Place) -> None:
    asserted = replace(
        place.record(),
        asserter=PrincipalId("tenant", "app"),
        trace_parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        created_at=place.now + timedelta(microseconds=123457),
    )
    plain = replace(place.record(), flow="Bestellung ä/#?'\"\\")
    async with place.store() as one, place.store() as other:
        for record in (asserted, plain):
            assert await one.add(record) is None
            for replica in (one, other):
                stored = await replica.get(record.id)
                assert stored is not None
                assert stored.record == record
                assert stored.state == RequestState(StateName.QUEUED, record.created_at)
                assert (stored.result, stored.is_gone) == (None, False)


async def test_one_of_many_simultaneous_records_with_an_id_is_inserted(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        records = [replace(place.record("same"), digest=str(n)) for n in range(10)]
        answers = await asyncio.gather(*((one, other)[n % 2].add(record) for n, record in enumerate(records)))
        stored = await one.get("same")
    assert stored is not None
    assert Counter(answers) == {None: 1, stored.record: 9}


async def test_a_mark_of_the_send_is_kept_beside_everything_else(place: Place) -> None:
    record = place.record()
    async with place.store() as store:
        await store.add(record)
        await store.mark_sent(record.id)
        await store.mark_sent("unknown")
        await store.sync()
    async with place.store() as store:  # a backend may write the mark a little later
        assert await store.add(replace(record, digest="another")) == replace(record, sent=True)
        assert await store.get("unknown") is None


@pytest.mark.parametrize(
    "request_id", ["", "x", "a/b", "a\x00b", "\ud800", "é" * 128, "x" * 5000, "%2e%2e", "' OR 1=1"]
)
async def test_any_text_may_be_asked_for(store: GatewayStore, request_id: str) -> None:
    assert await store.get(request_id) is None


# --- states ------------------------------------------------------------------------------------------------------


async def test_the_newest_state_stands_in_whatever_order_they_arrive(place: Place, store: GatewayStore) -> None:
    record = place.record()
    await store.add(record)
    states = [
        RequestState(StateName.CALLING, place.now + SECOND, attempts=0),
        RequestState(StateName.WAITING, place.now + 2 * SECOND, place.now + 60 * SECOND, "flow_throttled", 1),
        RequestState(StateName.CALLING, place.now + 3 * SECOND, attempts=1),
        RequestState(StateName.WAITING, place.now + 4 * SECOND, None, None, 2),
    ]
    shuffled = states * 2
    Random(3).shuffle(shuffled)  # noqa: S311 - not a secret
    await asyncio.gather(*(store.put_state(record.id, state) for state in shuffled[:4]))
    for state in shuffled:
        await store.put_state(record.id, state)
    stored = await store.get(record.id)
    assert stored is not None
    assert stored.state == states[-1]
    assert not await store.put_state(record.id, states[-1])


async def test_a_state_after_the_result_or_of_an_unknown_request_changes_nothing(
    place: Place, store: GatewayStore
) -> None:
    record = place.record()
    await store.add(record)
    await store.put_result(record.id, StoredResult(b"{}", place.now))
    late = RequestState(StateName.CALLING, place.now + SECOND)
    assert not await store.put_state(record.id, late)
    assert not await store.put_state("unknown", late)
    assert await body_of(store, record.id) == b"{}"


# --- results -----------------------------------------------------------------------------------------------------


async def test_the_first_result_stands_whoever_repeats_it(place: Place) -> None:
    record = place.record()
    async with place.store() as one, place.store() as other:
        await one.add(record)
        results = [StoredResult(str(n).encode(), place.now + n * SECOND) for n in range(8)]
        puts = ((one, other)[n % 2].put_result(record.id, result) for n, result in enumerate(results))
        answers = await asyncio.gather(*puts)
        assert Counter(answers) == {PutResult.STORED: 1, PutResult.DUPLICATE: 7}
        first = results[answers.index(PutResult.STORED)]
        assert await other.put_result(record.id, first) is PutResult.DUPLICATE
        for replica in (one, other):
            stored = await replica.get(record.id)
            assert stored is not None
            assert stored.result == first
            assert stored.record.sent  # a request with a result was sent


async def test_a_result_of_an_unknown_request_is_not_stored(place: Place, store: GatewayStore) -> None:
    assert await store.put_result("unknown", StoredResult(b"{}", place.now)) is PutResult.UNKNOWN
    assert await store.get("unknown") is None


async def test_the_newest_replay_stands_instead_of_the_first_result(place: Place, store: GatewayStore) -> None:
    record = place.record()
    await store.add(record)
    first = StoredResult(b"first", place.now + 9 * SECOND)
    early, late = StoredResult(b"early", place.now + 10 * SECOND), StoredResult(b"late", place.now + 20 * SECOND)
    answers = []
    one, replay = Standing.FIRST, Standing.REPLAY
    for result, standing in ((first, one), (late, replay), (early, replay), (first, one), (late, replay)):
        answers.append(await store.put_result(record.id, result, standing=standing))
    assert answers == [PutResult.STORED, PutResult.STORED, *[PutResult.DUPLICATE] * 3]
    assert await body_of(store, record.id) == b"late"


async def test_a_replay_that_arrives_before_the_first_result_stands(place: Place, store: GatewayStore) -> None:
    record = place.record()
    await store.add(record)
    assert (
        await store.put_result(record.id, StoredResult(b"2", place.now), standing=Standing.REPLAY) is PutResult.STORED
    )
    late = StoredResult(b"1", place.now + SECOND)
    assert await store.put_result(record.id, late) is PutResult.DUPLICATE
    assert await body_of(store, record.id) == b"2"


@pytest.mark.parametrize("order", list(itertools.permutations(["first", "settled", "replay"])))
async def test_a_settling_result_stands_before_the_first_and_a_replay_before_both(
    place: Place, store: GatewayStore, order: tuple[str, ...]
) -> None:
    record = place.record()
    await store.add(record)
    standings = {"first": Standing.FIRST, "settled": Standing.SETTLED, "replay": Standing.REPLAY}
    ranks = list(standings)
    for number, name in enumerate(order):
        result = StoredResult(name.encode(), place.now + number * SECOND)
        stands = all(ranks.index(name) > ranks.index(before) for before in order[:number])
        expected = PutResult.STORED if stands else PutResult.DUPLICATE
        assert await store.put_result(record.id, result, standing=standings[name]) is expected
        assert await store.put_result(record.id, result, standing=standings[name]) is PutResult.DUPLICATE
    assert await body_of(store, record.id) == b"replay"


async def test_a_result_of_an_unproven_request_gives_way_to_every_other(place: Place, store: GatewayStore) -> None:
    record = place.record()
    await store.add(record)
    forged, first = StoredResult(b"forged", place.now), StoredResult(b"first", place.now + SECOND)
    unproven = Standing.UNPROVEN
    assert await store.put_result(record.id, forged, standing=unproven) is PutResult.STORED
    assert await body_of(store, record.id) == b"forged"
    another = StoredResult(b"another", place.now + SECOND)
    assert await store.put_result(record.id, another, standing=unproven) is PutResult.DUPLICATE
    assert await store.put_result(record.id, first) is PutResult.STORED
    assert await store.put_result(record.id, forged, standing=unproven) is PutResult.DUPLICATE
    assert await body_of(store, record.id) == b"first"


@pytest.mark.parametrize("size", [1, 300_000])
async def test_a_result_is_not_read_for_somebody_who_may_not_read_it(
    place: Place, store: GatewayStore, size: int
) -> None:
    """The time of reading a large one would tell that the request exists."""
    asserted = replace(place.record(), asserter=PrincipalId("tenant", "app"))
    await store.add(asserted)
    await store.put_result(asserted.id, StoredResult(noise(size), place.now))
    for reader in (asserted.owner, asserted.asserter):
        found = await store.get(asserted.id, reader=reader)
        assert found is not None
        assert found.result is not None
    for stranger in (PrincipalId("tenant", "nobody"), PrincipalId("elsewhere", asserted.owner.oid)):
        hidden = await store.get(asserted.id, reader=stranger)
        assert hidden is not None
        assert hidden.result is None


@pytest.mark.parametrize("size", [0, 1, 100_000, 300_000, 3_000_000])
async def test_results_of_any_size_are_read_as_they_were_stored(place: Place, store: GatewayStore, size: int) -> None:
    record = place.record()
    await store.add(record)
    result = StoredResult(noise(size), place.now)
    assert await store.put_result(record.id, result) is PutResult.STORED
    assert await store.put_result(record.id, result) is PutResult.DUPLICATE
    stored = await store.get(record.id)
    assert stored is not None
    assert stored.result == result


async def test_a_small_replay_replaces_a_large_result_whole(place: Place, store: GatewayStore) -> None:
    record = place.record()
    await store.add(record)
    large = StoredResult(noise(2_000_000), place.now)
    await store.put_result(record.id, large)
    await store.put_result(record.id, StoredResult(b"small", place.now + SECOND), standing=Standing.REPLAY)
    assert await body_of(store, record.id) == b"small"


# --- changes -----------------------------------------------------------------------------------------------------


async def test_every_replica_learns_of_states_and_results_by_the_changes(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        records = [place.record() for _ in range(4)]
        for record in records:
            await one.add(record)
        cursors = {replica: (await replica.changes(NOW)).cursor for replica in (one, other)}
        await one.put_state(records[0].id, RequestState(StateName.CALLING, place.now))
        await other.put_result(records[1].id, StoredResult(b"{}", place.now))
        await one.put_result(records[2].id, StoredResult(b"{}", place.now))
        for replica, cursor in cursors.items():
            changes = await replica.changes(cursor)
            changed = {record.id for record in records} & changes.request_ids
            assert changed == {record.id for record in records[:3]}


async def test_no_change_is_lost_among_many_that_are_written_and_read_at_once(place: Place) -> None:
    async with place.store() as one, place.store() as other, place.store() as reader:
        records = [place.record() for _ in range(20)]
        await asyncio.gather(*(one.add(record) for record in records))
        cursor = (await reader.changes(NOW)).cursor
        seen: set[str] = set()

        async def read() -> None:
            nonlocal cursor
            changes = await reader.changes(cursor)
            cursor = changes.cursor
            seen.update(changes.request_ids)

        result = StoredResult(b"{}", place.now)
        writing = asyncio.gather(
            *((one, other)[n % 2].put_result(record.id, result) for n, record in enumerate(records))
        )
        while not writing.done():
            await read()
            await asyncio.sleep(0.001)
        await read()
        assert {record.id for record in records} <= seen


# --- retention ---------------------------------------------------------------------------------------------------


async def test_a_result_is_gone_after_its_retention_and_its_request_unknown_as_long_afterwards(place: Place) -> None:
    record, large = place.record(), place.record()
    async with place.store() as store:
        for each, body in ((record, b"{}"), (large, noise(2_000_000))):
            await store.add(each)
            await store.put_result(each.id, StoredResult(body, place.now))
        assert await store.purge(place.now + RETENTION.results - SECOND) == 0
        assert await body_of(store, record.id) == b"{}"
        assert await store.purge(place.now + RETENTION.results) == 2
        for each in (record, large):
            stored = await store.get(each.id)
            assert stored is not None
            assert (stored.result, stored.is_gone, stored.record) == (None, True, replace(each, sent=True))
        assert await store.put_result(record.id, StoredResult(b"{}", place.now)) is PutResult.DUPLICATE
        assert await store.purge(place.now + 2 * RETENTION.results - SECOND) == 0
        assert await store.purge(place.now + 2 * RETENTION.results) == 2
        assert await store.get(record.id) is None


async def test_a_request_without_a_result_is_unknown_after_its_retention(place: Place, store: GatewayStore) -> None:
    record = place.record()
    await store.add(record)
    assert await store.purge(place.now + RETENTION.pending - SECOND) == 0
    assert await store.purge(place.now + RETENTION.pending) == 1
    assert await store.get(record.id) is None
    assert await store.add(record) is None


async def test_a_purge_takes_any_number(place: Place, store: GatewayStore) -> None:
    records = [place.record() for _ in range(450 if place.path else 20)]
    await asyncio.gather(*(store.add(record) for record in records))
    assert await store.purge(place.now + RETENTION.pending) == len(records)
    assert await store.get(records[-1].id) is None


async def test_a_store_that_takes_requests_passes_the_check(store: GatewayStore) -> None:
    await store.check()
    await store.check()
