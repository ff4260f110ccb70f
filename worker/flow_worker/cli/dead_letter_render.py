"""Renders dead letters, and the outcomes of actions on them, at the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import JsonValue
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow_worker.cli.short_ids import short_ids
from flow_worker.cli.terminal import json_text, plain, utc, visible
from flow_worker.dead_letters.actions import DeadLetterOutcome
from flow_worker.dead_letters.filter import count_by_reason
from flow_worker.dead_letters.view import DeadLetterView

_MAX_DESCRIPTION = 1000
"""The worker's own descriptions are shorter. A sender can dead-letter with any text, and `show` has all of it."""
_MAX_NEW_IDS = 20
_WIDE = 110
"""The terminal width in columns from which a time fits on one line."""


def print_list(console: Console, views: Sequence[DeadLetterView], limit: int | None) -> None:
    """Print the first `limit` dead letters by queue, and the number of all by reason."""
    shown = views[:limit] if limit else views
    for queue in dict.fromkeys(view.queue for view in shown):
        console.print(_table(queue, [view for view in shown if view.queue == queue], wide=console.width >= _WIDE))
    console.print(totals(views))
    if len(shown) < len(views):
        console.print(f"{len(views) - len(shown)} more are not shown.", highlight=False)


def totals(views: Sequence[DeadLetterView]) -> Text:
    """Return the number of dead letters, and the number by reason."""
    reasons = ", ".join(f"{count} {reason or 'without a reason'}" for reason, count in count_by_reason(views))
    return plain(f"{_messages(len(views))}{': ' if reasons else ''}{reasons}", "bold")


def _table(queue: str, views: Sequence[DeadLetterView], *, wide: bool) -> Table:
    table = Table(
        title=plain(f"dead letters of {queue}"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("enqueued (UTC)", width=19 if wide else 10)
    short = short_ids(visible(id_) for view in views for id_ in _ids(view))
    table.add_column("request ID\ncorrelation ID", max_width=36 if wide else 21, overflow="fold")
    table.add_column("flow: reason\ndescription", overflow="fold", ratio=1)
    for view in views:
        request, *correlation = [Text(short[visible(id_)]) for id_ in _ids(view)] or [Text("(no ID)")]
        for other in correlation:
            request.append("\n").append_text(other)
        table.add_row(str(view.sequence_number), utc(view.enqueued_at), request, _reason(view))
    return table


def _ids(view: DeadLetterView) -> list[str]:
    """Return the IDs by which the sender knows the request. The ID of a continuation message is none of them."""
    own = [view.request_message_id or view.message_id, view.correlation_id]
    return list(dict.fromkeys(id_ for id_ in own if id_))


def _reason(view: DeadLetterView) -> Text:
    flow = plain(view.flow, "cyan") if view.flow is not None else Text("(unreadable)", "red")
    description = view.description[:_MAX_DESCRIPTION]
    description += "…" if description != view.description else ""
    reason = flow.append(": ").append_text(plain(view.reason or "without a reason", "yellow"))
    return reason.append("\n").append_text(plain(description.replace("\n", " "), "dim")) if description else reason


def print_details(console: Console, document: dict[str, JsonValue]) -> None:
    """Print the whole of one dead letter, one member per line."""
    console.print(plain(f"Dead letter {document['sequence_number']} of {document['queue']}", "bold cyan"))
    parts = {name: value for name, value in document.items() if isinstance(value, dict)}
    console.print(_grid({name: value for name, value in document.items() if name not in parts}))
    for name, part in parts.items():
        if part:
            console.print(plain(_label(name), "bold cyan"))
            console.print(_grid(part))


def _grid(part: Mapping[str, JsonValue]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in part.items():
        if name == "input" or value not in (None, ""):
            grid.add_row(plain(_label(name)), _cell(name, value))
    return grid


def _cell(name: str, value: JsonValue) -> Text:
    if isinstance(value, str) and name != "input":
        return plain(value)
    return plain(json_text(value, indent=2), multiline=True)


def _label(name: str) -> str:
    """Return a field's name as the pages write it: `message_id` becomes "message ID"."""
    return " ".join("ID" if word == "id" else word for word in name.split("_"))


def print_run_notes(console: Console, views: Sequence[DeadLetterView]) -> None:
    """Print what the records of flow runs say: a line for each dead letter with a run, and a line for the others."""
    others: Counter[str] = Counter()
    for view in views:
        if view.run is None:
            continue
        if view.run.has_run:
            console.print(plain(f"{_name(view)}: {view.run.sentence}", "yellow"), soft_wrap=True)
        else:
            others[view.run.sentence] += 1
    for sentence, count in others.items():
        console.print(plain(f"{_messages(count)}: {sentence}"), soft_wrap=True)


def print_outcomes(console: Console, outcomes: Sequence[DeadLetterOutcome], verb: str) -> None:
    """Print the totals, the new message IDs unless they are many, and the reason of each message that remains."""
    left = [outcome for outcome in outcomes if outcome.left is not None]
    new = [outcome for outcome in outcomes if outcome.new_message_id is not None]
    for outcome in new if len(new) <= _MAX_NEW_IDS else []:
        console.print(plain(f"{_name(outcome.view)}: replayed as {outcome.new_message_id}"), soft_wrap=True)
    for outcome in left:
        console.print(plain(f"{_name(outcome.view)} remains: {outcome.left}", "yellow"), soft_wrap=True)
    summary = f"{verb} {_messages(len(outcomes) - len(left))}, left {len(left)}."
    console.print(summary, style="yellow" if left else "green", highlight=False)


def _name(view: DeadLetterView) -> str:
    return f"Dead letter {view.sequence_number} of {view.queue}"


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
