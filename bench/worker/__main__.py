"""`python -m bench.worker`: the worker beside its floor and beside what a user would write."""

from __future__ import annotations

import json
from itertools import product
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from bench.worker import celery_load, latency, throughput
from bench.worker.report import FLOOR, PEER, Report, as_json, show
from bench.worker.stage import CELERY, CELERY_PREFORK, NAMES, WORKER, Cell

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    lanes: Annotated[list[int] | None, typer.Option(help="Default: 8 and 32.")] = None,
    pause: Annotated[list[float] | None, typer.Option(help="Milliseconds that a flow takes. Default: 0.")] = None,
    round_trip: Annotated[list[float] | None, typer.Option(help="Milliseconds to the broker. Default: 0.")] = None,
    who: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NAMES)}. Default: five of them.")] = None,
    matrix: Annotated[bool, typer.Option(help="All of 1, 8, 32, 100 lanes, 0 and 50 ms, 0 and 10 ms.")] = False,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long each run is watched at the most.")] = 5.0,
    requests: Annotated[int, typer.Option(min=20, help="How many there are at the most in each run.")] = 4000,
    latencies: Annotated[int, typer.Option(min=0, help="Requests timed in each run, idle and at half load.")] = 200,
    json_: Annotated[bool, typer.Option("--json", help="Print every run as JSON.")] = False,
) -> None:
    """Measure requests a second, processor time and latency, all in one run, by turns."""
    console = Console(stderr=json_)
    report = Report()
    subjects = _there(who or [FLOOR, PEER, CELERY, CELERY_PREFORK, WORKER], console)
    lanes = lanes or ([1, 8, 32, 100] if matrix else [8, 32])
    pause, round_trip = pause or ([0.0, 50.0] if matrix else [0.0]), round_trip or ([0.0, 10.0] if matrix else [0.0])
    cells = _cells(lanes, pause, round_trip, subjects)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("runs", total=rounds * (len(cells) + 2 * 2 * bool(latencies)))
        for _ in range(rounds):
            for cell in cells:
                progress.update(task, description=f"{cell.subject}, {cell.lanes} lanes")
                run = throughput.measure(cell, seconds=seconds, most=requests)
                report.throughput.setdefault(cell, []).append(run)
                progress.advance(task)
        for _ in range(rounds if latencies else 0):
            for cell, rate in _latency_runs(report):
                progress.update(task, description=f"{cell.subject}, latency")
                timed = latency.measure(cell, requests=latencies, per_second=rate)
                report.latency.setdefault((cell, rate), []).append(timed)
                progress.advance(task)
    show(console, report)
    if json_:
        typer.echo(json.dumps(as_json(report), indent=2))


def _there(subjects: list[str], console: Console) -> list[str]:
    """Those that can be measured here; of the others it is said why not."""
    why_not = {name: celery_load.missing(name) for name in subjects}
    for name, reason in why_not.items():
        if reason:
            console.print(f"Left out: {name}. {reason}.", markup=False, soft_wrap=True)
    return [name for name in subjects if not why_not[name]]


def _cells(lanes: list[int], pauses: list[float], round_trips: list[float], subjects: list[str]) -> list[Cell]:
    conditions = product(lanes, pauses, round_trips)
    return [Cell(name, count, pause, trip) for count, pause, trip in conditions for name in subjects]


def _latency_runs(report: Report) -> list[tuple[Cell, float | None]]:
    """Floor and worker, idle and at half of what the worker can do."""
    cells = [cell for cell in report.throughput if cell.subject == WORKER and not cell.pause_ms]
    if not cells:
        return []
    half = round(report.per_second(cells[0]) / 2)
    pair = [Cell(FLOOR, cells[0].lanes), Cell(WORKER, cells[0].lanes)]
    return [(cell, rate) for rate in (None, half) for cell in pair]


if __name__ == "__main__":
    cli()
