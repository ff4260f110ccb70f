"""Renders deliveries for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow_worker.cli.terminal import plain, utc
from flow_worker.delivery.owed import Owed
from flow_worker.masking import masked


def print_list(console: Console, shown: Sequence[Owed], *, count: int) -> None:
    """Print the deliveries, and the number of all."""
    if shown:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("opened (UTC)")
        table.add_column("sink: state")
        table.add_column("flow: result", overflow="fold")
        table.add_column("next attempt", overflow="fold")
        table.add_column("message ID\ncorrelation ID", overflow="fold")
        for owed in shown:
            state = plain(f"{owed.sink}: {owed.state}")
            table.add_row(utc(owed.opened), state, _result(owed), _next(owed), _ids(owed))
        console.print(table)
    noun = "delivery waits or was" if count == 1 else "deliveries wait or were"
    console.print(f"{count} {noun} given up", style="bold", highlight=False)
    if count > len(shown):
        console.print(f"{count - len(shown)} more are not shown; see --limit.", highlight=False)


def _result(owed: Owed) -> Text:
    return plain(f"{owed.flow or '(unknown flow)'}: {owed.result.status.value if owed.result else 'no result yet'}")


def _next(owed: Owed) -> Text:
    trouble = "" if owed.trouble is None else f" ({owed.trouble.code}: {owed.trouble.cause})"
    if owed.is_given_up:
        return plain(masked(f"given up{trouble}"), "red")
    if owed.is_parked:
        return plain(masked(f"when the request ends{trouble}"))
    when = "none" if owed.next_look is None else f"at {utc(owed.next_look)}"
    return plain(masked(f"{when}, after {owed.attempts} failed{trouble}"), "yellow" if trouble else "")


def _ids(owed: Owed) -> Text:
    ids = dict.fromkeys([owed.replay_of, owed.message_id, owed.correlation_id])
    return Text("\n").join(plain(id_) for id_ in ids if id_)
