"""`python -m bench.worker.steady`: what many requests do to the memory, and a broken connection to the time."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from bench.worker.latency import Sender
from bench.worker.load import claims, fill
from bench.worker.stage import WORKER, Cell, Stage, running
from bench.worker.subjects import REPLIES, REQUESTS

_AT_ONCE = 1000
"""Requests that are put into the queue together; as many wait there at most when more are added."""
_SETTLED_SECONDS = 3.0
"""After which a worker without requests is idle."""
_NOTICED_SECONDS = 0.2
"""The broker knows by then that a connection is broken. What it hands to one before waits for its lock to end, which
would be all that is measured.
"""
_WARM_UP = 0.2
"""The slope leaves out this part of the requests: caches fill up then."""
_PARTS = 10

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Memory:
    """What the worker held (RSS in MB) after so many results."""

    results: int
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Steadiness:
    """Of one run."""

    memory: Sequence[Memory]
    """The first one: idle, before any request."""
    recovery_seconds: Sequence[float]
    """Each from the sending of a request, a moment after all connections were broken, to its result."""
    undisturbed_seconds: float
    """The median time of such a request otherwise."""

    @property
    def slope(self) -> float:
        """MB more for each 100,000 requests, once it is warm (least squares)."""
        return slope([one for one in self.memory if one.results >= _WARM_UP * self.memory[-1].results])


def slope(memory: Sequence[Memory]) -> float:
    """MB more for each 100,000 results. Raises `statistics.StatisticsError` for fewer than two points."""
    points = [(one.results, one.rss_mb) for one in memory]
    return 100_000 * statistics.linear_regression(*zip(*points, strict=True)).slope


@cli.command()
def main(
    requests: Annotated[int, typer.Option(min=20)] = 200_000,
    lanes: Annotated[int, typer.Option(min=1)] = 8,
    breaks: Annotated[int, typer.Option(min=1)] = 10,
    json_: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Work off many requests and watch the memory; then break connections and watch the time."""
    console = Console(stderr=json_)
    cell = Cell(WORKER, lanes)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("requests", total=requests)
        with running(cell) as stage:
            memory = asyncio.run(_held(stage, requests, progress, task))
        task = progress.add_task("broken connections", total=breaks)
        with running(cell, breakable=True) as stage:
            usual, broken = asyncio.run(_broken(stage, breaks, progress, task))
    steadiness = Steadiness(memory, broken, usual)
    _show(console, steadiness)
    if json_:
        typer.echo(json.dumps({**asdict(steadiness), "mb_for_100_000": steadiness.slope}, indent=2))


async def _held(stage: Stage, requests: int, progress: Progress, task: TaskID) -> list[Memory]:
    await asyncio.sleep(_SETTLED_SECONDS)
    memory, sent, tokens = [Memory(0, stage.rss_mb())], 0, claims(stage.emulator)
    async with httpx.AsyncClient(base_url=stage.emulator.web_url, timeout=30) as http:
        while memory[-1].results < requests:
            counts = (await http.get("/emulator/queues")).json()
            results = counts[REPLIES]["active"]
            progress.update(task, completed=results)
            if results > memory[-1].results:
                memory.append(Memory(results, stage.rss_mb()))
            if sent < requests and counts[REQUESTS]["active"] < _AT_ONCE:
                sent += (more := min(_AT_ONCE, requests - sent))
                await fill(stage.emulator, more, tokens)
            else:
                await asyncio.sleep(0.2)
    return memory


async def _broken(stage: Stage, breaks: int, progress: Progress, task: TaskID) -> tuple[float, list[float]]:
    async with Sender.open(stage) as sender:
        usual = [await _seconds(sender) for _ in range(50)]
        recovered = []
        for _ in range(breaks):
            stage.break_connections()
            await asyncio.sleep(_NOTICED_SECONDS)
            recovered.append(await _seconds(sender))
            progress.advance(task)
            await asyncio.sleep(_SETTLED_SECONDS)
    return statistics.median(usual), recovered


async def _seconds(sender: Sender) -> float:
    began = time.monotonic()
    await sender.ask()
    return time.monotonic() - began


def _show(console: Console, steadiness: Steadiness) -> None:
    table = Table(title="memory of the worker", title_justify="left")
    for name in ("results", "RSS"):
        table.add_column(name, justify="right")
    memory = steadiness.memory
    step = max(1, memory[-1].results // _PARTS)
    shown = [memory[0], *(next(m for m in memory if m.results >= part * step) for part in range(1, _PARTS + 1))]
    for one in shown:
        table.add_row(f"{one.results:,}" if one.results else "none yet", f"{one.rss_mb:.1f} MB")
    console.print(table)
    console.print(f"Slope, once warm: {steadiness.slope:+.2f} MB for each 100,000 requests.")
    times = sorted(steadiness.recovery_seconds)
    console.print(
        f"All connections broken: the result of a request sent just after that came in {statistics.median(times):.2f}"
        f" s (median of {len(times)}; {times[0]:.2f} to {times[-1]:.2f} s), otherwise in "
        f"{1000 * steadiness.undisturbed_seconds:.1f} ms."
    )


if __name__ == "__main__":
    cli()
