"""A journal that is deleted, renamed or replaced under running workers takes nothing more, and says why."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Acquired, Journal, files, open_journal
from flow_worker.settings import JournalSettings
from flow_worker.telemetry.health import JournalHealth
from tests.conformance.journal.samples import LEASE, job, leased, result
from tests.support.system import until


def deleted(path: Path) -> None:
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        file.unlink()


def only_the_database_deleted(path: Path) -> None:
    path.unlink()


def only_the_log_deleted(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def only_the_index_deleted(path: Path) -> None:
    Path(f"{path}-shm").unlink()


def renamed(path: Path) -> None:
    path.rename(path.with_name("elsewhere.sqlite3"))


def replaced_by_a_new_journal(path: Path) -> None:
    other = path.with_name("other.sqlite3")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE entry (key)")
    other.rename(path)


def replaced_by_its_copy(path: Path) -> None:
    copy = path.with_name("copy.sqlite3")
    shutil.copyfile(path, copy)
    copy.replace(path)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def folder_removed(path: Path) -> None:
    shutil.rmtree(path.parent)


FATES = [
    deleted,
    only_the_database_deleted,
    only_the_log_deleted,
    only_the_index_deleted,
    renamed,
    replaced_by_a_new_journal,
    replaced_by_its_copy,
    emptied,
    folder_removed,
]


def settings(tmp_path: Path) -> JournalSettings:
    return JournalSettings(path=tmp_path / "state" / "journal.sqlite3", deadline_seconds=1, probe_interval_seconds=0.5)


async def refusal(journal: Journal, name: str) -> str:
    with pytest.raises(TemporarilyUnavailable) as raised:
        await journal.acquire(job(name), duration=LEASE, calls=0)
    assert raised.value.code == "journal_unavailable"
    return raised.value.message


@pytest.mark.skipif(os.name == "nt", reason="Windows neither deletes nor renames open files")
@pytest.mark.parametrize("fate", FATES)
async def test_both_workers_of_a_lost_journal_take_nothing_more(
    tmp_path: Path, fate: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    here = settings(tmp_path)
    async with open_journal(here) as one, open_journal(here) as other:
        lease = await leased(one)
        assert isinstance(await other.acquire(job("other"), duration=LEASE, calls=0), Acquired)
        fate(here.path)
        for journal in (one, other, one):
            assert "under the worker" in await refusal(journal, "later")
        with pytest.raises(TemporarilyUnavailable, match="under the worker"):
            await one.conclude(lease, result(7))
        # For ever: a file that appears at the path later is another journal.
        async with open_journal(here.model_copy(update={"path": tmp_path / "another.sqlite3"})):
            pass
        assert "under the worker" in await refusal(other, "later")
    events = [record for record in caplog.records if getattr(record, "event", "") == "journal.replaced"]
    assert len(events) == 2, "one line of each worker"
    assert not any(event.exc_info for event in events), "the sentence says what to do; a traceback would bury it"


@pytest.mark.skipif(os.name == "nt", reason="Windows neither deletes nor renames open files")
async def test_a_file_made_anew_by_another_worker_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    here = settings(tmp_path)
    async with open_journal(here) as old:
        await leased(old)
        deleted(here.path)
        async with open_journal(here) as new:
            assert isinstance(await new.acquire(job(), duration=LEASE, calls=0), Acquired)
            assert "replaced by another file" in await refusal(old, "later")
            modes = {file.name: file.stat().st_mode & 0o777 for file in here.path.parent.iterdir()}
            assert set(modes.values()) == {0o600}, modes


@pytest.mark.skipif(os.name == "nt", reason="Windows neither deletes nor renames open files")
async def test_the_transfer_of_the_log_notices_the_loss_and_creates_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    # A write soon after a check is not checked again, and fills the log. So the transfer is the first to look.
    monkeypatch.setattr(files, "_VERIFY_EVERY_SECONDS", 60)
    here = settings(tmp_path).model_copy(update={"max_log_bytes": 1024 * 1024, "reserve_bytes": 0})
    async with open_journal(here) as journal:
        lease = await leased(journal)
        only_the_database_deleted(here.path)
        await journal.conclude(lease, result("x" * 700_000))
        await until(lambda: "journal.replaced" in [getattr(record, "event", "") for record in caplog.records])
        assert "under the worker" in await refusal(journal, "later")
        assert not here.path.exists()
    assert not here.path.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows neither deletes nor renames open files")
async def test_a_transfer_that_misses_the_loss_creates_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = settings(tmp_path).model_copy(update={"max_log_bytes": 1024 * 1024, "reserve_bytes": 0})
    async with open_journal(here) as journal:
        lease = await leased(journal)
        with monkeypatch.context() as patched:
            # The file goes between the transfer's check and its connection.
            patched.setattr(files.JournalFiles, "verify", lambda _: None)
            only_the_database_deleted(here.path)
            await journal.conclude(lease, result("x" * 700_000))
            await until(lambda: "unable to open database file" in caplog.text)
            assert not here.path.exists()
    assert not here.path.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows neither deletes nor renames open files")
async def test_an_idle_worker_notices_the_loss_and_stays_unready(tmp_path: Path) -> None:
    here, health = settings(tmp_path), JournalHealth()
    async with open_journal(here, health=health) as journal:
        await leased(journal)
        deleted(here.path)
        await until(lambda: health.is_lost)
        assert not health.is_available
        assert "deleted" in (health.last_error or "")
        async with open_journal(here):
            assert "under the worker" in await refusal(journal, "later")
        assert health.is_lost
        assert not health.is_available


async def test_a_symbolic_link_may_lead_to_the_journal(tmp_path: Path) -> None:
    target = tmp_path / "disk" / "real.sqlite3"
    async with open_journal(JournalSettings(path=target)):
        pass
    link = tmp_path / "journal.sqlite3"
    link.symlink_to(target)
    async with open_journal(JournalSettings(path=link)) as journal:
        lease = await leased(journal)
        await journal.conclude(lease, result(7))


async def test_leases_of_a_relative_path_survive_a_change_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_journal(JournalSettings(path=Path("journal.sqlite3"))) as journal:
        await leased(journal)
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")
        lease = await journal.acquire(job("other"), duration=timedelta(seconds=5), calls=0)
        assert isinstance(lease, Acquired)


@pytest.mark.skipif(os.name == "nt", reason="Windows neither deletes nor renames open files")
async def test_a_worker_warns_that_it_starts_without_its_earlier_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    here = settings(tmp_path)
    for _ in range(2):
        async with open_journal(here) as journal:
            await leased(journal)
        only_the_database_deleted(here.path)
    levels = [record.levelname for record in caplog.records if getattr(record, "event", "") == "journal.created"]
    assert levels == ["INFO", "WARNING"]
