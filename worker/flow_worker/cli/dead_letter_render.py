"""Dead letters at the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import JsonValue
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow_worker.cli.dead_letter_actions import Settled
from flow_worker.cli.dead_letter_filter import by_reason
from flow_worker.cli.dead_letter_view import Letter
from flow_worker.cli.terminal import plain

_MAX_DESCRIPTION = 160
_MAX_NAMED = 20
_UUID = 36
_MAX_ID = 56
_WIDE = 110
"""Columns of a terminal that has room for a time in one line."""


def when(time: datetime) -> str:
    """In UTC, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def listed(console: Console, letters: Sequence[Letter], limit: int | None) -> None:
    """The first `limit` of them by queue, and how many there are of each reason."""
    shown = letters[:limit] if limit else letters
    for queue in dict.fromkeys(letter.queue for letter in shown):
        console.print(_table(queue, [letter for letter in shown if letter.queue == queue], wide=console.width >= _WIDE))
    console.print(counted(letters))
    if len(shown) < len(letters):
        console.print(f"{len(letters) - len(shown)} more are not shown.", highlight=False)


def counted(letters: Sequence[Letter]) -> Text:
    """How many there are, and of each reason."""
    reasons = ", ".join(f"{count} {reason or 'no reason given'}" for reason, count in by_reason(letters))
    return plain(f"{_messages(len(letters))}{': ' if reasons else ''}{reasons}", "bold")


def _table(queue: str, letters: Sequence[Letter], *, wide: bool) -> Table:
    table = Table(
        title=plain(f"dead letters of {queue}"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("enqueued (UTC)", width=19 if wide else 10)
    table.add_column("message ID\ncorrelation ID", width=_id_width(letters) if wide else _UUID, overflow="fold")
    table.add_column("flow: reason\ndescription", overflow="fold")
    for letter in letters:
        table.add_row(str(letter.sequence_number), when(letter.enqueued_at), _ids(letter), _why(letter))
    return table


def _id_width(letters: Sequence[Letter]) -> int:
    longest = max(len(one or "") for letter in letters for one in (letter.message_id, letter.correlation_id))
    return max(_UUID, min(longest, _MAX_ID))


def _ids(letter: Letter) -> Text:
    ids = plain(letter.message_id or "(none)")
    if letter.correlation_id != letter.message_id:
        ids.append("\n").append_text(plain(letter.correlation_id, "dim"))
    return ids


def _why(letter: Letter) -> Text:
    flow = plain(letter.flow, "cyan") if letter.flow is not None else Text("(unreadable)", "red")
    short = letter.description[:_MAX_DESCRIPTION]
    short += "…" if short != letter.description else ""
    why = flow.append(": ").append_text(plain(letter.reason or "no reason given", "yellow"))
    return why.append("\n").append_text(plain(short.replace("\n", " "), "dim")) if short else why


def whole(console: Console, document: dict[str, JsonValue]) -> None:
    """Everything of one, a line for each thing."""
    console.print(plain(f"Dead letter {document['sequence_number']} of {document['queue']}", "bold cyan"))
    parts = {name: value for name, value in document.items() if isinstance(value, dict)}
    console.print(_grid({name: value for name, value in document.items() if name not in parts}))
    for name, part in parts.items():
        if part:
            console.print(plain(name.replace("_", " "), "bold cyan"))
            console.print(_grid(part))


def _grid(part: Mapping[str, JsonValue]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in part.items():
        if name == "input" or value not in (None, ""):
            text = value if isinstance(value, str) and name != "input" else _json(value)
            grid.add_row(plain(name.replace("_", " ")), plain(text))
    return grid


def _json(value: JsonValue) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def settled(console: Console, outcomes: Sequence[Settled], done: str) -> None:
    """How many were done, the new message IDs unless they are many, and each one that was left with its reason."""
    left = [one for one in outcomes if one.left is not None]
    new = [one for one in outcomes if one.new_message_id is not None]
    for one in new if len(new) <= _MAX_NAMED else []:
        console.print(plain(f"{_name(one.letter)} goes on as {one.new_message_id}"), soft_wrap=True)
    for one in left:
        console.print(plain(f"{_name(one.letter)} is left: {one.left}", "yellow"), soft_wrap=True)
    summary = f"{done} {_messages(len(outcomes) - len(left))}, left {len(left)}."
    console.print(summary, style="yellow" if left else "green", highlight=False)


def _name(letter: Letter) -> str:
    return f"{letter.queue} {letter.sequence_number}"


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
