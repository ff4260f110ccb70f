"""The journal's SQLite file: shared by processes, durable, and refused with a clear error if it cannot be used."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Acquired, Concluded, Waiting, open_journal
from flow_worker.journal.kind import JOURNAL
from flow_worker.journal.sqlite import SqliteStore
from flow_worker.journal.sqlite_file import SqliteLimits
from flow_worker.journal.stored import StoredJournal
from flow_worker.journal.transitions import RetentionRules
from flow_worker.settings import InvalidSettings, JournalSettings
from tests.conformance.journal.conftest import Place
from tests.conformance.journal.samples import LEASE, STEP, job, leased, result
from tests.support.processes import CHECKOUT

COUNT = 100
MIB = 1024 * 1024
LIMITS = SqliteLimits(busy_seconds=5, max_log_bytes=2 * MIB, reserve_bytes=2 * MIB)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(JournalSettings(path=tmp_path / "journal.sqlite3", deadline_seconds=1))


@asynccontextmanager
async def worker_process(place: Place, count: int = COUNT) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process that opens the journal with the machine's clock and then waits for a line."""
    place.now = datetime.now(UTC)
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.conformance.journal.process", str(place.settings.path), str(count)]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=CHECKOUT)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready" + os.linesep.encode()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def acquired_by(process: asyncio.subprocess.Process) -> list[int]:
    """Let the process continue; return the requests whose leases it acquired."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"go\n")
    return [int(word) for word in (await process.stdout.readline()).split()]


# --- processes ---------------------------------------------------------------------------------------------------


async def test_each_lease_goes_to_one_of_two_processes(place: Place) -> None:
    async with worker_process(place) as one, worker_process(place) as other:
        mine, yours = await asyncio.gather(acquired_by(one), acquired_by(other))
    assert sorted(mine + yours) == list(range(COUNT))


async def test_results_survive_the_kill_of_their_process(place: Place) -> None:
    async with worker_process(place) as process:
        await acquired_by(process)
        process.kill()
        await process.wait()
        async with place.journal() as journal:
            for number in range(COUNT):
                answer = await journal.acquire(job(str(number)), duration=LEASE, calls=0)
                assert answer == Concluded(result(number), published=False)


# --- failures during operation -----------------------------------------------------------------------------------


async def test_a_conclusion_waits_for_a_locked_file(place: Place) -> None:
    async with place.journal() as journal:
        lease = await leased(journal)
        with closing(sqlite3.connect(place.settings.path)) as other:
            other.execute("BEGIN IMMEDIATE")
            concluding = asyncio.create_task(journal.conclude(lease, result(7)))
            # Longer than the wait of one attempt (half the deadline), so that a second attempt is needed.
            await asyncio.sleep(0.6)
            assert not concluding.done()
            other.rollback()
            assert await concluding == result(7)
        assert isinstance(await journal.acquire(job(), duration=LEASE, calls=0), Concluded)


async def test_a_file_that_stays_locked_is_temporarily_unavailable(place: Place) -> None:
    async with place.journal() as journal:
        with closing(sqlite3.connect(place.settings.path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(TemporarilyUnavailable) as raised:
                await journal.acquire(job(), duration=LEASE, calls=0)
            assert raised.value.code == "journal_unavailable"
            other.rollback()
        assert isinstance(await journal.acquire(job(), duration=LEASE, calls=0), Acquired)


async def test_a_lease_whose_request_was_given_up_during_the_wait_for_a_lock_is_not_written(place: Place) -> None:
    async with place.journal() as journal, place.journal() as of_another_worker:
        with closing(sqlite3.connect(place.settings.path)) as other:
            other.execute("BEGIN IMMEDIATE")
            acquiring = asyncio.create_task(journal.acquire(job(), duration=LEASE, calls=0))
            await asyncio.sleep(0.2)  # a thread waits for the lock by now
            acquiring.cancel()
            await asyncio.wait([acquiring])
            other.rollback()
        assert await journal.find(job().message_id) is None  # after the batch before
        assert isinstance(await of_another_worker.acquire(job(), duration=LEASE, calls=0), Acquired)


async def test_a_full_disk_is_temporarily_unavailable_and_loses_no_entry(place: Place) -> None:
    store = await SqliteStore.open(place.settings.path, LIMITS)
    assert store._file._transactions is not None
    connection = store._file._transactions._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite then reports the same error as for a full disk
    rules = RetentionRules(retention=timedelta(days=7), overdue=timedelta(days=1))
    journal = StoredJournal(store, rules, deadline_seconds=1, now=lambda: place.now)
    lease = await leased(journal)
    await journal.schedule(lease, STEP)
    with pytest.raises(TemporarilyUnavailable, match="full"):
        await journal.conclude(lease, result(os.urandom(100_000).hex()))
    assert await journal.acquire(job(), duration=LEASE, calls=0) == Waiting(STEP, "requests:1")
    await store.close()


async def test_the_event_loop_does_not_wait_for_another_process_that_writes(place: Place) -> None:
    async with place.journal() as journal:
        with closing(sqlite3.connect(place.settings.path)) as other:
            other.execute("BEGIN IMMEDIATE")
            acquiring = asyncio.create_task(journal.acquire(job(), duration=LEASE, calls=0))
            longest = await longest_turn(until=asyncio.sleep(0.3))
            assert not acquiring.done()
            other.rollback()
            assert isinstance(await acquiring, Acquired)
    assert longest < 0.2


async def test_a_lease_that_the_disk_did_not_keep_is_temporarily_unavailable(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.journal() as journal:
        with monkeypatch.context() as broken:
            broken.setattr("flow_worker.journal.transactions.os.fsync", failing_disk)
            with pytest.raises(TemporarilyUnavailable, match="did not keep"):
                await journal.acquire(job(), duration=LEASE, calls=0)
        assert isinstance(await journal.acquire(job(), duration=LEASE, calls=0), Acquired)


async def test_a_lease_waits_for_the_disk_unless_its_call_is_repeatable_and_a_result_does_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = threading.Event()
    async with place.journal() as journal:
        lease = await leased(journal)
        monkeypatch.setattr("flow_worker.journal.transactions.os.fsync", lambda _: kept.wait(10))
        acquiring = asyncio.create_task(journal.acquire(job("other"), duration=LEASE, calls=0))
        assert await journal.conclude(lease, result(7)) == result(7)
        assert isinstance(await journal.acquire(job("twice"), duration=LEASE, calls=0, repeatable=True), Acquired)
        assert not acquiring.done()
        kept.set()
        assert isinstance(await acquiring, Acquired)


async def test_an_entry_of_an_unknown_version_is_temporarily_unavailable(place: Place) -> None:
    async with place.journal() as journal:
        await leased(journal)
        with closing(sqlite3.connect(place.settings.path)) as other, other:
            other.execute("UPDATE entry SET document = '{\"news\": 1}'")
        with pytest.raises(TemporarilyUnavailable, match="version"):
            await journal.acquire(job(), duration=LEASE, calls=0)


async def longest_turn(*, until: Awaitable[None]) -> float:
    """Return the seconds of the longest turn of the event loop until `until` is done."""
    over = asyncio.ensure_future(until)
    longest, before = 0.0, time.monotonic()
    while not over.done():
        await asyncio.sleep(0)
        longest, before = max(longest, time.monotonic() - before), time.monotonic()
    return longest


def failing_disk(file: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


# --- opening -----------------------------------------------------------------------------------------------------


async def refusal(path: Path) -> str:
    """Return the error message for a file that cannot be used."""
    with pytest.raises(InvalidSettings) as raised:
        async with open_journal(JournalSettings(path=path)):
            pass
    return str(raised.value)


async def test_the_file_and_its_folder_are_created_with_private_modes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "journal.sqlite3"
    async with open_journal(JournalSettings(path=path)) as journal:
        await leased(journal)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert path.name in modes
    if os.name == "posix":
        assert set(modes.values()) == {0o600}


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no file modes")
async def test_the_modes_of_files_that_are_there_already_are_corrected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = JournalSettings(path=tmp_path / "journal.sqlite3")

    def modes() -> dict[str, int]:
        return {file.name.removeprefix("journal.sqlite3"): file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}

    async with open_journal(settings) as journal:
        await leased(journal)
        assert set(modes()) == {"", "-wal", "-shm", "-reserve"}
        for file in tmp_path.iterdir():
            file.chmod(0o644)
        async with open_journal(settings) as second:  # while another worker has the files open
            await leased(second, job("another"))
            assert set(modes().values()) == {0o600}
    (tmp_path / "journal.sqlite3").chmod(0o664)
    async with open_journal(settings) as journal:
        await leased(journal, job("later"))
        assert set(modes().values()) == {0o600}
    assert not [record for record in caplog.records if getattr(record, "event", "") == "journal.exposed"]


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no file modes")
async def test_a_mode_that_cannot_be_corrected_is_reported_and_the_journal_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = JournalSettings(path=tmp_path / "journal.sqlite3")
    async with open_journal(settings) as journal:
        await leased(journal)
    (tmp_path / "journal.sqlite3").chmod(0o640)

    def not_permitted(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", not_permitted)
    async with open_journal(settings) as journal:
        await leased(journal, job("later"))
    [event] = [record for record in caplog.records if getattr(record, "event", "") == "journal.exposed"]
    assert "journal.sqlite3" in event.getMessage()


async def test_a_file_that_is_not_a_journal_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear Sir or Madam, " * 100, encoding="utf-8")
    message = await refusal(path)
    assert message.startswith(f"journal.path: '{path}'")
    assert path.read_text(encoding="utf-8").startswith("Dear")


async def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert (await refusal(tmp_path)).startswith(f"journal.path: '{tmp_path}'")


async def test_a_file_of_a_later_version_is_refused(place: Place) -> None:
    async with place.journal():
        pass
    with closing(sqlite3.connect(place.settings.path)) as other:
        other.execute(f"PRAGMA user_version = {JOURNAL.schema_version + 1}")
    assert "later version" in await refusal(place.settings.path)


async def test_a_closed_journal_is_temporarily_unavailable(place: Place) -> None:
    async with place.journal() as journal:
        pass
    with pytest.raises(TemporarilyUnavailable, match="closed"):
        await journal.acquire(job(), duration=LEASE, calls=0)
