"""Measures what the worst input of a stranger costs a running worker: `python -m bench.hostile`.

Each attack has its own emulator and worker with default settings. An ordinary sender sends ten requests a second
beside it. The figures are:

- the longest time for which the worker's event loop ran nothing else, and the most processor time that the worker's
  threads used meanwhile, which other programs on the machine do not prolong;
- the peak of the worker's memory, above that before the attack;
- the times of the ordinary sender, from submit to result.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.hostile.measurement import ATTACKS, STUCK_SECONDS, Attack, Cost, cost_of

MAX_LOOP_MS = 100.0
MAX_ADDED_MB = 160.0
"""The worker's 16 lanes may each hold a body of at most 8 MiB (`http.max_response_bytes`), and 8 requests of 1 MiB."""
_MIN_WIDTH = 120


def is_within(cost: Cost, alone: Cost | None) -> bool:
    """Return whether the attack kept to the limits, beyond what the machine itself costs without an attack."""
    noise = alone.loop_ms if alone is not None and alone.loop_ms is not None else 0.0
    return cost.loop_ms is not None and cost.loop_ms - noise <= MAX_LOOP_MS and cost.added_mb <= MAX_ADDED_MB


def _table(costs: dict[Attack, Cost]) -> Table:
    table = Table()
    table.add_column("from")
    table.add_column("input")
    for name in ("loop, longest", "its CPU", "memory, added", "others, median", "others, slowest"):
        table.add_column(name, justify="right")
    for attack, cost in costs.items():
        times = (cost.loop_ms, cost.cpu_ms, cost.median_ms, cost.slowest_ms)
        loop, cpu, median, slowest = map(_ms, times)
        table.add_row(attack.source, attack.name, loop, cpu, f"{cost.added_mb:,.0f} MB", median, slowest)
    return table


def _ms(milliseconds: float | None) -> str:
    return f"> {STUCK_SECONDS:g} s" if milliseconds is None else f"{milliseconds:,.0f} ms"


def _as_json(costs: dict[Attack, Cost]) -> str:
    rows = [
        {
            "source": attack.source,
            "input": attack.name,
            "loop_ms": cost.loop_ms,
            "cpu_ms": cost.cpu_ms,
            "added_mb": cost.added_mb,
            "others_median_ms": cost.median_ms,
            "others_slowest_ms": cost.slowest_ms,
        }
        for attack, cost in costs.items()
    ]
    return json.dumps({"limits": {"loop_ms": MAX_LOOP_MS, "added_mb": MAX_ADDED_MB}, "attacks": rows}, indent=2)


def main(
    seconds: Annotated[float, typer.Option(min=0.5, help="Duration of each attack.")] = 5.0,
    only: Annotated[list[str] | None, typer.Option(help="A part of an attack's name. Repeatable.")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help=f"Exit with 1 above {MAX_LOOP_MS:g} ms of the loop or {MAX_ADDED_MB:g} MB."),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure what the worst input of a stranger costs: milliseconds of the loop and megabytes of memory."""
    console = Console(stderr=json_)
    console.width = max(console.width, _MIN_WIDTH)
    attacks = [attack for attack in ATTACKS if not only or any(part in attack.name for part in only)]
    costs: dict[Attack, Cost] = {}
    with Progress(console=console, transient=True) as progress:
        for attack in progress.track(attacks, description="attacks"):
            costs[attack] = asyncio.run(cost_of(attack, seconds))
    if json_:
        sys.stdout.write(_as_json(costs) + "\n")
    else:
        console.print(_table(costs))
    alone = next((cost for attack, cost in costs.items() if attack.source == "-"), None)
    beyond = [attack.name for attack, cost in costs.items() if not is_within(cost, alone)]
    if check and beyond:
        console.print(f"Beyond the limits: {', '.join(beyond)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
