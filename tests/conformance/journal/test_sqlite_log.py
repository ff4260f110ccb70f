"""The write-ahead log is bounded by bytes, whatever writes and reads; a transfer that fails is logged."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.sqlite import SqliteStore
from flow_worker.journal.sqlite_file import SqliteLimits
from tests.support.processes import CHECKOUT

MIB = 1024 * 1024
LIMITS = SqliteLimits(busy_seconds=5, max_log_bytes=2 * MIB, reserve_bytes=0)
LATER = datetime.now(UTC) + timedelta(days=1)
WRITER = """
import asyncio, sys
from pathlib import Path
from tests.conformance.journal.test_sqlite_log import LATER, LIMITS
from flow_worker.journal.sqlite import SqliteStore
async def main(path, name, count, size):
    store = await SqliteStore.open(Path(path), LIMITS)
    for number in range(int(count)):
        assert await store.write(f"{name}-{number}", bytes(int(size)), None, LATER, durable=number % 8 == 0)
    await store.close()
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


def log_bytes(path: Path) -> int:
    try:
        return os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return 0


class HighWater:
    """Samples the log's size until the block ends."""

    def __init__(self, path: Path) -> None:
        self.bytes = 0
        self._path = path

    async def __aenter__(self) -> HighWater:
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _sample(self) -> None:
        while True:
            self.bytes = max(self.bytes, log_bytes(self._path))
            await asyncio.sleep(0.002)


async def test_320_documents_of_two_megabytes_leave_a_log_within_its_bound(path: Path) -> None:
    limits = SqliteLimits(busy_seconds=5, max_log_bytes=16 * MIB, reserve_bytes=0)
    store = await SqliteStore.open(path, limits)
    numbers = iter(range(320))

    async def lane() -> None:
        for number in numbers:
            assert await store.write(f"{number}", os.urandom(2_000_000), None, LATER, durable=False)

    async with asyncio.timeout(120), HighWater(path) as high:
        await asyncio.gather(*(lane() for _ in range(8)))
    await store.close()
    assert 0 < high.bytes <= 16 * MIB
    assert path.stat().st_size > 640_000_000
    assert not log_bytes(path)


async def test_the_log_stays_within_its_bound_under_constant_small_writes(path: Path) -> None:
    store = await SqliteStore.open(path, LIMITS)

    async def write(name: str) -> None:
        for number in range(1000):
            assert await store.write(f"{name}-{number}", bytes(2000), None, LATER, durable=False)

    async with HighWater(path) as high:
        await asyncio.gather(*(write(name) for name in "abcdefgh"))
    await store.close()
    assert 0 < high.bytes <= LIMITS.max_log_bytes


async def test_the_log_stays_within_its_bound_while_several_processes_write(path: Path) -> None:
    """Each process sees its own commits only, but the log holds those of all."""
    async with asyncio.timeout(120), HighWater(path) as high:
        commands = [
            [sys.executable, "-c", WRITER, str(path), name, count, size]
            for name, count, size in (("a", "2000", "3000"), ("b", "2000", "3000"), ("c", "60", "600000"))
        ]
        processes = [await asyncio.create_subprocess_exec(*command, cwd=CHECKOUT) for command in commands]
        assert [await process.wait() for process in processes] == [0, 0, 0]
    assert 0 < high.bytes <= LIMITS.max_log_bytes
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM entry").fetchone() == (4060,)


async def test_a_large_log_of_an_earlier_worker_is_emptied_at_the_start(path: Path) -> None:
    await (await SqliteStore.open(path, LIMITS)).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA wal_autocheckpoint = 0")
        for key in range(100):
            other.execute("INSERT INTO entry VALUES (?, ?, 1, ?)", (str(key), bytes(50_000), LATER.timestamp()))
        assert log_bytes(path) > 2 * LIMITS.max_log_bytes
        store = await SqliteStore.open(path, LIMITS)
        assert log_bytes(path) == 0
        await store.close()


async def test_a_reader_that_blocks_the_transfer_is_reported_and_ends_with_the_reader(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    store = await SqliteStore.open(path, SqliteLimits(0.2, max_log_bytes=MIB, reserve_bytes=0))
    await store.write("first", b"", None, LATER)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM entry").fetchall()
        failures = 0
        for number in range(40):
            try:
                await store.write(f"{number}", bytes(50_000), None, LATER, durable=False)
            except TemporarilyUnavailable as error:
                failures += "another process reads or writes" in error.message
            if failures == 3:
                break
        assert failures == 3
        assert log_bytes(path) <= MIB
    reported = [record for record in caplog.records if getattr(record, "event", "") == "journal.checkpoint_failed"]
    assert len(reported) == 1, "one line stands for all failures of half a minute"
    assert await store.write("after", bytes(50_000), None, LATER)
    await store.close()


async def test_a_lent_connection_does_not_hold_up_the_transfer(path: Path) -> None:
    """Documents this large are all written in the thread, and none of them is a small operation that could count."""
    store = await SqliteStore.open(path, LIMITS)
    begun = time.monotonic()
    async with HighWater(path) as high:
        for number in range(60):
            assert await store.write(f"{number}", bytes(700_000), None, LATER, durable=False)
    await store.close()
    assert high.bytes <= LIMITS.max_log_bytes
    assert time.monotonic() - begun < 60
