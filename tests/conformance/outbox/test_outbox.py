"""The outbox behaves the same over each backend: opened once, leased by one, ended by its holder, never downgraded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from flow_contracts.result import FlowError, FlowResult, Status
from flow_worker.delivery import owed as records
from flow_worker.delivery.outbox import DeliveryOutbox
from flow_worker.delivery.owed import Owed, Trouble
from flow_worker.delivery.port import Asker
from flow_worker.delivery.sqlite_outbox import SqliteOutbox
from flow_worker.delivery.store import OutboxStore, Row
from flow_worker.delivery.table_outbox import TableOutbox
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.sqlite import SqliteStore
from flow_worker.journal.sqlite_file import SqliteLimits
from tests.support.azurite import Azurite, azurite
from tests.support.outbox import NOW, RETENTION, Clock, ended, owed, result
from tests.support.small_disk import small_disk

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
LIMITS = SqliteLimits(busy_seconds=5, max_log_bytes=16 * 1024 * 1024, reserve_bytes=0)
MINUTE = timedelta(minutes=1)
_numbers = itertools.count()


@dataclass
class Place:
    """Opens outboxes that share one place, as workers do."""

    path: Path | None = None
    connection_string: str = ""
    table: str = field(default_factory=lambda: f"outbox{next(_numbers)}")
    clock: Clock = field(default_factory=Clock)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[OutboxStore]:
        if self.path is not None:
            journal = await SqliteStore.open(self.path, LIMITS)
            try:
                yield SqliteOutbox(journal.file)
            finally:
                await journal.close()
            return
        table = await TableOutbox.by_connection_string(self.connection_string, self.table, call_seconds=10)
        try:
            yield table
        finally:
            await table.close()

    def outbox(self, store: OutboxStore) -> DeliveryOutbox:
        return DeliveryOutbox(store, retention=RETENTION, deadline_seconds=10, now=self.clock.now)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tables(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Azurite]:
    async with azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture(params=["sqlite", "table"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(path=tmp_path / "journal.sqlite3")
    tables: Azurite = request.getfixturevalue("tables")
    return Place(connection_string=tables.connection_string)


@pytest_asyncio.fixture(loop_scope="module")
async def store(place: Place) -> AsyncIterator[OutboxStore]:
    async with place.store() as opened:
        yield opened


@pytest.fixture
def outbox(place: Place, store: OutboxStore) -> DeliveryOutbox:
    return place.outbox(store)


@pytest.fixture
def other(place: Place, store: OutboxStore) -> DeliveryOutbox:
    """The outbox of another worker, which shares no cache with the first."""
    return place.outbox(store)


async def opened(outbox: DeliveryOutbox, *new: Owed) -> list[Owed]:
    return [held.owed for held in await outbox.open(new)]


async def test_an_empty_outbox_has_nothing(outbox: DeliveryOutbox) -> None:
    assert await outbox.due("row", 10) == []
    assert await outbox.sinks() == []
    assert [each async for each in outbox.all()] == []
    assert await outbox.find(owed().key) is None
    assert not await outbox.retry(owed().key)
    assert await outbox.purge() == 0


async def test_a_delivery_opens_once_and_its_state_only_grows(outbox: DeliveryOutbox, other: DeliveryOutbox) -> None:
    assert await opened(outbox, owed()) == [owed()]
    assert await opened(outbox, owed()) == []
    assert await opened(other, owed()) == []
    [after] = await opened(other, ended())
    assert (after.state, after.generation, after.is_owner) == ("ended", 1, True)
    assert await opened(outbox, owed()) == []
    assert await opened(outbox, ended()) == []
    settled = ended(state="settled", result=result(Status.FAILED))
    [after] = await opened(outbox, settled)
    assert (after.state, after.generation) == ("settled", 2)
    assert await opened(other, ended()) == []
    assert await outbox.find(owed().key) == after


async def test_workers_that_open_the_same_deliveries_at_once_open_them_once(
    outbox: DeliveryOutbox, other: DeliveryOutbox
) -> None:
    new = [owed(sink=sink, message_id=f"m-{number}") for number in range(5) for sink in ("row", "bell")]
    first, second = await asyncio.gather(outbox.open(new), other.open(new))
    assert sorted(held.owed.key for held in (*first, *second)) == sorted(each.key for each in new)
    assert await outbox.sinks() == ["bell", "row"]
    assert len([each async for each in other.all()]) == 10


async def test_only_the_deliveries_of_the_sink_that_are_due_are_found(place: Place, outbox: DeliveryOutbox) -> None:
    later = owed(message_id="later", due=NOW + MINUTE)
    await outbox.open([owed(), later, owed(sink="bell"), owed(message_id="a-person-must-look", due=None)])
    assert [held.owed.message_id for held in await outbox.due("row", 10)] == ["m-1"]
    place.clock.time += MINUTE
    found = await outbox.due("row", 10)
    assert sorted(held.owed.message_id for held in found) == ["later", "m-1"]
    assert len(await outbox.due("row", 1)) == 1


async def test_one_worker_gets_the_lease_and_another_one_takes_it_over_after_a_death(
    place: Place, outbox: DeliveryOutbox, other: DeliveryOutbox
) -> None:
    [held] = await outbox.open([owed()])
    leases = await asyncio.gather(outbox.lease(held, MINUTE), other.lease(held, MINUTE))
    [lease] = [each for each in leases if each is not None]
    assert lease.owed.lease is not None
    assert await other.due("row", 10) == []
    assert await other.lease(held, MINUTE) is None
    place.clock.time += MINUTE
    [again] = await other.due("row", 10)
    taken = await other.lease(again, MINUTE)
    assert taken is not None
    # The first holder was only frozen: its end does not count any more.
    assert await outbox.end(lease, lambda _: None) is None
    assert await other.find(owed().key) == taken.owed


async def test_a_delivery_that_ends_is_gone_and_can_be_opened_again(
    outbox: DeliveryOutbox, other: DeliveryOutbox
) -> None:
    [held] = await outbox.open([ended()])
    lease = await outbox.lease(held, MINUTE)
    assert lease is not None
    assert await outbox.end(lease, lambda _: None) is None
    assert await other.find(ended().key) is None
    assert len(await opened(outbox, ended())) == 1


async def test_an_attempt_does_not_count_if_the_request_got_another_state_meanwhile(
    outbox: DeliveryOutbox, other: DeliveryOutbox
) -> None:
    [held] = await outbox.open([owed()])
    lease = await outbox.lease(held, MINUTE)
    assert lease is not None
    [newer] = await other.open([ended()])
    assert await other.due("row", 10) == []  # two attempts at one row at once could leave the older content
    assert await other.lease(newer, MINUTE) is None
    stands = await outbox.end(lease, lambda current: records.parked(current, NOW + MINUTE))
    assert stands is not None
    assert (stands.owed.state, stands.owed.is_parked, stands.owed.lease) == ("ended", False, None)
    assert [each.owed for each in await other.due("row", 10)] == [stands.owed]


@pytest.mark.parametrize(
    ("change", "due"),
    [
        (lambda current: records.failed(current, Trouble("c", "why", NOW), NOW + MINUTE), True),
        (lambda current: records.failed(current, Trouble("c", "why", NOW), None), False),
        (lambda current: records.parked(current, NOW + MINUTE, is_new=True), True),
    ],
    ids=["failed", "given up", "parked"],
)
async def test_the_record_after_an_attempt_is_stored(
    place: Place, outbox: DeliveryOutbox, other: DeliveryOutbox, change: Callable[[Owed], Owed], due: bool
) -> None:
    [held] = await outbox.open([owed()])
    lease = await outbox.lease(held, MINUTE)
    assert lease is not None
    assert await outbox.end(lease, change) is not None
    assert await other.find(owed().key) == records.released(change(lease.owed))
    assert await other.due("row", 10) == []
    place.clock.time += MINUTE
    assert bool(await other.due("row", 10)) is due


async def test_a_person_can_ask_for_another_attempt(outbox: DeliveryOutbox, other: DeliveryOutbox) -> None:
    [held] = await outbox.open([ended()])
    lease = await outbox.lease(held, MINUTE)
    assert lease is not None
    await outbox.end(lease, lambda current: records.failed(current, Trouble("c", "why", NOW), None))
    assert await outbox.due("row", 10) == []
    assert await other.retry(ended().key)
    [again] = await outbox.due("row", 10)
    assert (again.owed.is_given_up, again.owed.attempts, again.owed.trouble) == (False, 0, Trouble("c", "why", NOW))


async def test_a_delivery_that_is_put_off_waits(place: Place, outbox: DeliveryOutbox) -> None:
    [held] = await outbox.open([owed()])
    await outbox.defer(held, NOW + MINUTE)
    assert await outbox.due("row", 10) == []
    place.clock.time += MINUTE
    assert len(await outbox.due("row", 10)) == 1


async def test_expired_records_are_deleted(place: Place, outbox: DeliveryOutbox) -> None:
    await outbox.open([owed(), owed(message_id="longer", expires=NOW + 2 * RETENTION)])
    assert await outbox.purge() == 0
    place.clock.time += RETENTION
    assert [each.message_id async for each in outbox.all()] == ["longer"]
    assert await outbox.purge() == 1
    assert await outbox.find(owed().key) is None


async def test_any_text_of_a_sender_is_stored(outbox: DeliveryOutbox, other: DeliveryOutbox) -> None:
    odd = "ä'\"\\/?#%\x00\u2028😀"
    error = FlowError(code="c", message="x" * 100_000)
    long = FlowResult(status=Status.FAILED, error=error, correlation_id=odd, request_message_id=odd)
    asker = Asker(None, None, odd)
    new = ended(message_id=odd, correlation_id=odd, flow=odd, asker=asker, result=records.embedded(long))
    await outbox.open([new])
    assert await other.find(new.key) == new


async def test_a_record_of_a_later_version_is_left_to_it(store: OutboxStore, outbox: DeliveryOutbox) -> None:
    key = owed().key
    later = Row(key, "row", b'{"version": 2}', NOW, NOW + RETENTION)
    assert await store.write(later, None) is not None
    assert await outbox.due("row", 10) == []
    with pytest.raises(TemporarilyUnavailable, match="a later version wrote"):
        await outbox.open([owed()])


async def test_a_version_is_written_and_deleted_only_if_it_is_the_stored_one(store: OutboxStore) -> None:
    row = Row(owed().key, "row", records.dump(owed()), NOW, NOW + RETENTION)
    first = await store.write(row, None)
    assert first is not None
    assert await store.write(row, None) is None
    second = await store.write(row, first)
    assert second is not None
    assert second != first
    assert await store.write(row, first) is None
    assert not await store.delete(row.key, first)
    assert await store.delete(row.key, second)
    assert await store.write(row, second) is None
    assert await store.read(row.key) is None


# --- SQLite only -----------------------------------------------------------------------------------------------------


async def test_the_file_of_an_earlier_version_gets_the_table_with_the_first_record(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    journal = await SqliteStore.open(path, LIMITS)
    await journal.write("aa", b"{}", None, NOW + RETENTION)
    outbox = Place(path=path).outbox(SqliteOutbox(journal.file))
    await outbox.due("row", 10)
    assert _tables(path) == {"entry"}  # a look creates nothing
    both = await asyncio.gather(outbox.open([owed()]), journal.write("bb", b"{}", None, NOW + RETENTION))
    assert all(both)
    await journal.close()
    assert _tables(path) == {"entry", "delivery"}
    # A worker of an earlier version opens the file as before.
    earlier = await SqliteStore.open(path, LIMITS)
    assert await earlier.read("aa") is not None
    await earlier.close()


async def test_a_replaced_file_takes_no_delivery(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    journal = await SqliteStore.open(path, LIMITS)
    outbox = Place(path=path).outbox(SqliteOutbox(journal.file))
    await outbox.open([owed()])
    path.rename(tmp_path / "away")
    await asyncio.sleep(0.05)
    with pytest.raises(TemporarilyUnavailable, match="was deleted or renamed"):
        await outbox.open([ended()])
    await journal.close()


def _tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


async def test_on_a_full_disk_open_deliveries_can_change_and_end_and_new_ones_wait(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 24) as disk:
        limits = SqliteLimits(busy_seconds=1, max_log_bytes=2 * 1024 * 1024, reserve_bytes=2 * 1024 * 1024)
        journal = await SqliteStore.open(disk / "journal.sqlite3", limits)
        outbox = Place(path=disk / "journal.sqlite3").outbox(SqliteOutbox(journal.file))
        begun = [owed(message_id=f"m-{number}") for number in range(20)]
        await outbox.open(begun)
        filler = disk / "filler"
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

        async def open_new() -> None:
            for number in range(10_000):
                await outbox.open([owed(message_id=f"new-{number}", correlation_id="c" * 100)])

        with pytest.raises(TemporarilyUnavailable, match="full"):
            await open_new()
        held = await outbox.open([ended(message_id=one.message_id) for one in begun])
        assert len(held) == 20
        for each in held:
            lease = await outbox.lease(each, MINUTE)
            assert lease is not None
            assert await outbox.end(lease, lambda _: None) is None
        filler.unlink()
        assert await outbox.open([owed(message_id="after")])
        await journal.close()
