"""The SQLite journal is lost, replaced or without room under a running worker."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_disk import small_disk
from tests.support.system import WAIT, System, until

MIB = 1024 * 1024
QUICK = {"deadline_seconds": 1, "probe_interval_seconds": 0.5}


def deleted(path: Path) -> None:
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        file.unlink()


def replaced_by_its_copy(path: Path) -> None:
    copy = path.with_name("copy.sqlite3")
    shutil.copyfile(path, copy)
    copy.replace(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows neither deletes nor renames open files")
@pytest.mark.parametrize("fate", [deleted, replaced_by_its_copy])
async def test_workers_of_a_lost_journal_take_no_more_requests_and_call_no_flow(
    system: System, fate: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    settings = system.settings(journal={"path": str(system.folder / "journal.sqlite3"), **QUICK})
    async with system.worker(settings) as one, system.worker(settings) as other, system.client() as client:
        sent = await client.submit("notify-team", {}, claim=system.claim())
        assert (await client.wait(sent, WAIT)).status == "succeeded"
        before = len(await system.calls("notify-team"))
        fate(settings.journal.path)
        for worker in (one, other):
            await until(lambda worker=worker: worker.health.journal.is_lost)
            await until(lambda worker=worker: not connected(worker.health.report()))
        sent = await client.submit("notify-team", {}, claim=system.claim())
        for worker in (one, other):
            report = worker.health.report()
            assert report["ready"] is False
            assert "under the worker" in str(report["journal"])
        assert system.depth("active") == 1, "the request stays in its queue"
        assert len(await system.calls("notify-team")) == before
    async with system.worker(settings), system.client() as client:
        assert (await client.wait(sent, WAIT)).status == "succeeded"
    assert len(await system.calls("notify-team")) == before + 1
    assert "journal.replaced" in [getattr(record, "event", "") for record in caplog.records]


def connected(report: dict[str, Any]) -> int:
    return sum(queue["connected"] for queue in report["queues"].values())


async def test_an_output_that_the_reply_queue_does_not_take_is_not_journalled_whole(system: System) -> None:
    await system.put("flows/typed", {"response": {"body": "x" * 2_000_000}})
    system.flows["typed"] = {}
    settings = system.settings()
    async with system.worker(settings), system.client() as client, client.background() as background:
        await background.request("notify-team", {}, WAIT, claim=system.claim())
        for _ in range(3):
            result = await background.request("typed", {}, WAIT, claim=system.claim())
            assert result.error is not None
            assert result.error.code == "output_too_large"
    with closing(sqlite3.connect(settings.journal.path)) as connection:
        sizes = [
            size for (size,) in connection.execute("SELECT length(document) FROM entry WHERE length(document) > 0")
        ]
    assert max(sizes) < 64 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 16) as folder:
        yield folder


async def test_requests_wait_for_room_on_a_full_disk_and_are_then_answered(system: System, disk: Path) -> None:
    journal = {"path": str(disk / "journal.sqlite3"), "max_log_bytes": 2 * MIB, **QUICK}
    filler = disk / "filler"
    async with system.worker(system.settings(journal=journal)) as worker, system.client() as client:
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(64 * 1024)) == 64 * 1024:
                    pass
            except OSError:
                pass
        await until(lambda: not worker.health.report()["ready"])
        assert "full" in str(worker.health.report()["journal"])
        sent = [await client.submit("notify-team", {}, claim=system.claim()) for _ in range(20)]
        before = len(await system.calls("notify-team"))
        filler.unlink()
        await until(lambda: bool(worker.health.report()["ready"]))
        assert [(await client.wait(one, WAIT)).status for one in sent] == ["succeeded"] * 20
        assert len(await system.calls("notify-team")) <= before + 20
