"""A full disk: the journal refuses new requests, keeps what it has, and works again as soon as there is room."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Acquired, Concluded, Journal, open_journal
from flow_worker.settings import JournalSettings
from flow_worker.telemetry.health import JournalHealth
from tests.conformance.journal.samples import LEASE, job, leased, result
from tests.support.small_disk import small_disk
from tests.support.system import until

MIB = 1024 * 1024
DISK_MIB = 24


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_MIB) as folder:
        yield folder


class Worker:
    """A journal on the small disk, with its health."""

    def __init__(self, disk: Path, **changes: object) -> None:
        self.disk = disk
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        self.health = JournalHealth()
        values = {"path": disk / "journal.sqlite3", "deadline_seconds": 2, "probe_interval_seconds": 0.5}
        self.settings = JournalSettings.model_validate(
            values | {"max_log_bytes": 2 * MIB, "reserve_bytes": 2 * MIB} | changes
        )

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        async with open_journal(self.settings, now=lambda: self.now, health=self.health) as journal:
            yield journal

    def fill(self) -> None:
        """Let another program take all of the room."""
        with (self.disk / "filler").open("ab", buffering=0) as filler:
            try:
                for size in (MIB, 4096, 1):
                    while filler.write(bytes(size)) == size:
                        pass
            except OSError:
                return

    def make_room(self) -> None:
        (self.disk / "filler").unlink()

    @property
    def log_bytes(self) -> int:
        return os.stat(f"{self.settings.path}-wal").st_size


async def fill_with_results(journal: Journal, size: int = 200_000, prefix: str = "r") -> list[str]:
    """Conclude requests until the journal takes no more; return the ones whose results it took."""
    kept: list[str] = []
    for number in range(1000):
        try:
            lease = await leased(journal, job(name := f"{prefix}-{number}"))
            await journal.conclude(lease, result(os.urandom(size // 2).hex()))
        except TemporarilyUnavailable:
            return kept
        kept.append(name)
    raise AssertionError("the disk never became full")


async def works(journal: Journal, name: str) -> None:
    """Wait until the journal takes a new request."""
    async with asyncio.timeout(60):
        while True:
            try:
                assert isinstance(await journal.acquire(job(name), duration=LEASE, calls=0), Acquired)
            except TemporarilyUnavailable:
                await asyncio.sleep(0.1)
            else:
                return


async def test_the_journal_fills_the_disk_and_works_again_after_a_purge(disk: Path) -> None:
    worker = Worker(disk)
    async with worker.journal() as journal:
        kept = await fill_with_results(journal)
        assert len(kept) * 200_000 > DISK_MIB * MIB / 2, "most of the disk is used"
        assert worker.log_bytes <= 2 * MIB
        await until(lambda: not worker.health.is_available)
        for name in kept:
            assert isinstance(await journal.acquire(job(name), duration=LEASE, calls=0), Concluded)
        worker.now += timedelta(days=8)
        assert await journal.purge() >= len(kept)
        await works(journal, "after")
        await until(lambda: worker.health.is_available)


async def test_two_workers_that_fill_a_disk_both_work_again_after_the_purge_of_one(disk: Path) -> None:
    worker = Worker(disk)
    async with worker.journal() as one, worker.journal() as other:
        kept = await asyncio.gather(fill_with_results(one, prefix="a"), fill_with_results(other, prefix="b"))
        assert worker.log_bytes <= 2 * MIB
        worker.now += timedelta(days=8)
        await purges(one)
        for number, journal in enumerate((one, other)):
            await works(journal, f"after-{number}")
        assert sum(map(len, kept)) * 200_000 > DISK_MIB * MIB / 2


@pytest.mark.parametrize("reserve", [0, 2 * MIB])
async def test_a_disk_filled_by_another_program_is_noticed_idle_and_recovered_from(disk: Path, reserve: int) -> None:
    worker = Worker(disk, reserve_bytes=reserve)
    async with worker.journal() as journal:
        lease = await leased(journal)
        await until(lambda: worker.health.is_available)
        worker.fill()
        await until(lambda: not worker.health.is_available)
        assert worker.health.last_error
        worker.make_room()
        async with asyncio.timeout(60):
            await until(lambda: worker.health.is_available)
        assert await journal.conclude(lease, result(7)) == result(7)
        if reserve:
            size = disk / "journal.sqlite3-reserve"
            await until(lambda: size.stat().st_size == reserve)
            assert size.stat().st_blocks * 512 >= reserve, "real bytes"
            assert size.stat().st_mode & 0o777 == 0o600


async def test_the_result_of_a_begun_request_still_finds_room(disk: Path) -> None:
    """The reserve holds the room; new requests are refused before it is used up."""
    worker = Worker(disk)
    async with worker.journal() as journal:
        leases = [await leased(journal, job(f"begun-{number}")) for number in range(4)]
        worker.fill()
        assert len(await fill_with_results(journal, 2000)) < 200
        for lease in leases:
            assert await journal.conclude(lease, result("x" * 50_000)) == result("x" * 50_000)


async def test_a_worker_starts_on_a_full_disk_and_works_once_there_is_room(disk: Path) -> None:
    worker = Worker(disk)
    async with worker.journal() as journal:
        kept = await fill_with_results(journal)
    worker.fill()
    async with worker.journal() as journal:
        await until(lambda: not worker.health.is_available)
        worker.make_room()
        worker.now += timedelta(days=8)
        await purges(journal)
        await works(journal, kept[0])


async def test_a_new_journal_on_a_full_disk_is_no_settings_error(disk: Path) -> None:
    worker = Worker(disk)
    worker.fill()
    async with worker.journal() as journal:
        with pytest.raises(TemporarilyUnavailable):
            await journal.acquire(job(), duration=LEASE, calls=0)
        await until(lambda: not worker.health.is_available)
        worker.make_room()
        await works(journal, "after")


async def test_a_log_that_filled_the_disk_before_the_restart_is_transferred(disk: Path) -> None:
    """Without a checkpoint the log and the reserve fill the disk; the restart has only the reserve for the transfer."""
    worker = Worker(disk)
    async with worker.journal() as journal:
        for number in range(8):
            lease = await leased(journal, job(f"{number}"))
            await journal.conclude(lease, result("x" * 100_000))
        worker.fill()
        assert worker.log_bytes > 500_000
        # A copy, as after a kill: the last close of the files would transfer the log.
        names = [file.name for file in disk.iterdir() if file.name != "filler" and not file.name.endswith("-shm")]
        copies = {name: (disk / name).read_bytes() for name in names}
    for name in (*names, "journal.sqlite3-shm", "filler"):
        (disk / name).unlink(missing_ok=True)
    for name, data in copies.items():
        (disk / name).write_bytes(data)
    worker.fill()
    async with worker.journal() as journal:
        for number in range(8):
            await until_answered(journal, f"{number}")


async def until_answered(journal: Journal, name: str) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                assert isinstance(await journal.acquire(job(name), duration=LEASE, calls=0), Concluded)
            except TemporarilyUnavailable:
                await asyncio.sleep(0.1)
            else:
                return


async def purges(journal: Journal) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                assert await journal.purge()
            except TemporarilyUnavailable:
                await asyncio.sleep(0.1)
            else:
                return
