"""The demo's report, as tables or JSON: the scenarios, the queues, the dead letters."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.demo.scenarios import MAX_BRIEF, ScenarioOutcome
from flow_worker.demo.spinner import is_unicode

_MAX_DETAIL = 160
_NARROW = 100
"""The terminal width in columns below which a correlation ID takes two lines, so that the other columns fit words."""
_HALF_AN_ID = 18
_WIDE = 118
"""The terminal width from which a line has room for the whole title of a scenario."""
_RESULT = 33
_REFUSED = "refused: "
_FRAME_LINES = 7
"""The lines beside those of the requests: the legend, the heading, the summary, and the shell's prompt."""
_MARKS = {True: "\N{CHECK MARK}", False: "\N{BALLOT X}"}
_ASCII_MARKS = {True: "ok", False: "NO"}
_STYLES = {"succeeded": "green", "notified": "green", "refused": "yellow", "failed": "red", "unknown": "magenta"}


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
        return all(outcome.ok for outcome in self.outcomes) and self.queues_ok

    @property
    def queues_ok(self) -> bool:
        """Whether each request has one result, and one dead letter remains."""
        has_results = self.queues["flow-replies"]["active"] == self.expected_results
        return has_results and [view.reason for view in self.dead_letters] == ["correlation_id_too_long"]

    @property
    def expected_results(self) -> int:
        """The number of results in the senders' reply queue if each request has one; the burst's have left it.

        A settled request has two: the `unknown` one stays.
        """
        settled = sum(outcome.result is not None and outcome.result.settled_by is not None for outcome in self.single)
        return len({outcome.correlation_id for outcome in self.single if not outcome.over_http}) + settled


def show(
    report: DemoReport,
    console: Console,
    *,
    as_json: bool,
    verbose: bool = False,
    keep: bool = False,
    command: str = "flow-worker",
) -> None:
    """Print the report: a line for each request, tables with `verbose`, or JSON on stdout for programs.

    `command` starts this program from the user's shell.
    """
    if as_json:
        sys.stdout.write(json.dumps(_as_json(report), indent=2) + "\n")
        return
    rows = len(report.outcomes) + _FRAME_LINES
    # A scrolled screen hides the first requests. A file has no height.
    folded = not verbose and console.is_terminal and console.height < rows
    for line in _legend(console, folded=folded):
        console.print(line, no_wrap=True, overflow="crop")
    if verbose:
        console.print(_scenarios(report, narrow=console.width < _NARROW))
        console.print(_queues(report))
        console.print(_dead_letters(report))
    else:
        for line in _lines(report, console, folded=folded):
            console.print(line, no_wrap=True, overflow="crop")
    for text in _summary(report, command, verbose=verbose, keep=keep, folded=folded):
        console.print(text, soft_wrap=True)


def _legend(console: Console, *, folded: bool) -> list[Text]:
    if folded:
        return [Text("Seconds: flow = first call to result; all = until the sender has the result.", "dim")]
    marks = _marks(console)
    legend = f"with about 1 s to open and close a reply session. {marks[True]}: as expected. {marks[False]}: not."
    return [
        Text("Seconds: flow = first call to result; all = until the sender has the result,", "dim"),
        Text(legend, "dim"),
    ]


def _marks(console: Console) -> dict[bool, str]:
    return _MARKS if is_unicode(console) else _ASCII_MARKS


def _lines(report: DemoReport, console: Console, *, folded: bool) -> Iterator[Text]:
    """Yield one line for each request; below one that did not end as expected, what was expected.

    `folded`: the refusals that were expected share a line, and so does what Dataverse shows.
    """
    marks = _marks(console)
    wide = console.width >= _WIDE
    title = max(len(outcome.scenario) for outcome in report.outcomes) if wide else MAX_BRIEF
    yield Text(f"   {'request':<{title}} {'result':<{_RESULT}} {'flow':>5} {'all':>5}", "bold")
    expected = [outcome for outcome in report.outcomes if folded and outcome.ok]
    refusals = [outcome for outcome in expected if outcome.outcome.startswith(_REFUSED)]
    in_dataverse = [outcome for outcome in expected if outcome.in_dataverse]
    yield from _refusals(refusals, marks[True], console.width)
    yield from _in_dataverse(in_dataverse, marks[True])
    for outcome in (outcome for outcome in report.outcomes if outcome not in [*refusals, *in_dataverse]):
        name = outcome.scenario if wide else outcome.brief or outcome.scenario
        flow = "" if outcome.flow_seconds is None else f"{outcome.flow_seconds:.1f}"
        result = outcome.outcome.replace(":", "", 1) + _effort(outcome)
        if outcome is report.burst:
            result = f"{outcome.outcome}, {outcome.detail.replace(' requests/s', '/s')}"
        yield Text.assemble(
            (f"{marks[outcome.ok]:<2} ", "green" if outcome.ok else "bold red"),
            f"{name[:title]:<{title}} ",
            (f"{result[:_RESULT]:<{_RESULT}} ", _style(outcome)),
            f"{flow:>5} {outcome.seconds:>5.1f}",
        )
        if not outcome.ok:
            yield Text(f"   expected {outcome.expectation}; {outcome.correlation_id}", "red")
            yield Text(f"   {outcome.detail}", "red")


