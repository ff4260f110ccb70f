"""Remote text at the terminal: no control sequence and no bidirectional control reaches it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta

import pytest
import typer
from pydantic import JsonValue
from rich.console import Console

from flow_contracts.result import FlowError, FlowResult, Status
from flow_worker.cli import journal_render, request_commands, terminal
from flow_worker.cli.access_explanation import AccessExplanation, AccessStep
from flow_worker.cli.access_render import print_explanation
from flow_worker.cli.dead_letter_render import print_details, print_list, print_outcomes
from flow_worker.dead_letters.actions import DeadLetterOutcome
from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.journal.entry import Entry
from flow_worker.journal.history import Event
from tests.support.pipeline import NOW

HOSTILE = "\x1b]0;owned\x07\x9b2J\r\x7f\u202e\u2066\u2028\u2029\x85\u200f\U000e0041\b[red]\n"
SAFE = "Zürich 東京 €"
TEXT = f"{SAFE}{HOSTILE}"
UNSAFE = set(HOSTILE) - set("]0;owned2J[red]\n")


def console() -> Console:
    return Console(file=io.StringIO(), width=4000, force_terminal=False, color_system=None)


def printed(render: Callable[[Console], object]) -> str:
    target = console()
    render(target)
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def assert_safe(output: str) -> None:
    assert not UNSAFE & set(output), sorted(UNSAFE & set(output))
    assert SAFE in output
    assert "[red]" in output, "no text is read as markup"


RESULT = FlowResult(
    status=Status.FAILED,
    flow=TEXT,
    output={TEXT: [TEXT]},
    output_type=TEXT,
    error=FlowError(code=TEXT, message=TEXT),
    note=TEXT,
    correlation_id=TEXT,
    request_message_id=TEXT,
)
ENTRY = Entry(
    message_id=TEXT,
    fingerprint="f",
    origin=TEXT,
    state="concluded",
    calls=1,
    expires=NOW + timedelta(days=1),
    result=RESULT,
    history=(Event(at=NOW, number=0, kind="concluded", detail=TEXT),),
)
VIEW = DeadLetterView("q", 1, NOW, TEXT, TEXT + "2", TEXT, TEXT, TEXT, 5, TEXT)
DETAILS: dict[str, JsonValue] = VIEW.as_json() | {
    "application_properties": {TEXT: TEXT, "n": [TEXT]},
    "input": {TEXT: TEXT},
}
EXPLANATION = AccessExplanation(TEXT, "flow-requests", [AccessStep("Is it?", "refused", TEXT, "code")])


@pytest.mark.parametrize(
    "render",
    [
        lambda to: terminal.print_json(to, RESULT.model_dump(mode="json")),
        lambda to: journal_render.print_entry(to, ENTRY, with_output=True),
        lambda to: print_list(to, [VIEW], None),
        lambda to: print_details(to, DETAILS),
        lambda to: print_outcomes(to, [DeadLetterOutcome(VIEW, left=TEXT), DeadLetterOutcome(VIEW, TEXT)], "Replayed"),
        lambda to: print_explanation(to, EXPLANATION),
    ],
    ids=["result", "journal", "dead letters", "a dead letter", "outcomes", "check-access"],
)
def test_a_command_prints_no_control_character_of_a_remote_text(render: Callable[[Console], object]) -> None:
    assert_safe(printed(render))


@pytest.mark.parametrize("indent", [None, 2])
def test_json_for_programs_holds_no_control_character_and_the_same_value(indent: int | None) -> None:
    document = RESULT.model_dump(mode="json")
    text = terminal.json_text(document, indent=indent)
    assert_safe(text)
    assert json.loads(text) == document


@pytest.mark.parametrize("as_json", [True, False])
def test_result_prints_no_escape_sequence_of_a_forged_result(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    with pytest.raises(typer.Exit):
        request_commands._print_result(RESULT, "c", as_json=as_json)
    output = capsys.readouterr().out
    assert_safe(output)
    assert json.loads(output)["output"] == {TEXT: [TEXT]}


def test_an_error_prints_no_escape_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    target = console()
    monkeypatch.setattr(terminal, "err", lambda: target)
    with pytest.raises(typer.Exit):
        terminal.fail(TEXT, 2)
    assert isinstance(target.file, io.StringIO)
    assert_safe(target.file.getvalue())


def test_an_escape_is_visible_and_a_line_feed_cannot_imitate_a_line() -> None:
    assert terminal.visible("a\x1b[2J\u202eb\nc\ud800") == r"a\x1b[2J\u202eb\nc\ud800"
    assert terminal.visible("a\x1b\nb", multiline=True) == "a\\x1b\nb"
