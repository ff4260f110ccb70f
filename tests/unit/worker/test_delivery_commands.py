"""`flow-worker deliveries list | retry` show and retry the deliveries of the outbox, and no secret of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flow_worker.cli.main import cli
from flow_worker.delivery.outbox import DeliveryOutbox
from flow_worker.delivery.owed import Owed, StoredReply, Trouble
from flow_worker.delivery.sqlite_outbox import SqliteOutbox
from flow_worker.journal.sqlite import SqliteStore
from flow_worker.journal.sqlite_file import SqliteLimits
from tests.support.outbox import RETENTION, ended, owed

NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=1)
SECRET = "the-reply-key-that-nobody-may-see"
TIMES: dict[str, Any] = {"opened": NOW, "expires": NOW + RETENTION}
GIVEN_UP = ended(
    message_id="m-given-up",
    due=None,
    is_given_up=True,
    trouble=Trouble("table_missing", "there is no table \x1b[2J; create it", NOW),
    **TIMES,
)
WAITING = ended(message_id="m-waiting", sink="bell", correlation_id="c-2", due=LATER, attempts=3, **TIMES)
PARKED = owed(message_id="m-running", is_parked=True, due=LATER, **TIMES)
SETTLING = ended(
    message_id="m-unknown", sink="settle", due=LATER, reply=StoredReply("q", "s", reply_key=SECRET), **TIMES
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow-worker.toml").write_text('[journal]\npath = "journal.sqlite3"\n', encoding="utf-8")
    return tmp_path


def stored(records: Sequence[Owed], *, look: bool = False) -> list[Owed]:
    """Store the records as a worker does; with `look` return what is stored."""

    async def run() -> list[Owed]:
        journal = await SqliteStore.open(Path("journal.sqlite3"), SqliteLimits(5, 16 * 1024 * 1024, 0))
        outbox = DeliveryOutbox(
            SqliteOutbox(journal.file), retention=RETENTION, deadline_seconds=5, now=lambda: datetime.now(UTC)
        )
        if records:
            await outbox.open(records)
        found = [each async for each in outbox.all()] if look else []
        await journal.close()
        return found

    return asyncio.run(run())


def output(*arguments: str, status: int = 0) -> str:
    found = CliRunner().invoke(cli, ["deliveries", *arguments])
    assert found.exit_code == status, found.output
    return " ".join(found.output.split())


def listed(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(output("list", "--json", *arguments))
    return found


def test_the_list_shows_what_waits_and_what_needs_a_person() -> None:
    stored([GIVEN_UP, WAITING, PARKED, SETTLING])
    text = output("list")
    given_up = "given up (table_missing: there is no table \\x1b[2J; create it)"
    for part in (given_up, "after 3 failed", "4 deliveries wait"):
        assert part in text
    assert "when the request ends" in text
    assert SECRET not in text + json.dumps(listed())
    [one] = listed("--given-up")
    assert (one["message_id"], one["is_given_up"], one["next_attempt"]) == ("m-given-up", True, None)
    assert one["trouble"]["code"] == "table_missing"
    assert "fingerprint" not in one


@pytest.mark.parametrize(
    ("arguments", "message_ids"),
    [
        (["c-2"], {"m-waiting"}),
        (["m-running"], {"m-running"}),
        (["--sink", "bell"], {"m-waiting"}),
        (["--state", "pending"], {"m-running"}),
        (["--state", "ended", "--sink", "row"], {"m-given-up"}),
        (["nobody"], set()),
    ],
    ids=str,
)
def test_the_list_is_filtered(arguments: list[str], message_ids: set[str]) -> None:
    stored([GIVEN_UP, WAITING, PARKED, SETTLING])
    assert {one["message_id"] for one in listed(*arguments)} == message_ids


def test_the_list_is_limited() -> None:
    stored([GIVEN_UP, WAITING, PARKED])
    assert "2 more are not shown" in output("list", "--limit", "1")


def test_a_retry_makes_deliveries_due_that_wait_or_were_given_up() -> None:
    stored([GIVEN_UP, WAITING, PARKED])
    assert "1 delivery is due now" in output("retry", "m-given-up")
    after = {owed_.message_id: owed_ for owed_ in stored([], look=True)}
    given_up = after["m-given-up"]
    assert given_up.due is not None
    assert (given_up.is_given_up, given_up.attempts, given_up.due <= datetime.now(UTC)) == (False, 0, True)
    assert after["m-waiting"] == WAITING
    assert "2 deliveries are due now" in output("retry", "--all")
    assert {owed_.message_id: owed_ for owed_ in stored([], look=True)}["m-running"] == PARKED


def test_a_retry_names_what_it_retries() -> None:
    stored([GIVEN_UP])
    assert "--all" in output("retry", status=2)
    assert "No delivery waits" in output("retry", "nobody", status=3)


def test_a_journal_without_deliveries_has_none_and_a_missing_one_is_an_error() -> None:
    assert "there is no journal" in output("list", status=2)
    stored([])
    assert output("list") == "0 deliveries wait or were given up"
    assert listed() == []
