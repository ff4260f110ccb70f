"""What the demo found, as tables or JSON: the requests, the queues' depths, the dead-letter queues."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow_worker.cli.dead_letter_view import Letter
from flow_worker.demo.scenarios import Ended

_MAX_DETAIL = 160
_NARROW = 100
_HALF_AN_ID = 18
_STYLE = {"succeeded": "green", "refused": "yellow", "failed": "red", "unknown": "magenta"}


@dataclass(frozen=True, slots=True)
class Report:
    """All that the demo found."""

    single: list[Ended]
    burst: Ended | None
    queues: dict[str, dict[str, int]]
    dead_letters: list[Letter]

    @property
    def ended(self) -> list[Ended]:
        """All requests, in the order they are shown."""
        return [*self.single, *filter(None, [self.burst])]

    @property
    def ok(self) -> bool:
        """Whether every request ended as it should, each by one result, and only the unanswerable one is left."""
        return (
            all(one.ok for one in self.ended)
            and self.queues["flow-replies"]["active"] == self.results
            and [one.reason for one in self.dead_letters] == ["correlation_id_too_long"]
        )

    @property
    def results(self) -> int:
        """How many results lie in the reply queue if each request has one: the burst's are taken off it."""
        return len({one.correlation_id for one in self.single})


def show(report: Report, console: Console, *, as_json: bool) -> None:
    """All of it: tables for people, or JSON on stdout for programs."""
    if as_json:
        sys.stdout.write(json.dumps(_as_json(report), indent=2) + "\n")
        return
    console.print(_requests(report, narrow=console.width < _NARROW))
    console.print(_queues(report))
    console.print(_dead_letters(report))
    if report.ok:
        console.print("Every request ended as it should.", style="bold green")
    else:
        console.print("Some requests ended otherwise than they should: see ✗ above.", style="bold red")


def _requests(report: Report, *, narrow: bool) -> Table:
    """In a narrow terminal IDs take two lines, which leaves the others room for whole words."""
    table = Table(title="What was asked, and what came back", title_justify="left", show_lines=True)
    if narrow:
        table.add_column("correlation ID", overflow="fold", max_width=_HALF_AN_ID)
    else:
        table.add_column("correlation ID", no_wrap=True)
    table.add_column("asked", overflow="fold")
    table.add_column("came back", overflow="fold")
    table.add_column("took", justify="right", no_wrap=True)
    for one in report.ended:
        mark = ("✓ ", "green") if one.ok else ("✗ ", "bold red")
        style = _STYLE.get(one.came_back.split(":")[0], "")
        detail = textwrap.shorten(one.detail, _MAX_DETAIL, placeholder=" …")
        came_back = Text.assemble(mark, (one.came_back, style), _effort(one), "\n", (detail, "dim"))
        table.add_row(one.correlation_id, one.asked, came_back, f"{one.seconds:.1f} s")
    return table


def _effort(one: Ended) -> str:
    """What it took, if it took more than one call."""
    if one.seen is None:
        return ""
    counts = {"calls": one.seen.calls, "polls": one.seen.polls}
    efforts = [f"{count} {what}" for what, count in counts.items() if count > 1]
    return f" ({', '.join(efforts)})" if efforts else ""


def _queues(report: Report) -> Table:
    table = Table(title="The queues now", title_justify="left")
    table.add_column("queue")
    counts = list(dict.fromkeys(name for queue in report.queues.values() for name in queue))
    for name in counts:
        table.add_column(name.replace("_", " "), justify="right")
    for queue, depth in report.queues.items():
        table.add_row(queue, *(str(depth.get(name, 0)) for name in counts))
    return table


def _dead_letters(report: Report) -> Table:
    table = Table(title="The dead-letter queues: what could not be answered", title_justify="left")
    table.add_column("queue\nmessage ID", overflow="fold")
    table.add_column("reason\ndescription", overflow="fold")
    for one in report.dead_letters:
        table.add_row(f"{one.queue}\n{one.message_id}", Text(f"{one.reason}\n{one.description}"))
    return table


def _as_json(report: Report) -> dict[str, JsonValue]:
    return {
        "ok": report.ok,
        "requests": [
            {
                "correlation_id": one.correlation_id,
                "asked": one.asked,
                "came_back": one.came_back,
                "detail": one.detail,
                "seconds": round(one.seconds, 3),
                "ok": one.ok,
                "calls": one.seen.calls if one.seen else None,
                "polls": one.seen.polls if one.seen else None,
                "result": one.result.model_dump(mode="json", exclude_none=True) if one.result else None,
            }
            for one in report.ended
        ],
        "queues": {name: dict(depth) for name, depth in report.queues.items()},
        "dead_letters": [
            {
                "queue": one.queue,
                "message_id": one.message_id,
                "reason": one.reason,
                "description": one.description,
            }
            for one in report.dead_letters
        ],
    }
