"""The observed store reports an outage and its end once each, by operations or by the probe, for every backend."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.observed import ObservedStore
from flow_worker.journal.store import StoredDocument, StoreReplaced
from flow_worker.telemetry.health import Health, JournalHealth
from tests.support.system import until

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class FakeStore:
    """A store that raises `failure`, or hangs."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.hangs = False
        self.probes = 0

    async def _answer(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure

    async def read(self, key: str) -> StoredDocument | None:
        return None

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, durable: bool = True
    ) -> str | None:
        await self._answer()
        return "1"

    async def probe(self, expires: datetime) -> None:
        self.probes += 1
        await self._answer()

    async def purge(self, now: datetime, limit: int) -> int:
        await self._answer()
        return 0

    async def close(self) -> None:
        return


@contextlib.asynccontextmanager
async def probing(store: FakeStore, health: JournalHealth) -> AsyncIterator[ObservedStore]:
    observed = ObservedStore(store, health, deadline_seconds=0.2)
    task = asyncio.create_task(observed.keep_probing(0.05, lambda: NOW))
    yield observed
    task.cancel()


def works(health: JournalHealth) -> bool:
    return health.is_available


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "event", "") for record in caplog.records]


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_idle_worker_notices_an_outage_and_its_end(caplog: pytest.LogCaptureFixture, *, hangs: bool) -> None:
    caplog.set_level(logging.INFO)
    store, health = FakeStore(), JournalHealth()
    async with probing(store, health):
        store.failure, store.hangs = TemporarilyUnavailable("journal_unavailable", "no room"), hangs
        await until(lambda: not works(health))
        assert health.last_error == ("the journal did not answer within 0.2 s" if hangs else "no room")
        seen = store.probes
        await until(lambda: store.probes > seen + 2)
        store.failure, store.hangs = None, False
        await until(lambda: works(health))
        assert (health.last_error or "") == ""
    assert lines(caplog) == ["journal.unavailable", "journal.available"]


async def test_operations_report_an_outage_at_once_and_a_read_does_not_end_it() -> None:
    store, health = FakeStore(), JournalHealth()
    observed = ObservedStore(store, health, deadline_seconds=1)
    store.failure = TemporarilyUnavailable("journal_unavailable", "no room")
    with pytest.raises(TemporarilyUnavailable):
        await observed.write("k", b"", None, NOW)
    assert not works(health)
    await observed.read("k")
    assert not works(health)


async def test_a_busy_store_is_not_probed() -> None:
    store, health = FakeStore(), JournalHealth()
    observed = ObservedStore(store, health, deadline_seconds=1)
    await observed.write("k", b"", None, NOW)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await observed.keep_probing(60, lambda: NOW)
    assert store.probes == 0


async def test_a_replaced_store_stays_lost() -> None:
    store, health = FakeStore(), JournalHealth()
    store.failure = StoreReplaced("journal_unavailable", "the file was deleted")
    async with probing(store, health) as observed:
        await until(lambda: health.is_lost)
        store.failure = None
        await observed.write("k", b"", None, NOW)
        assert not works(health)


def test_a_worker_without_its_journal_is_not_ready() -> None:
    health = Health()
    health.lane("requests").mark_connected()
    assert health.report()["ready"] is True
    health.journal.mark_unavailable("no room")
    report = health.report()
    assert report["ready"] is False
    assert report["journal"] == {"available": False, "last_error": "no room"}
