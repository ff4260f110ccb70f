"""Measures the worker's memory over many requests, and its recovery from broken connections: `bench.worker.soak`."""

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

from bench.worker.baselines import REPLIES, REQUESTS
from bench.worker.case import Case, Subject
from bench.worker.environment import Environment, running
from bench.worker.latency import Requester
from bench.worker.load import claims, fill_queue

_BATCH = 1000
"""Requests that are sent together, and the number of waiting requests below which the benchmark sends more."""
_IDLE_SECONDS = 3.0
"""After this time without requests the worker is idle."""
_DETECTION_SECONDS = 0.2
"""By then the broker has noticed the broken connections.

It may hand a message to a connection that it does not know to be broken. That message returns only when its lock
expires, and the benchmark would measure the lock duration.
"""
_WARM_UP = 0.2
"""The slope ignores this fraction of the requests, during which caches fill up."""
_PARTS = 10

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class MemorySample:
    """The worker's resident memory after this many results."""

    results: int
    rss_mb: float


@dataclass(frozen=True, slots=True)
class SoakResult:
    """The measurements of one run."""

    memory: Sequence[MemorySample]
    """The first sample is from the idle worker, before any request."""
    recovery_seconds: Sequence[float]
    """From the sending of a request, just after all connections broke, to its result."""
    undisturbed_seconds: float
    """The median time of such a request without a broken connection."""

    @property
    def slope(self) -> float:
        """The growth of the memory after the warm-up, in MB per 100,000 requests (least squares)."""
        warm_up = _WARM_UP * self.memory[-1].results
        return slope([sample for sample in self.memory if sample.results >= warm_up])


def slope(memory: Sequence[MemorySample]) -> float:
    """Return the growth in MB per 100,000 results. Raise `StatisticsError` for fewer than two samples."""
    points = [(sample.results, sample.rss_mb) for sample in memory]
    return 100_000 * statistics.linear_regression(*zip(*points, strict=True)).slope


@cli.command()
def main(
    requests: Annotated[int, typer.Option(min=20, help="Number of requests for the memory measurement.")] = 200_000,
    lanes: Annotated[int, typer.Option(min=1, help="Lanes of the request queue.")] = 8,
    breaks: Annotated[int, typer.Option(min=1, help="How often all connections to the broker break.")] = 10,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the measurements as JSON; the tables go to stderr.")
    ] = False,
) -> None:
    """Measure the worker's memory over many requests, then its recovery from broken connections."""
    console = Console(stderr=json_)
    case = Case(Subject.WORKER, lanes)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("requests", total=requests)
        with running(case) as environment:
            memory = asyncio.run(_measure_memory(environment, requests, progress, task))
        task = progress.add_task("broken connections", total=breaks)
        with running(case, breakable=True) as environment:
            undisturbed, recovery = asyncio.run(_measure_recovery(environment, breaks, progress, task))
    result = SoakResult(memory, recovery, undisturbed)
    _show(console, result)
    if json_:
        typer.echo(json.dumps({**asdict(result), "mb_per_100_000_requests": result.slope}, indent=2))


async def _measure_memory(
    environment: Environment, requests: int, progress: Progress, task: TaskID
) -> list[MemorySample]:
    await asyncio.sleep(_IDLE_SECONDS)
    memory, sent = [MemorySample(0, environment.rss_mb())], 0
    tokens = claims(environment.emulator)  # the same for all requests: see `fill_queue`
    async with httpx.AsyncClient(base_url=environment.emulator.web_url, timeout=30) as http:
        while memory[-1].results < requests:
            counts = (await http.get("/emulator/queues")).json()
            results = counts[REPLIES]["active"]
            progress.update(task, completed=results)
            if results > memory[-1].results:
                memory.append(MemorySample(results, environment.rss_mb()))
            if sent < requests and counts[REQUESTS]["active"] < _BATCH:
                batch = min(_BATCH, requests - sent)
                sent += batch
                await fill_queue(environment.emulator, batch, tokens)
            else:
                await asyncio.sleep(0.2)
    return memory


async def _measure_recovery(
    environment: Environment, breaks: int, progress: Progress, task: TaskID
) -> tuple[float, list[float]]:
    """Return the undisturbed median and the recovery time after each break, in seconds."""
    async with Requester.open(environment) as requester:
        undisturbed = [await _seconds(requester) for _ in range(50)]
        recovery = []
        for _ in range(breaks):
            environment.break_connections()
            await asyncio.sleep(_DETECTION_SECONDS)
            recovery.append(await _seconds(requester))
            progress.advance(task)
            await asyncio.sleep(_IDLE_SECONDS)
    return statistics.median(undisturbed), recovery


async def _seconds(requester: Requester) -> float:
    began = time.monotonic()
    await requester.time_request()
    return time.monotonic() - began


def _show(console: Console, result: SoakResult) -> None:
    table = Table(title="Memory of the worker", title_justify="left")
    for name in ("results", "RSS"):
        table.add_column(name, justify="right")
    memory = result.memory
    step = max(1, memory[-1].results // _PARTS)
    parts = [next(sample for sample in memory if sample.results >= part * step) for part in range(1, _PARTS + 1)]
    for sample in (memory[0], *parts):
        table.add_row(f"{sample.results:,}", f"{sample.rss_mb:.1f} MB")
    console.print(table)
    console.print(f"Growth after the warm-up: {result.slope:+.2f} MB per 100,000 requests.")
    times = sorted(result.recovery_seconds)
    console.print(
        f"After all connections broke, the result of the next request arrived after {statistics.median(times):.2f} s "
        f"(median of {len(times)}; {times[0]:.2f} to {times[-1]:.2f} s); "
        f"undisturbed after {1000 * result.undisturbed_seconds:.1f} ms."
    )


if __name__ == "__main__":
    cli()
