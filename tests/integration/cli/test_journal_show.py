"""`flow-worker journal show`, on the journal of a real worker; and settings errors that `run` finds at its start."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flow_worker.cli.main import cli
from flow_worker.journal import Acquired, JobKey, NextStep, open_journal
from flow_worker.settings import JournalSettings
from tests.support.processes import CHECKOUT
from tests.support.system import WAIT, running_system

SETTINGS = """
[servicebus]
connection_string = "Endpoint=sb://127.0.0.1;SharedAccessKeyName=n;SharedAccessKey=a;UseDevelopmentEmulator=true"
[claims]
tenants = ["6b1f3a52-0c6e-4f0d-9c7e-5d1e8a2b9f10"]
audiences = ["api://flow-worker"]
[flows.create-quote]
url = "https://prod.westeurope.logic.azure.com/workflows/1/triggers/manual/paths/invoke"
role = "Quotes.Create"
[health]
port = 0
"""
HUSH = "https://prod.example/runs/1?sig=hushhush"


def show(*arguments: str, journal: Path) -> Result:
    environment = {"FLOW_WORKER_JOURNAL__PATH": str(journal), "COLUMNS": "80"}
    return CliRunner(env=environment).invoke(cli, ["journal", "show", *arguments])


async def test_an_answered_request_has_a_history(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(monkeypatch) as system, system.client() as client:
        async with system.worker():
            sent = await client.submit("create-quote", {"customer": "Contoso Ltd", "amount": 1}, claim=system.claim())
            result = await client.take(sent, WAIT)
        assert result is not None
        journal = system.folder / "journal.sqlite3"
        done = await asyncio.to_thread(show, result.request_message_id, journal=journal)
        with_output = await asyncio.to_thread(show, result.request_message_id, "--output", journal=journal)
        as_json = await asyncio.to_thread(show, result.request_message_id, "--json", journal=journal)
    assert done.exit_code == 0, done.output
    for text in [
        "concluded: it has its result",
        "succeeded",
        "create-quote",
        sent,
        "begun",
        "published",
        "HTTP status",
    ]:
        assert text in done.stdout
    assert "Contoso Ltd" not in done.stdout + as_json.stdout
    assert "Contoso Ltd" in with_output.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    document = json.loads(as_json.stdout)
    assert [event["kind"] for event in document["history"]] == ["begun", "concluded", "published"]
    assert document["result"]["status"] == "succeeded"


async def test_a_waiting_request_shows_its_next_step_without_the_status_url(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite3"
    async with open_journal(JournalSettings(path=journal)) as opened:
        began = await opened.acquire(JobKey("waits", "f", "q:1:then", 0), duration=timedelta(seconds=9), calls=0)
        assert isinstance(began, Acquired)
        due = datetime.now(UTC) + timedelta(seconds=90)
        step = NextStep(1, "poll", due, 1, "still_running", f"the run goes on at {HUSH}", status_url=HUSH)
        await opened.schedule(began.lease, step)
    done = await asyncio.to_thread(show, "waits", journal=journal)
    as_json = await asyncio.to_thread(show, "waits", "--json", journal=journal)
    assert done.exit_code == 0, done.output
    assert "waiting: it waits for its next step" in done.stdout
    assert "still_running" in done.stdout
    assert f"{due:%H:%M:%S}" in done.stdout
    assert json.loads(as_json.stdout)["step"]["kind"] == "poll"
    assert "hushhush" not in done.stdout + as_json.stdout


async def test_an_unknown_request_exits_with_3(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite3"
    async with open_journal(JournalSettings(path=journal)):
        pass
    done = await asyncio.to_thread(show, "nobody", journal=journal)
    assert done.exit_code == 3
    assert "no entry for nobody" in done.stderr


def test_a_missing_journal_is_not_created(tmp_path: Path) -> None:
    done = show("any", journal=tmp_path / "absent.sqlite3")
    assert done.exit_code == 2
    assert "there is no journal at" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_journal_of_a_later_version_is_reported_without_a_traceback(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite3"
    connection = sqlite3.connect(journal)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    done = show("any", journal=journal)
    assert done.exit_code == 2
    assert "version" in done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[continuations]\nsole_sender = "required"', "continuations.sole_sender is 'required'"),
        ('[journal]\npath = "."', "journal.path: '.' cannot be used"),
    ],
)
def test_settings_errors_found_at_the_start_are_reported_like_others(tmp_path: Path, more: str, message: str) -> None:
    (tmp_path / "flow-worker.toml").write_text(f"{SETTINGS}\n{more}\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_WORKER_")}
    done = subprocess.run(
        [sys.executable, "-m", "flow_worker", "run"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
