"""One request's journal entry, for people: what happened, where it stands, how it ended."""

from __future__ import annotations

import json

from pydantic import JsonValue, TypeAdapter
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow_contracts.result import FlowResult
from flow_worker.cli.dead_letter_render import when
from flow_worker.cli.masking import masked, masked_all
from flow_worker.cli.terminal import plain
from flow_worker.journal import Entry

_entries = TypeAdapter(Entry)
_STATES = {
    "leased": "a worker is at it",
    "waiting": "waits for its next step",
    "released": "given back; whoever gets it begins",
    "concluded": "has its result",
}


def as_json(entry: Entry, *, with_output: bool) -> dict[str, JsonValue]:
    """For programs. Neither status URL nor the worker's own marks; the output only if asked for."""
    document: dict[str, JsonValue] = _entries.dump_python(
        entry, mode="json", exclude={"fingerprint": True, "holder": {"token"}, "step": {"status_url"}}
    )
    result = document["result"]
    output = result.pop("output") if isinstance(result, dict) else None
    shown = {name: masked_all(value) for name, value in document.items()}
    return shown | ({"output": output} if with_output else {})


def show(console: Console, entry: Entry, *, with_output: bool) -> None:
    """The history as a table, and above it where the request stands."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in _facts(entry, with_output=with_output):
        grid.add_row(name, plain(value) if isinstance(value, str) else value)
    console.print(grid)
    console.print(_timeline(entry))


def _facts(entry: Entry, *, with_output: bool) -> list[tuple[str, str | Text]]:
    facts: list[tuple[str, str | Text]] = [
        ("message ID", entry.message_id),
        ("began as", entry.origin),
        ("state", f"{entry.state}: {_STATES[entry.state]}"),
        ("calls", str(entry.calls)),
    ]
    if entry.holder is not None:
        facts.append(("held until", f"{when(entry.holder.until)} UTC"))
    if (step := entry.step) is not None:
        facts.append(("next step", f"{step.number}: {step.kind} at {when(step.due)} UTC"))
        facts.append(("because", masked(f"{step.code}: {step.cause}")))
    if entry.result is not None:
        facts += _ending(entry.result, with_output=with_output)
        facts.append(("published", f"yes, for {entry.published_for}" if entry.published_for else "not yet"))
    return [*facts, ("forgotten at", f"{when(entry.expires)} UTC")]


def _ending(result: FlowResult, *, with_output: bool) -> list[tuple[str, str | Text]]:
    style = "green" if result.status == "succeeded" else "red"
    facts: list[tuple[str, str | Text]] = [
        ("correlation ID", result.correlation_id),
        ("flow", result.flow or "(unreadable)"),
        ("result", Text(result.status.value, style)),
    ]
    if result.error is not None:
        facts.append(("error", masked(f"{result.error.code}: {result.error.message}")))
    if result.note is not None:
        facts.append(("note", result.note))
    if result.http_status is not None:
        facts.append(("HTTP status", str(result.http_status)))
    if result.run is not None and result.run.run_id:
        facts.append(("flow run", result.run.run_id))
    if with_output:
        facts.append(("output", json.dumps(result.output, indent=2, ensure_ascii=False)))
    return facts


def _timeline(entry: Entry) -> Table:
    table = Table(title="history (UTC)", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("when", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for event in entry.history:
        times = f" ({event.count} times)" if event.count > 1 else ""
        table.add_row(when(event.at), str(event.number), f"{event.kind}{times}", plain(masked(event.detail)))
    return table
