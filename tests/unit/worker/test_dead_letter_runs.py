"""`deadletters replay` says what the records of flow runs say before it calls a flow again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import typer

from flow_worker.cli import dead_letter_commands, dead_letter_runs, terminal
from flow_worker.cli.dead_letter_commands import Criteria, DeadLetterCommandSettings
from flow_worker.dead_letters.actions import DeadLetterOutcome
from flow_worker.dead_letters.run_notes import with_run_notes
from flow_worker.dead_letters.view import DeadLetterView, RunNote
from flow_worker.settings import RunRecordSettings, ServiceBusSettings
from tests.support.run_records import CALLED, WORKFLOW, Organization, row

VIEW = DeadLetterView(
    queue="flow-requests",
    sequence_number=7,
    enqueued_at=CALLED,
    message_id="m-1",
    correlation_id="c-1",
    flow="create-quote",
    reason="internal_error",
    description="",
    body_bytes=10,
    not_replayable=None,
    request_message_id="m-1",
    accepted=CALLED - timedelta(seconds=1),
)
RAN = replace(VIEW, run=RunNote("its flow run 08585 succeeded", has_run=True))
ABSENT = replace(VIEW, run=RunNote("no flow run is recorded, which does not mean that its flow did not run"))


async def noted(*rows: dict[str, Any], view: DeadLetterView = VIEW, status: int = 200) -> RunNote | None:
    now = CALLED + timedelta(hours=1)
    organization = Organization(list(rows), status=status)
    records = organization.records(lambda: now)
    (found,) = await with_run_notes([view], records, {"create-quote": WORKFLOW}, timedelta(minutes=5), now)
    return found.run


@pytest.mark.parametrize(
    ("rows", "sentence", "has_run"),
    [
        ([row()], "its flow run 08585 succeeded at 2026-11-23 12:02:00 UTC", True),
        ([row(status="FAILURE", endtime=None)], "its flow run 08585 failed", True),
        ([row(status="Canceled", endtime=None)], "its flow run 08585 was cancelled", True),
        ([row(status="Running")], "its flow run 08585 has the status 'Running'", True),
        ([row("1"), row("2", status="Failed")], "it has 2 flow runs, which ended differently", True),
        ([], "no flow run is recorded, which does not mean that its flow did not run", False),
        ([row(starttime="2026-11-20T12:00:00Z")], "no flow run is recorded, which does not mean", False),
    ],
)
async def test_a_dead_letter_says_what_the_record_of_its_run_says(
    rows: list[dict[str, Any]], sentence: str, has_run: bool
) -> None:
    note = await noted(*rows)
    assert note is not None
    assert note.sentence.startswith(sentence)
    assert note.has_run is has_run


async def test_dataverse_away_and_a_flow_without_records() -> None:
    away = await noted(status=503)
    assert away is not None
    assert "not readable now" in away.sentence
    assert await noted(row(), view=replace(VIEW, flow="another")) is None
    assert await noted(row(), view=replace(VIEW, accepted=None)) is None


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    settings = DeadLetterCommandSettings(
        servicebus=ServiceBusSettings.model_validate({"namespace": "contoso.servicebus.windows.net"}),
        run_records=RunRecordSettings(enabled=True),
        flows={"create-quote": {}},  # type: ignore[dict-item]  # as in a file
    )

    def run(view: DeadLetterView, *, yes: bool = False, dry_run: bool = False, as_json: bool = False) -> int:
        terminal.err.cache_clear()
        terminal.out.cache_clear()
        monkeypatch.setattr(dead_letter_commands, "_choose", lambda *_: [VIEW])
        monkeypatch.setattr(dead_letter_runs, "read_run_records", lambda *_: [view])
        monkeypatch.setattr(dead_letter_commands, "_require_seal", lambda *_: None)
        monkeypatch.setattr(dead_letter_commands, "_readers", lambda *_: {})
        done = [DeadLetterOutcome(view, "m-2")]
        monkeypatch.setattr(dead_letter_commands, "_settle", lambda *_: done)
        with pytest.raises(typer.Exit) as ended:
            dead_letter_commands.replay(settings, Criteria(ids=["7"]), yes=yes, dry_run=dry_run, as_json=as_json)
        return ended.value.exit_code

    return run


def test_a_recorded_run_is_printed_and_needs_a_confirmation(
    replay: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(RAN) == 2
    printed = capsys.readouterr().err
    assert "Dead letter 7 of flow-requests: its flow run 08585 succeeded" in printed
    assert "1 of them have a recorded flow run" in printed
    assert "--yes" in printed
    assert replay(RAN, yes=True) == 0
    assert "replayed as m-2" in capsys.readouterr().out


def test_without_a_recorded_run_one_message_needs_no_confirmation(
    replay: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(ABSENT) == 0
    assert "1 message: no flow run is recorded" in capsys.readouterr().err


def test_a_dry_run_and_json_have_the_record_too(replay: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(RAN, dry_run=True) == 0
    assert "its flow run 08585 succeeded" in capsys.readouterr().err
    assert replay(RAN, dry_run=True, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)[0]["run_record"] == "its flow run 08585 succeeded"
