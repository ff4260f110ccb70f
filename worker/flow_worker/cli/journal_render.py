"""Renders the journal entry of one request: its state, its result and its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue, TypeAdapter
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow_contracts.result import FlowResult
from flow_worker.cli.terminal import json_text, plain, utc
from flow_worker.journal import Entry
from flow_worker.journal.entry import State
from flow_worker.journal.search import FoundEntries, correlation_id_of, flow_of, last_event, message_id_of
from flow_worker.masking import masked, masked_all

_OUTPUT = "output"
_WIDE = 110
"""The terminal width in columns from which a time fits on one line."""
_NARROW = 72
"""The terminal width below which the list has no columns, because an ID would not fit."""
_ID_WIDTH = 36
_entries = TypeAdapter(Entry)
_STATES: Mapping[State, str] = {
    "leased": "a worker acts on it",
    "waiting": "it waits for its next step",
    "released": "a worker abandoned it; the next delivery starts it again",
    "concluded": "it has its result",
}


def as_json(entry: Entry, *, with_output: bool) -> dict[str, JsonValue]:
    """Return the entry as JSON, without secrets and internal fields, with the output only if `with_output` is set."""
    document: dict[str, JsonValue] = _entries.dump_python(
        entry, mode="json", exclude={"fingerprint": True, "version": True, "holder": {"token"}, "step": {"status_url"}}
    )
    result = document["result"]
    output = result.pop("output") if isinstance(result, dict) else None
    if isinstance(settled := document["settled"], dict):
        del settled["output"]  # a settling result has none
    masked_document = {name: masked_all(value) for name, value in document.items()}
    return masked_document | ({"output": output} if with_output else {})


def print_entry(console: Console, entry: Entry, *, with_output: bool) -> None:
    """Print the state of the request, and below it its history as a table."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in _facts(entry, with_output=with_output):
        grid.add_row(name, plain(value, multiline=name == _OUTPUT) if isinstance(value, str) else value)
    console.print(grid)
    console.print(_timeline(entry))


def print_list(console: Console, found: FoundEntries) -> None:
    """Print one line for each entry, and the number of all."""
    rows = [
        (utc(last_event(entry)), _flow_and_outcome(entry), str(entry.calls), _ids(entry)) for entry in found.entries
    ]
    if console.width < _NARROW:
        for time, outcome, calls, ids in rows:
            console.print(
                Text("\n").join([Text.assemble(time, " ", outcome, f", calls: {calls}"), ids]), soft_wrap=True
            )
    elif rows:
        console.print(_list_table(rows, console.width))
    console.print(f"{found.count} request{'' if found.count == 1 else 's'}", style="bold", highlight=False)
    if found.count > len(found.entries):
        console.print(f"{found.count - len(found.entries)} more are not shown; see --limit.", highlight=False)


def _list_table(rows: Sequence[tuple[str, Text, str, Text]], width: int) -> Table:
    """Return the list as a table of at most this width, in which no ID is cut."""
    time_width = 19 if width >= _WIDE else 10
    free = width - time_width - len("calls") - 9  # 9: margins between and around the columns
    longest = max(len("flow: state or result"), *(len(outcome) for _, outcome, _, _ in rows))
    flow_width = min(longest, free - _ID_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("last event (UTC)", width=time_width)
    table.add_column("flow: state or result", overflow="fold", width=flow_width)
    table.add_column("calls", justify="right", no_wrap=True)
    table.add_column("message ID\ncorrelation ID", overflow="fold", max_width=free - flow_width)
    for row in rows:
        table.add_row(*row)
    return table


def _flow_and_outcome(entry: Entry) -> Text:
    return plain(f"{flow_of(entry) or '(unknown flow)'}: ").append_text(_outcome(entry))


def _ids(entry: Entry) -> Text:
    ids = dict.fromkeys([message_id_of(entry), correlation_id_of(entry)])
    return Text("\n").join(plain(id_) for id_ in ids if id_)


def line_as_json(entry: Entry) -> dict[str, JsonValue]:
    """Return what the list shows of an entry."""
    result = entry.standing
    return {
        "message_id": message_id_of(entry),
        "correlation_id": correlation_id_of(entry),
        "replay_of": result.replay_of if result else None,
        "flow": flow_of(entry),
        "state": entry.state,
        "status": result.status.value if result else None,
        "code": result.error.code if result and result.error else None,
        "settled_by": result.settled_by if result else None,
        "calls": entry.calls,
        "run_id": result.run.run_id if result and result.run else None,
        "last_event": last_event(entry).isoformat(),
        "expires": entry.expires.isoformat(),
    }


def _outcome(entry: Entry) -> Text:
    result = entry.standing
    if result is None:
        return Text(entry.state, "yellow")
    code = f" ({result.error.code})" if result.error else ""
    settled = f", settled by {result.settled_by}" if result.settled_by else ""
    return plain(f"{result.status.value}{code}{settled}", "green" if result.status == "succeeded" else "red")


def _facts(entry: Entry, *, with_output: bool) -> list[tuple[str, str | Text]]:
    facts: list[tuple[str, str | Text]] = [
        ("message ID", message_id_of(entry)),
        ("correlation ID", correlation_id_of(entry) or "(not in this entry)"),
        ("flow", flow_of(entry) or "(not in this entry)"),
        ("origin", entry.origin),
        ("state", f"{entry.state}: {_STATES[entry.state]}"),
        ("calls", str(entry.calls)),
    ]
    if entry.holder is not None:
        facts.append(("leased until", f"{utc(entry.holder.until)} UTC"))
    if (step := entry.step) is not None:
        facts.append(("next step", f"{step.number}: {step.kind} at {utc(step.due)} UTC"))
        facts.append(("reason", masked(f"{step.code}: {step.cause}")))
    if entry.result is not None:
        facts += _result(entry.result, with_output=with_output)
        facts.append(("published", f"yes, for {entry.published_for}" if entry.published_for else "not yet"))
    if entry.settled is not None:
        facts.append(("settled by", entry.settled.settled_by or "unknown"))
        facts += _result(entry.settled, with_output=False, name="settling result")
    return [*facts, ("expires at", f"{utc(entry.expires)} UTC")]


def _result(result: FlowResult, *, with_output: bool, name: str = "result") -> list[tuple[str, str | Text]]:
    style = "green" if result.status == "succeeded" else "red"
    facts: list[tuple[str, str | Text]] = [(name, Text(result.status.value, style))]
    if result.replay_of is not None:
        facts.append(("replay of", result.replay_of))
    if result.error is not None:
        facts.append(("error", masked(f"{result.error.code}: {result.error.message}")))
    if result.note is not None:
        facts.append(("note", result.note))
    if result.http_status is not None:
        facts.append(("HTTP status", str(result.http_status)))
    if result.run is not None and result.run.run_id:
        facts.append(("flow run", result.run.run_id))
    if result.run_url is not None:
        facts.append(("run page", result.run_url))
    if with_output:
        facts.append((_OUTPUT, json_text(result.output, indent=2)))
    return facts


def _timeline(entry: Entry) -> Table:
    table = Table(title="history (UTC)", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("time", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("event", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for event in entry.history:
        times = f" ({event.count} times)" if event.count > 1 else ""
        table.add_row(utc(event.at), str(event.number), plain(f"{event.kind}{times}"), plain(masked(event.detail)))
    return table
