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

from flow_contracts.result import FlowResult, FlowRun, Status
from flow_worker.cli.main import cli
from flow_worker.journal import Acquired, JobKey, NextStep, open_journal
from flow_worker.pipeline.job import continuation_id
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


async def test_every_id_finds_the_request_whatever_its_state_and_the_version_of_its_worker(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite3"
    await fill(journal)
    expected = {
        "waits": ["waits"],
        'corr "ü"': ["waits"],
        "08585-run": ["waits"],
        continuation_id("q:1:then", "waits", 2, 0): ["waits"],
        continuation_id("q:1:then", "waits", 2, 3): ["waits"],
        "old": ["old"],
        "old done": ["replayed", "old done"],
        "corr-old": ["replayed", "old done"],
        "run-2": ["replayed"],
    }
    for id_, message_ids in expected.items():
        found = await asyncio.to_thread(show, f" {id_} ", "--json", journal=journal)
        assert found.exit_code == 0, (id_, found.output)
        document = json.loads(found.stdout)
        assert [one["message_id"] for one in (document if isinstance(document, list) else [document])] == message_ids
    begun = await asyncio.to_thread(show, "08585-RU", "--json", journal=journal)
    assert json.loads(begun.stdout)["message_id"] == "waits", "a part of an ID is enough"
    both = await asyncio.to_thread(show, "corr-old", journal=journal)
    assert both.stdout.index("2 requests have the ID corr-old") < both.stdout.index("replay of")
    for unknown in ("a mark", "corr", continuation_id("q:1:then", "another", 2, 0)):
        missing = await asyncio.to_thread(show, unknown, journal=journal)
        assert missing.exit_code == 3
        assert missing.stderr.startswith("Unknown: ")
        assert "did not call" not in missing.stderr


async def test_the_list_has_filters(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite3"
    await fill(journal)

    def listed(*arguments: str) -> Result:
        environment = {"FLOW_WORKER_JOURNAL__PATH": str(journal), "COLUMNS": "80"}
        return CliRunner(env=environment).invoke(cli, ["journal", "list", *arguments])

    expected: dict[tuple[str, ...], list[str]] = {
        (): ["replayed", "old done", "waits", "old"],
        ("--limit", "1"): ["replayed"],
        ("--flow", "create-quote"): ["waits"],
        ("--flow", "other"): ["replayed", "old done"],
        ("--state", "Waiting"): ["waits"],
        ("--status", "failed"): ["old done"],
        ("--newer-than", "1h"): ["replayed", "old done", "waits", "old"],
        ("--older-than", "15 m"): [],
    }
    for arguments, message_ids in expected.items():
        done = await asyncio.to_thread(listed, "--json", *arguments)
        assert [entry["message_id"] for entry in json.loads(done.stdout)] == message_ids, arguments
    table = await asyncio.to_thread(listed, "--limit", "3")
    assert "4 requests" in table.stdout
    assert "1 more are not shown" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80
    wrong = await asyncio.to_thread(listed, "--newer-than", "yesterday")
    assert wrong.exit_code == 2
    assert "such as 90s" in wrong.stderr


async def fill(journal: Path) -> None:
    """Write requests of this version, and two as a worker writes them that records no correlation ID."""
    due = datetime.now(UTC) + timedelta(seconds=90)
    async with open_journal(JournalSettings(path=journal)) as opened:
        keys = [
            JobKey("old", "f", "q:2:then", 0),
            JobKey("waits", "f", "q:1:then", 0, 'corr "ü"', "create-quote"),
            JobKey("old done", "f", "q:3:then", 0),
            JobKey("replayed", "f", "replay:q:3:replayed", 0, "corr-old", "create-quote"),
        ]
        leases = []
        for key in keys:
            began = await opened.acquire(key, duration=timedelta(seconds=9), calls=0)
            assert isinstance(began, Acquired)
            leases.append(began.lease)
        step = NextStep(2, "poll", due, 1, "still_running", "", run=FlowRun(run_id="08585-run"))
        await opened.schedule(leases[1], step)
        done = FlowResult(status=Status.FAILED, correlation_id="corr-old", request_message_id="old done", flow="other")
        await opened.conclude(leases[2], done)
        changes = {"request_message_id": "replayed", "replay_of": "old done", "status": Status.SUCCEEDED}
        await opened.conclude(leases[3], done.model_copy(update={**changes, "run": FlowRun(run_id="run-2")}))
        await opened.keep_mark("a mark", note="of no request")


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
