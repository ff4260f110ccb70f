"""The demo's report, as tables or JSON: the scenarios, the queues, the dead letters."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.demo.scenarios import ScenarioOutcome

_MAX_DETAIL = 160
_NARROW = 100
"""The terminal width in columns below which a correlation ID takes two lines, so that the other columns fit words."""
_HALF_AN_ID = 18
_STYLES = {"succeeded": "green", "refused": "yellow", "failed": "red", "unknown": "magenta"}


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The outcomes of all scenarios, and the state of the queues afterwards."""

    single: list[ScenarioOutcome]
    burst: ScenarioOutcome | None
    queues: dict[str, dict[str, int]]
    dead_letters: list[DeadLetterView]

    @property
    def outcomes(self) -> list[ScenarioOutcome]:
        """All outcomes, in the order of the table."""
        return [*self.single, *filter(None, [self.burst])]

    @property
    def ok(self) -> bool:
        """Whether every outcome is as expected, each request has one result, and one dead letter remains."""
        return (
            all(outcome.ok for outcome in self.outcomes)
            and self.queues["flow-replies"]["active"] == self.expected_results
            and [view.reason for view in self.dead_letters] == ["correlation_id_too_long"]
        )

    @property
    def expected_results(self) -> int:
        """The number of results in the reply queue if each request has one; the burst's have left it."""
        return len({outcome.correlation_id for outcome in self.single})


def show(report: DemoReport, console: Console, *, as_json: bool) -> None:
    """Print the report: tables for people, or JSON on stdout for programs."""
    if as_json:
        sys.stdout.write(json.dumps(_as_json(report), indent=2) + "\n")
        return
    console.print(_scenarios(report, narrow=console.width < _NARROW))
    console.print(_queues(report))
    console.print(_dead_letters(report))
    if report.ok:
        console.print("Every request ended as expected.", style="bold green")
    else:
        console.print("Some requests did not end as expected: see ✗ above.", style="bold red")


def _scenarios(report: DemoReport, *, narrow: bool) -> Table:
    table = Table(title="The requests and their results", title_justify="left", show_lines=True)
    if narrow:
        table.add_column("correlation ID", overflow="fold", max_width=_HALF_AN_ID)
    else:
        table.add_column("correlation ID", no_wrap=True)
    table.add_column("scenario\nflow", overflow="fold")
    table.add_column("result\noutput or error", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    for outcome in report.outcomes:
        mark = ("✓ ", "green") if outcome.ok else ("✗ ", "bold red")
        style = _STYLES.get(outcome.outcome.split(":")[0], "")
        detail = textwrap.shorten(outcome.detail, _MAX_DETAIL, placeholder=" …")
        result = Text.assemble(mark, (outcome.outcome, style), _effort(outcome), "\n", (detail, "dim"))
        scenario = Text.assemble(outcome.scenario, "\n", (outcome.flow, "cyan"))
        table.add_row(outcome.correlation_id, scenario, result, f"{outcome.seconds:.1f} s")
    return table


def _effort(outcome: ScenarioOutcome) -> str:
    """Return the numbers of calls and polls above one."""
    if outcome.activity is None:
        return ""
    counts = {"calls": outcome.activity.calls, "polls": outcome.activity.polls}
    efforts = [f"{count} {name}" for name, count in counts.items() if count > 1]
    return f" ({', '.join(efforts)})" if efforts else ""


def _queues(report: DemoReport) -> Table:
    table = Table(title="The queues: messages by state", title_justify="left")
    table.add_column("queue")
    states = list(dict.fromkeys(state for queue in report.queues.values() for state in queue))
    for state in states:
        table.add_column(state.replace("_", " "), justify="right")
    for queue, counts in report.queues.items():
        table.add_row(queue, *(str(counts.get(state, 0)) for state in states))
    return table


def _dead_letters(report: DemoReport) -> Table:
    title = "The dead letters: requests without a usable reply address"
    table = Table(title=title, title_justify="left")
    table.add_column("queue\nmessage ID", overflow="fold")
    table.add_column("reason\ndescription", overflow="fold")
    for view in report.dead_letters:
        table.add_row(f"{view.queue}\n{view.message_id}", Text(f"{view.reason}\n{view.description}"))
    return table


def _as_json(report: DemoReport) -> dict[str, JsonValue]:
    return {
        "ok": report.ok,
        "requests": [_outcome_as_json(outcome) for outcome in report.outcomes],
        "queues": {name: dict(counts) for name, counts in report.queues.items()},
        "dead_letters": [
            {
                "queue": view.queue,
                "message_id": view.message_id,
                "reason": view.reason,
                "description": view.description,
            }
            for view in report.dead_letters
        ],
    }


def _outcome_as_json(outcome: ScenarioOutcome) -> dict[str, JsonValue]:
    return {
        "correlation_id": outcome.correlation_id,
        "scenario": outcome.scenario,
        "flow": outcome.flow,
        "outcome": outcome.outcome,
        "detail": outcome.detail,
        "seconds": round(outcome.seconds, 3),
        "ok": outcome.ok,
        "calls": outcome.activity.calls if outcome.activity else None,
        "polls": outcome.activity.polls if outcome.activity else None,
        "result": outcome.result.model_dump(mode="json", exclude_none=True) if outcome.result else None,
    }
