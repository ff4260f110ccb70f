"""The gateway's store in a table: outages, announcements of changes, and clocks that are wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store import NOW, PutResult, RequestState, StateName, StoredResult, table_changes
from flow_worker.gateway.store.observed import ObservedGatewayStore
from flow_worker.gateway.store.table import TableGatewayStore
from flow_worker.settings import InvalidSettings
from flow_worker.telemetry.health import JournalHealth
from tests.conformance.gateway_store.conftest import RETENTION, Place
from tests.support.azurite import Azurite, connection_string

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECOND = timedelta(seconds=1)


@pytest.fixture
def place(tables: Azurite) -> Place:
    return Place(connection_string=tables.connection_string)


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[TableGatewayStore]:
    async with place.store() as store:
        assert isinstance(store, TableGatewayStore)
        yield store


# --- outages -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """Open a port that accepts connections and sends nothing."""
    closing = asyncio.Event()

    async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closing.wait()
        writer.close()

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        closing.set()
        server.close()
        await server.wait_closed()


async def test_a_table_that_never_answers_is_unavailable_within_the_deadline() -> None:
    async with silent_port() as port:
        raw = await TableGatewayStore.by_connection_string(connection_string(port), "t", RETENTION, call_seconds=0.3)
        health = JournalHealth()
        store = ObservedGatewayStore(raw, health, deadline_seconds=0.5)
        state = RequestState(StateName.CALLING, datetime.now(UTC))
        result = StoredResult(b"{}", datetime.now(UTC))
        began = time.monotonic()
        operations = (
            *(store.get("x"), store.put_state("x", state), store.put_result("x", result), store.changes(NOW)),
            *(store.check(), store.add(Place().record()), store.purge(datetime.now(UTC))),
        )
        answers = await asyncio.gather(*operations, return_exceptions=True)
        took = time.monotonic() - began
        await store.aclose()
    assert {type(answer) for answer in answers} == {TemporarilyUnavailable}
    assert not any(connection_string(port)[-30:] in str(answer) for answer in answers)
    assert took < 5
    assert not health.is_available


async def test_an_endpoint_without_tls_is_refused_with_its_setting() -> None:
    with pytest.raises(InvalidSettings, match=r"gateway\.store\.table_endpoint"):
        await TableGatewayStore.by_identity("http://x", "t", RETENTION, client_id=None, call_seconds=1)


# --- announcements -----------------------------------------------------------------------------------------------


async def test_a_result_whose_announcement_failed_is_announced_with_its_redelivery(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(place) as store, opened(place) as other:
        record = place.record()
        await store.add(record)
        cursor = (await other.changes(NOW)).cursor
        result = StoredResult(b"{}", place.now)

        async def fail(_: str) -> None:
            raise TemporarilyUnavailable("unavailable", "killed before the announcement")

        with monkeypatch.context() as patched:
            patched.setattr(store._changes, "announce", fail)
            with pytest.raises(TemporarilyUnavailable):
                await store.put_result(record.id, result)
        assert record.id not in (await other.changes(cursor)).request_ids
        assert await other.put_result(record.id, result) is PutResult.DUPLICATE
        assert record.id in (await other.changes(cursor)).request_ids


async def test_an_announcement_that_took_long_is_written_again_under_a_new_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(place) as store, opened(place) as other:
        record = place.record()
        await store.add(record)
        written: list[str] = []
        insert = store._rows.insert

        async def slowly(entity: dict[str, str]) -> bool:
            written.append(entity["RowKey"])
            if len(written) == 1:
                await asyncio.sleep(0.2)
            return await insert(entity)  # type: ignore[arg-type]

        monkeypatch.setattr(store._rows, "insert", slowly)
        # The estimate of the service's time may step back at each answer, by more than this test waits.
        monkeypatch.setattr(store._changes, "_clock", SimpleNamespace(now=lambda: datetime.now(UTC)))
        monkeypatch.setattr(table_changes, "_MAX_WRITE_SECONDS", 0.15)
        cursor = (await other.changes(NOW)).cursor
        await store.put_state(record.id, RequestState(StateName.CALLING, place.now))
        assert len(written) >= 2
        assert written == sorted(written)
        assert record.id in (await other.changes(cursor)).request_ids


async def test_concurrent_changes_share_their_announcements(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(place) as store:
        writes = 0
        insert = store._rows.insert

        async def counted(entity: object) -> bool:
            nonlocal writes
            writes += 1
            return await insert(entity)  # type: ignore[arg-type]

        monkeypatch.setattr(store._rows, "insert", counted)
        await asyncio.gather(*(store._changes.announce(f"request-{number}") for number in range(1000)))
        assert 3 <= writes <= 5
        changes = await store.changes((await store.changes(NOW)).cursor)
        assert len(changes.request_ids) == 1000


async def test_a_cancelled_announcement_reaches_the_others_nevertheless(place: Place) -> None:
    async with opened(place) as store:
        cursor = (await store.changes(NOW)).cursor
        tasks = [asyncio.create_task(store._changes.announce("same")) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, False, False]
        assert (await store.changes(cursor)).request_ids == {"same"}


@pytest.mark.parametrize("wrong", [timedelta(hours=-3), timedelta(hours=3)])
async def test_replicas_with_wrong_clocks_learn_of_each_others_changes(
    place: Place, monkeypatch: pytest.MonkeyPatch, wrong: timedelta
) -> None:
    async with opened(place) as right, opened(place) as skewed:
        monkeypatch.setattr(skewed._table.clock, "_own", lambda: datetime.now(UTC) + wrong)
        records = [place.record(), place.record()]
        for record, store in zip(records, (right, skewed), strict=True):
            await store.add(record)
        cursors = [(await store.changes(NOW)).cursor for store in (right, skewed)]
        for record, store in zip(records, (right, skewed), strict=True):
            await store.put_result(record.id, StoredResult(b"{}", place.now))
        for store, cursor in zip((right, skewed), cursors, strict=True):
            assert (await store.changes(cursor)).request_ids >= {record.id for record in records}


async def test_an_old_announcement_is_purged_and_a_new_one_is_not(place: Place) -> None:
    async with opened(place) as store:
        await store._changes.announce("old")
        assert await store.purge(datetime.now(UTC)) == 0
        assert (await store.changes((await store.changes(NOW)).cursor)).request_ids == {"old"}
        assert await store.purge(datetime.now(UTC) + table_changes.KEPT + 2 * SECOND) == 0  # no request
        assert not (await store.changes((await store.changes(NOW)).cursor)).request_ids


async def test_rows_that_an_interrupted_write_left_are_purged_with_their_request(place: Place) -> None:
    async with opened(place) as store:
        record = place.record()
        await store.add(record)
        await store._write_beside(record.id, bytes(range(256)) * 8000, "orphan")
        await store.put_result(record.id, StoredResult(b"{}", place.now))
        now = place.now + RETENTION.results
        assert await store.purge(now) == 1
        assert await store.purge(now + RETENTION.results) == 1
        assert await store.get(record.id) is None


async def test_purges_of_several_replicas_do_not_disturb_each_other(place: Place, tmp_path: Path) -> None:
    async with opened(place) as one, opened(place) as other:
        for _ in range(10):
            record = place.record()
            await one.add(record)
            await one.put_result(record.id, StoredResult(b"{}", place.now))
        now = place.now + RETENTION.results
        await asyncio.gather(one.purge(now), other.purge(now))
        stored = await one.get(record.id)
        assert stored is not None
        assert stored.is_gone