def _refusals(refusals: Sequence[ScenarioOutcome], mark: str, width: int) -> Iterator[Text]:
    """Yield the lines of the requests that were refused as expected, by their codes."""
    if not refusals:
        return
    codes = ", ".join(outcome.outcome.removeprefix(_REFUSED) for outcome in refusals)
    text = f"{len(refusals)} refused without a call: {codes}"
    for number, line in enumerate(textwrap.wrap(text, width - 4, break_on_hyphens=False)):
        yield Text.assemble((f"{'' if number else mark:<2} ", "green"), (line, _STYLES["refused"]))


def _in_dataverse(outcomes: Sequence[ScenarioOutcome], mark: str) -> Iterator[Text]:
    """Yield the line of what Dataverse shows as expected."""
    if outcomes:
        text = f"{len(outcomes)} in Dataverse: {', '.join(outcome.in_dataverse for outcome in outcomes)}"
        yield Text.assemble((f"{mark:<2} ", "green"), (text, _STYLES["succeeded"]))


def _style(outcome: ScenarioOutcome) -> str:
    return _STYLES.get(re.split("[:,]", outcome.outcome)[0], "")


def _summary(report: DemoReport, command: str, *, verbose: bool, keep: bool, folded: bool) -> list[Text]:
    """Return the summary: the requests, the queues, and what to do next. `folded`: the first two in one line."""
    expected = sum(outcome.ok for outcome in report.outcomes)
    count = len(report.outcomes)
    burst = f" Burst: {report.burst.outcome}, {report.burst.detail}." if report.burst else ""
    requests = f"{expected} of {count} ended as expected.{burst}"
    if report.queues_ok:
        queues = "1 result for each request with an address (2 if settled), 1 dead letter without."
    else:
        reasons = ", ".join(view.reason for view in report.dead_letters) or "none"
        results = report.queues["flow-replies"]["active"]
        queues = f"Results: {results} for {report.expected_results} requests. Dead letters: {reasons}."
    hint = f"The same for programs: {command} demo --json"
    if not keep:
        hint = f"Try it: {command} demo --keep" + ("" if verbose else "   (--verbose: outputs, queues)")
    elif not verbose:
        hint = f"Outputs and queues: {command} demo --keep --verbose"
    if folded and expected == count and report.queues_ok:
        requests = f"{count} of {count} ended as expected; 1 result for each, 1 dead letter without an address."
        return [Text(requests, "bold green"), Text(hint)]
    return [
        Text(requests, "bold green" if expected == count else "bold red"),
        Text(queues, "green" if report.queues_ok else "bold red"),
        Text(hint),
    ]


def _scenarios(report: DemoReport, *, narrow: bool) -> Table:
    table = Table(title="The requests and their results", title_justify="left", show_lines=True)
    if narrow:
        table.add_column("correlation ID", overflow="fold", max_width=_HALF_AN_ID)
    else:
        table.add_column("correlation ID", no_wrap=True)
    table.add_column("scenario\nname of the flow", overflow="fold")
    table.add_column("result\noutput or error", overflow="fold")
    table.add_column("seconds\nflow/all", justify="right", no_wrap=True)
    for outcome in report.outcomes:
        mark = ("✓ ", "green") if outcome.ok else ("✗ ", "bold red")
        style = _style(outcome)
        is_output = outcome.outcome == "succeeded"  # an error stays whole: a person needs all of it
        detail = textwrap.shorten(outcome.detail, _MAX_DETAIL, placeholder=" …") if is_output else outcome.detail
        result = Text.assemble(mark, (outcome.outcome, style), _effort(outcome), "\n", (detail, "dim"))
        flow = "-" if outcome.flow_seconds is None else f"{outcome.flow_seconds:.1f}"
        scenario = Text.assemble(outcome.scenario, "\n", (outcome.flow, "cyan"))
        table.add_row(outcome.correlation_id, scenario, result, f"{flow}/{outcome.seconds:.1f}")
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
        "flow_seconds": None if outcome.flow_seconds is None else round(outcome.flow_seconds, 3),
        "ok": outcome.ok,
        "calls": outcome.activity.calls if outcome.activity else None,
        "polls": outcome.activity.polls if outcome.activity else None,
        "result": outcome.result.model_dump(mode="json", exclude_none=True) if outcome.result else None,
    }
