"""Renders the status of a worker at the terminal, in 80 columns and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flow_worker.cli.terminal import plain, utc

_STYLES = {"succeeded": "green", "refused": "yellow", "failed": "red", "unknown": "magenta", "expired": "yellow"}
_BREAKER_STYLES = {"open": "bold red", "half-open": "yellow"}
_MAX_RESULTS = 8
_FRAME_LINES = 10
"""The lines beside the rows of flows and results: headings, totals and empty lines."""

Json = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What the worker and the broker said."""

    url: str
    worker: Mapping[str, JsonValue] | None
    """None if no worker answers."""
    fault: str | None
    """The reason why there is no `worker`."""
    depths: Mapping[str, Mapping[str, JsonValue]]
    gateway: Mapping[str, JsonValue] | None = None
    """None if the settings have no gateway."""

    def as_json(self) -> JsonValue:
        """Return the report as JSON."""
        worker = None if self.worker is None else dict(self.worker)
        depths: dict[str, JsonValue] = {name: dict(depth) for name, depth in self.depths.items()}
        gateway = None if self.gateway is None else dict(self.gateway)
        return {"url": self.url, "worker": worker, "fault": self.fault, "depths": depths, "gateway": gateway}


def render(report: StatusReport, console: Console, max_lines: int | None = None) -> RenderableType:
    """Return the report, in `max_lines` at most: it leaves out idle flows and older results first."""
    worker = report.worker or {}
    queues, errors = _queues(report), [*_gateway(report), *_sinks(worker), *_errors(report)]
    if report.worker is None:
        return Group(plain(f"{report.url}: {report.fault}", "bold red"), Text(), queues, *errors)
    flows, results = _object(worker, "flows"), _object(worker, "results")
    last = [one for one in _list(results, "last") if isinstance(one, Mapping)]
    free = (
        None
        if max_lines is None
        else max_lines - _FRAME_LINES - queues.row_count - sum(-(-len(error) // console.width) for error in errors)
    )
    shown_flows = len(flows) if free is None else max(1, min(len(flows), free - 3))
    shown_results = _MAX_RESULTS if free is None else max(0, free - shown_flows)
    parts: list[RenderableType] = [
        _head(report.url, worker),
        Text(),
        queues,
        *errors,
        Text(),
        _flows(flows, shown_flows, names=max(16, min(40, console.width - 56))),
        Text(),
        _counts(_object(results, "counts")),
    ]
    if shown := last[: min(shown_results, _MAX_RESULTS)]:
        parts.append(_last(shown))
    return Group(*parts)


def _head(url: str, worker: Json) -> Text:
    ready = bool(worker.get("ready"))
    state = "draining" if worker.get("draining") else "ready" if ready else "not ready"
    since = _seconds_between(worker.get("started"), worker.get("now"))
    head = Text.assemble((state, "bold green" if ready else "bold red"), "  ", plain(url))
    head.append(f"  version {_text(worker, 'version')}")
    if since is not None:
        head.append(f"  up {_duration(since)}")
    offset = _object(worker, "clock").get("offset_seconds")
    if isinstance(offset, (int, float)) and abs(offset) >= 1:
        head.append(f"  clock {offset:+.1f} s", "yellow")
    journal = _object(worker, "journal")
    if journal.get("available") is False:
        head.append("\n").append_text(plain(f"journal: {_text(journal, 'last_error')}", "red"))
    return head


def _queues(report: StatusReport) -> Table:
    lanes = _object(report.worker or {}, "queues")
    table = _table("queue", "lanes", "active", "scheduled", "dead")
    for queue, depth in report.depths.items():
        lane = _object(lanes, queue)
        connected = f"{lane['connected']}/{lane['lanes']}" if lane else ""
        style = "red" if lane and lane["connected"] != lane["lanes"] else ""
        numbers = [_number(depth.get(name)) for name in ("active", "scheduled", "dead_lettered")]
        table.add_row(plain(queue), Text(connected, style), *numbers)
    return table


def _errors(report: StatusReport) -> list[Text]:
    """Return a line for each error, with the queues that have it. In the table it would take the columns' room."""
    lanes = _object(report.worker or {}, "queues")
    by_error: dict[str, list[str]] = {}
    for queue in report.depths:
        if error := _text(_object(lanes, queue), "last_error"):
            by_error.setdefault(error, []).append(queue)
    errors = [plain(f"{', '.join(queues)}: {error}", "red") for error, queues in by_error.items()]
    reasons = dict.fromkeys(str(depth["unknown"]) for depth in report.depths.values() if depth.get("unknown"))
    return [*errors, *([plain(f"unknown: {', '.join(reasons)}", "dim")] if reasons else [])]


def _gateway(report: StatusReport) -> list[Text]:
    """Return the line about the gateway of the settings, if there is one."""
    if report.gateway is None:
        return []
    url, fault = _text(report.gateway, "url"), _text(report.gateway, "fault")
    return [plain(f"gateway {url}: {fault or 'ready'}", "red" if fault else "green")]


def _sinks(worker: Json) -> list[Text]:
    """Return a line for each sink beside the reply queue."""
    lines = []
    for name, sink in _object(worker, "deliveries").items():
        state = sink if isinstance(sink, dict) else {}
        is_failing = state.get("available") is False
        text = f"delivery {name}: {'fails' if is_failing else 'ready'}, {_text(state, 'delivered')} delivered"
        if given_up := state.get("given_up"):
            text += f", {given_up} given up (flow-worker deliveries list --given-up)"
        if error := _text(state, "last_error"):
            text += f": {error}"
        lines.append(plain(text, "red" if is_failing or given_up else "green"))
    return lines


def _flows(flows: Json, count: int, *, names: int) -> Table:
    table = _table("flow", "in flight", "waiting", "calls/window", "avg s", "circuit breaker")
    table.columns[0].max_width = names
    table.columns[-1].justify = "left"
    ordered = sorted(flows, key=lambda name: (-_activity(_object(flows, name)), name))
    for name in ordered[:count]:
        flow = _object(flows, name)
        calls, limits = _object(flow, "calls"), _object(flow, "limits")
        average = calls.get("average_seconds")
        table.add_row(
            plain(name),
            f"{calls.get('in_flight')}/{limits.get('max_in_flight')}",
            str(calls.get("waiting")),
            f"{calls.get('calls_in_window')}/{limits.get('max_calls')}",
            f"{average:.2f}" if isinstance(average, (int, float)) else "",
            _breaker(calls),
        )
    if len(ordered) > count:
        table.caption = Text(f"{len(ordered) - count} more flows, with less to do", "dim")
        table.caption_justify = "left"
    return table


def _activity(flow: Json) -> int:
    calls = _object(flow, "calls")
    numbers = [calls.get(name) for name in ("in_flight", "waiting", "calls_in_window")]
    busy = sum(number for number in numbers if isinstance(number, int))
    return busy + (1_000_000 if calls.get("paused_by") or calls.get("circuit_breaker") != "closed" else 0)


def _breaker(calls: Json) -> Text:
    breaker = _text(calls, "circuit_breaker")
    text = plain(breaker, _BREAKER_STYLES.get(breaker, ""))
    until = calls.get("paused_until")
    if isinstance(until, str):
        code = "" if breaker == "open" else f", {_text(calls, 'paused_by')}"
        text.append_text(plain(f"{code} until {utc(datetime.fromisoformat(until))[11:]}"))
    return text


def _counts(counts: Json) -> Text:
    if not counts:
        return Text("results since the start: none", "bold")
    parts = ", ".join(f"{status} {count}" for status, count in counts.items())
    return plain(f"results since the start: {parts}", "bold")


def _last(results: Sequence[Json]) -> Table:
    table = _table("", "flow", "result", "calls", "s")
    for one in results:
        finished = one.get("finished")
        at = utc(datetime.fromisoformat(finished))[11:] if isinstance(finished, str) else ""
        status, code = _text(one, "status"), one.get("code")
        outcome = plain(f"{status} {code}" if code else status, _STYLES.get(status, ""))
        seconds = one.get("seconds")
        table.add_row(
            at,
            plain(str(one["flow"])) if one.get("flow") else Text("(not registered)", "dim"),
            outcome,
            str(one.get("attempts")),
            f"{seconds:.2f}" if isinstance(seconds, (int, float)) else "",
        )
    for column in (1, 2):
        table.columns[column].justify = "left"
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _number(value: JsonValue) -> Text:
    return Text("unknown", "dim") if value is None else Text(str(value))


def _object(parent: Json, name: str) -> Json:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _list(parent: Json, name: str) -> list[JsonValue]:
    value = parent.get(name)
    return value if isinstance(value, list) else []


def _text(parent: Json, name: str) -> str:
    value = parent.get(name)
    return "" if value is None else str(value)


def _seconds_between(first: JsonValue, last: JsonValue) -> float | None:
    if not isinstance(first, str) or not isinstance(last, str):
        return None
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
