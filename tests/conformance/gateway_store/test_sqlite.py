"""The gateway's store in a file: private, shared by processes, and honest about a full disk and a replaced file."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store import NOW, PutResult, ResultTooLarge, StoredResult
from flow_worker.gateway.store.sqlite import SqliteGatewayStore
from flow_worker.journal.sqlite import SqliteStore
from flow_worker.journal.sqlite_file import SqliteLimits
from flow_worker.settings import InvalidSettings
from tests.conformance.gateway_store.conftest import LIMITS, MIB, RETENTION, Place
from tests.support.small_disk import small_disk

SMALL = SqliteLimits(busy_seconds=1, max_log_bytes=2 * MIB, reserve_bytes=2 * MIB)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.sqlite3"


@pytest.fixture
def place(path: Path) -> Place:
    return Place(path=path)


async def opened(path: Path, limits: SqliteLimits = LIMITS) -> SqliteGatewayStore:
    return await SqliteGatewayStore.open(path, limits, RETENTION, setting="gateway.store.path")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
async def test_other_users_cannot_open_the_files(place: Place, path: Path) -> None:
    async with place.store() as store:
        await store.add(place.record())
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(modes) >= 3


async def test_an_idle_feed_reads_no_table(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica with waiters asks SQLite's counter of commits only."""
    async with place.store() as store, place.store() as other:
        record = place.record()
        await store.add(record)
        cursor = (await store.changes(NOW)).cursor
        await store.changes(cursor)
        read = store._file.read  # type: ignore[attr-defined]

        async def refuse(_: object) -> object:
            raise AssertionError("the feed read the table")

        monkeypatch.setattr(store._file, "read", refuse)  # type: ignore[attr-defined]
        for _ in range(3):
            assert not (await store.changes(cursor)).request_ids
        monkeypatch.setattr(store._file, "read", read)  # type: ignore[attr-defined]
        await other.put_result(record.id, StoredResult(b"{}", place.now))
        assert (await store.changes(cursor)).request_ids == {record.id}


async def test_changes_come_in_bounded_steps(place: Place) -> None:
    async with place.store() as store:
        records = [place.record() for _ in range(1200)]
        await asyncio.gather(*(store.add(record) for record in records))
        cursor = (await store.changes(NOW)).cursor
        result = StoredResult(b"{}", place.now)
        await asyncio.gather(*(store.put_result(record.id, result) for record in records))
        first = await store.changes(cursor)
        second = await store.changes(first.cursor)
        assert (len(first.request_ids), first.has_more) == (1000, True)
        assert (len(second.request_ids), second.has_more) == (200, False)
        assert first.request_ids | second.request_ids == {record.id for record in records}


@pytest.mark.parametrize("victim", ["", "-wal", "-shm"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes no open file")
async def test_a_store_whose_file_was_deleted_takes_and_tells_nothing_more(
    place: Place, path: Path, victim: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with place.store() as store:
        record = place.record()
        await store.add(record)
        Path(f"{path}{victim}").unlink()
        await asyncio.sleep(0.02)  # the next look at the files
        for operation in (store.get(record.id), store.changes(NOW), store.add(place.record()), store.sync()):
            with pytest.raises(TemporarilyUnavailable, match="deleted") as raised:
                await operation
            assert raised.value.code == "unavailable"
    assert "gateway_store.replaced" in [getattr(each, "event", "") for each in caplog.records]


async def test_a_full_disk_refuses_requests_keeps_results_readable_and_recovers(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        place = Place(path=disk / "gateway.sqlite3")
        store = await opened(disk / "gateway.sqlite3", SMALL)
        try:
            kept = await fill(store, place)
            assert kept
            for request_id in (kept[0], kept[-1]):
                found = await store.get(request_id)
                assert found is not None
                assert found.result is not None
            with pytest.raises(TemporarilyUnavailable, match="full"):
                await add_until_refused(store, place)
            # The reserve leaves room for the purge, which frees the disk without an operator.
            assert await store.purge(datetime.now(UTC) + RETENTION.results) >= len(kept)
            await store.check()
            assert await store.add(place.record()) is None
        finally:
            await store.aclose()


async def add_until_refused(store: SqliteGatewayStore, place: Place) -> None:
    for _ in range(200):
        await store.check()
        await store.add(place.record())


async def fill(store: SqliteGatewayStore, place: Place) -> list[str]:
    """Store results until the store takes no more; return the IDs of their requests."""
    kept: list[str] = []
    for _ in range(200):
        record = place.record()
        try:
            await store.add(record)
            result = StoredResult(os.urandom(200_000), place.now)
            assert await store.put_result(record.id, result) is PutResult.STORED
        except TemporarilyUnavailable:
            return kept
        kept.append(record.id)
    raise AssertionError("the disk never became full")


async def test_a_result_beyond_the_log_is_refused_by_its_size(place: Place, path: Path) -> None:
    store = await opened(path, SMALL)
    record = place.record()
    await store.add(record)
    with pytest.raises(ResultTooLarge):
        await store.put_result(record.id, StoredResult(bytes(SMALL.max_document_bytes + 1), place.now))
    assert await store.put_result(record.id, StoredResult(b"{}", place.now)) is PutResult.STORED
    await store.aclose()


async def test_a_gateway_starts_while_its_file_is_locked_and_uses_it_later(
    path: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await (await opened(path)).aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        store = await opened(path, SqliteLimits(busy_seconds=0.2, max_log_bytes=MIB, reserve_bytes=0))
        with pytest.raises(TemporarilyUnavailable, match="locked"):
            await store.get("request")
        other.execute("ROLLBACK")
    async with asyncio.timeout(10):
        while True:
            try:
                assert await store.add(place.record()) is None
                break
            except TemporarilyUnavailable:
                await asyncio.sleep(0.1)
    await store.aclose()
    assert "gateway_store.unreachable" in [getattr(each, "event", "") for each in caplog.records]


async def test_a_file_of_a_later_version_is_refused_with_its_setting(path: Path) -> None:
    await (await opened(path)).aclose()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(InvalidSettings, match=r"gateway\.store\.path.*later version"):
        await opened(path)


async def test_a_journal_is_not_taken_for_a_store(path: Path) -> None:
    """Both files have a version, so the tables must tell them apart."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE entry (key)")
        other.execute("PRAGMA user_version = 1")
    with pytest.raises(InvalidSettings, match=r"gateway\.store\.path.*something else"):
        await opened(path)


async def test_a_store_is_not_taken_for_a_journal(path: Path) -> None:
    await (await opened(path)).aclose()
    with pytest.raises(InvalidSettings, match=r"journal\.path.*something else"):
        await SqliteStore.open(path, LIMITS)
