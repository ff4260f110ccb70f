"""Workers that start together on one new journal all open it; a locked file is no settings error."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Acquired, open_journal
from flow_worker.journal.opening import OpenJournal, open_file
from flow_worker.settings import JournalSettings
from flow_worker.telemetry.health import JournalHealth
from tests.conformance.journal.samples import LEASE, job
from tests.support.system import until

WORKERS, ROUNDS = 20, 10


def test_twenty_workers_open_one_new_journal_at_the_same_time(tmp_path: Path) -> None:
    for round_ in range(ROUNDS):
        path = tmp_path / f"{round_}" / "journal.sqlite3"
        together = threading.Barrier(WORKERS)

        def start(path: Path = path, together: threading.Barrier = together) -> OpenJournal:
            together.wait()
            return open_file(path, busy_seconds=20, max_log_bytes=1024 * 1024, reserve_bytes=0)

        with ThreadPoolExecutor(WORKERS) as pool:
            opened = [task.result() for task in [pool.submit(start) for _ in range(WORKERS)]]
        for journal in opened:
            journal.log.close()
            journal.connection.close()


FORKED = """
import os, sys, time
from pathlib import Path
from flow_worker.journal.opening import open_file
def start(path, begin):
    time.sleep(max(0, begin - time.monotonic()))
    journal = open_file(path, busy_seconds=20, max_log_bytes=1 << 20, reserve_bytes=1 << 20)
    time.sleep(0.05)
    journal.log.close()
    journal.connection.close()
for round_ in range(int(sys.argv[3])):
    path, begin, children = Path(sys.argv[1]) / str(round_) / "journal.sqlite3", time.monotonic() + 0.2, []
    for _ in range(int(sys.argv[2])):
        child = os.fork()
        if child == 0:
            try:
                start(path, begin)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    assert not failed, f"{failed} processes failed in round {round_}"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_twenty_processes_open_one_new_journal_at_the_same_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path), str(WORKERS), str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


async def test_a_worker_starts_on_a_locked_journal_and_works_once_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = JournalSettings(path=tmp_path / "journal.sqlite3", deadline_seconds=1, probe_interval_seconds=0.5)
    health = JournalHealth()
    with closing(sqlite3.connect(here.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with open_journal(here, health=health) as journal:
            assert "journal.unreachable" in [getattr(record, "event", "") for record in caplog.records]
            with pytest.raises(TemporarilyUnavailable):
                await journal.acquire(job(), duration=LEASE, calls=0)
            await until(lambda: not health.is_available)
            other.rollback()
            async with asyncio.timeout(60):
                await until(lambda: health.is_available)
            assert isinstance(await journal.acquire(job(), duration=LEASE, calls=0), Acquired)
