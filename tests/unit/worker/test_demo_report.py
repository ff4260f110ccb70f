"""The demo's report: one line a request, in 80 and 120 columns, with and without colour, in any encoding."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from rich.console import Console

from flow_contracts.result import FlowResult, Status, Times
from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.demo.environment import EmulatorClient, FlowActivity
from flow_worker.demo.report import DemoReport, show
from flow_worker.demo.scenarios import MAX_BRIEF, ScenarioOutcome, request_scenarios
from flow_worker.demo.spinner import Spinner

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Emulator:
    def mint(self, *_: str, **__: object) -> str:
        return "a-claim"


SCENARIOS = request_scenarios(cast("EmulatorClient", Emulator()))


def report(**first: Any) -> DemoReport:
    single = []
    for number, scenario in enumerate(SCENARIOS):
        times = Times(accepted=NOW, started=NOW, finished=NOW + timedelta(seconds=0.3))
        correlation_id = f"demo-1-{number}"
        result = FlowResult(status=Status.SUCCEEDED, times=times, correlation_id=correlation_id, request_message_id="m")
        text = scenario.status if scenario.code is None else f"{scenario.status}: {scenario.code}"
        activity = FlowActivity(scenario.calls, scenario.polls)
        single.append(
            ScenarioOutcome(
                correlation_id,
                scenario.title,
                scenario.flow,
                text,
                "detail",
                1.4,
                True,
                result,
                activity,
                scenario.brief,
                scenario.expectation,
            )
        )
    single[0] = replace(single[0], **first)
    burst = ScenarioOutcome(
        "b",
        "A burst",
        "create-quote",
        "200 of 200 succeeded",
        "67 requests/s",
        3.0,
        True,
        brief="burst of 200 requests",
    )
    dead = DeadLetterView("q", 1, NOW, None, None, None, "correlation_id_too_long", "", 0, None)
    return DemoReport(single, burst, {"flow-replies": {"active": len(single)}}, [dead])


def printed(shown: DemoReport, width: int, encoding: str = "utf-8", **options: Any) -> list[str]:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, newline="\n")
    console = Console(file=stream, width=width, **options.pop("console", {}))
    show(shown, console, as_json=False, **options)
    stream.flush()
    return written.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_each_request_takes_one_line_and_the_summary_three(width: int) -> None:
    lines = printed(report(), width)
    assert len(lines) == 2 + 1 + len(SCENARIOS) + 1 + 3
    assert max(map(len, lines)) <= width
    for scenario in SCENARIOS:
        name = scenario.title if width >= 118 else scenario.brief
        [line] = [line for line in lines if f" {name} " in line]
        assert line.startswith("✓ ")
        assert scenario.status in line
        assert (scenario.code or "") in line, "the whole code"
        assert line.split()[-2:] == ["0.3", "1.4"], "the flow's own time apart from all of it"
    assert any("200 of 200 succeeded, 67/s" in line for line in lines)
    assert lines[-3].startswith(f"{len(SCENARIOS) + 1} of {len(SCENARIOS) + 1} ended as expected.")
    assert lines[-2] == "1 result for each request with an address (2 if settled), 1 dead letter without."


MORE = [("refused: privilege_missing", 2), ("succeeded", 5), ("failed: NoResponse", 1)]
"""The requests of the whole demo beside `SCENARIOS`: of Dataverse and plug-ins, over HTTP, and of the dead letter."""
IN_DATAVERSE = [("succeeded", "row"), ("notified", "notification"), ("succeeded, settled by flow_run", "settled")]


def whole() -> DemoReport:
    short = report()
    more = [
        replace(short.single[0], outcome=outcome, scenario=f"{outcome} {number}", brief=f"{outcome[:20]} {number}")
        for outcome, count in MORE
        for number in range(count)
    ]
    more += [
        replace(short.single[0], outcome=outcome, scenario=f"in Dataverse {name}", brief=name, in_dataverse=name)
        for outcome, name in IN_DATAVERSE
    ]
    return replace(short, single=[*short.single, *more], queues={"flow-replies": {"active": len(SCENARIOS)}})


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 24), (80, 27)])
def test_a_small_terminal_shows_all_requests_at_once(width: int, height: int, keep: bool) -> None:
    shown = whole()
    lines = printed(shown, width, console={"height": height, "force_terminal": True, "color_system": None}, keep=keep)
    assert max(map(len, lines)) <= width
    assert len(lines) + 1 <= 24, "with the prompt"
    text = "\n".join(lines)
    refused = [outcome for outcome in shown.outcomes if outcome.outcome.startswith("refused")]
    assert "✓  3 in Dataverse: row, notification, settled" in text
    assert f"✓  {len(refused)} refused without a call: role_missing, claim_missing, " in text
    for outcome in shown.outcomes:
        if outcome.in_dataverse:
            assert f" {outcome.in_dataverse}" in text
        elif outcome in refused:
            assert outcome.outcome.removeprefix("refused: ") in text
        else:
            assert (outcome.scenario if width >= 118 else outcome.brief) in text
    assert f"{len(shown.outcomes)} of {len(shown.outcomes)} ended as expected" in text


@pytest.mark.parametrize("console", [{"height": 33, "force_terminal": True}, {"height": 24}])
def test_a_high_terminal_and_a_file_get_a_line_for_each_request(console: dict[str, Any]) -> None:
    assert len(printed(whole(), 80, console=console)) == 2 + 1 + len(whole().outcomes) + 3


def test_a_refusal_that_was_not_expected_keeps_its_lines_on_a_small_terminal() -> None:
    shown = whole()
    shown.single[4] = replace(shown.single[4], ok=False)
    text = "\n".join(printed(shown, 80, console={"height": 24, "force_terminal": True, "color_system": None}))
    assert "✗  sender without the app role     refused role_missing" in text
    assert f"{len(shown.outcomes) - 1} of {len(shown.outcomes)} ended as expected." in text


def test_a_request_that_ended_otherwise_shows_what_was_expected_and_what_came() -> None:
    lines = printed(report(ok=False, outcome="failed: some_code", detail="The flow failed."), 80)
    [at] = [number for number, line in enumerate(lines) if line.startswith("✗ ")]
    assert "failed some_code" in lines[at]
    assert "expected succeeded, 1 calls, 0 polls" in lines[at + 1]
    assert "The flow failed." in lines[at + 2]
    assert lines[-3].startswith(f"{len(SCENARIOS)} of {len(SCENARIOS) + 1} ended as expected.")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "cp850", "latin-1"])
def test_a_legacy_code_page_gets_marks_that_it_has_and_that_differ(encoding: str) -> None:
    lines = printed(report(ok=False), 80, encoding)
    assert sum(line.startswith("ok ") for line in lines) == len(SCENARIOS)
    assert sum(line.startswith("NO ") for line in lines) == 1


def test_no_colour_reaches_a_pipe_and_no_scene_depends_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in "".join(printed(report(), 80))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    on_terminal = printed(report(), 80, console={"force_terminal": True})
    assert "\x1b[3" not in "".join(on_terminal), "bold and dim may stay, a colour may not"


@pytest.mark.parametrize("width", [80, 120])
def test_the_long_form_prints_outputs_queues_and_dead_letters(width: int) -> None:
    lines = printed(report(), width, verbose=True)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    for part in ("output or error", "The queues", "The dead letters", "detail"):
        assert part in text
    assert lines[0].startswith("Seconds: flow = "), "the legend of the last column"
    assert "flow/all" in text
    assert "0.3/1.4" in text
    headers = {cell.strip() for line in lines[2:6] for cell in line.split("\u2503")}
    assert "flow" not in headers, "no column is called like a part of the legend"


def test_the_long_form_shortens_outputs_and_no_errors() -> None:
    words = " ".join(f"word{number}" for number in range(60))
    whole = report(outcome="failed: some_code", detail=words)
    assert "word59" in "\n".join(printed(whole, 120, verbose=True))
    assert "word59" not in "\n".join(printed(report(outcome="succeeded", detail=words), 120, verbose=True))


@pytest.mark.parametrize("command", [".venv/bin/flow-worker", r".venv\Scripts\flow-worker", "flow-worker"])
def test_the_last_line_is_a_command_that_can_be_pasted(command: str) -> None:
    line = printed(report(), 80, command=command)[-1]
    assert line.startswith(f"Try it: {command} demo --keep  ")
    assert len(line) <= 80
    assert printed(report(), 80, command=command, keep=True)[-1].endswith(f": {command} demo --keep --verbose")


def test_every_brief_title_is_short_and_unique() -> None:
    briefs = [scenario.brief for scenario in SCENARIOS]
    assert len(set(briefs)) == len(briefs)
    assert all(0 < len(brief) <= MAX_BRIEF for brief in briefs)


def test_the_spinner_turns_on_a_terminal_only_and_elsewhere_says_one_sentence() -> None:
    piped = io.StringIO()
    with Spinner(Console(file=piped, width=80)) as spinner:
        spinner.say("1 of 2")
        spinner.stop()
        spinner.say("2 of 2")
    assert piped.getvalue().splitlines() == ["Starting an emulator, a worker and a gateway (some seconds) ..."]
    terminal = io.StringIO()
    with Spinner(Console(file=terminal, width=80, force_terminal=True)) as spinner:
        spinner.stop()
        spinner.stop()
        assert "Starting" in terminal.getvalue()
        spinner.say("1 of 2")
    assert "1 of 2" in terminal.getvalue()
