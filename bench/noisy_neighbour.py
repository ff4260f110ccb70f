"""Measures how much failing flows and a flooding sender slow down the others: `python -m bench.noisy_neighbour`.

Each round has its own emulator and worker, and two phases on the same queues. First, good requests run alone. Then they
run beside as many *noise* requests: half for a flow that never answers, half for a flow that throttles. At the same
time another sender floods the queue: half of its requests call the good flow, half carry no claim. The result is the
ratio of the good requests' median times from submit to result, over whole phases and second by second. The worker
has its default settings, except for the number of lanes, and it does not wait for running calls when it stops.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import httpx
import typer
from pydantic import JsonValue, SecretStr
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.phases import Comparison, Noise, Phase, Sample, as_json, by_second, summary_of
from bench.summary import Summary
from flow_contracts.client import Background, FlowClient
from flow_worker.demo.environment import ROLE, EmulatorClient, running_emulator, running_worker

GOAL = 1.2
"""The maximum for the ratio of the medians, with noise to alone."""
GOOD, HANGS, THROTTLED = "good", "hangs", "throttled"
BEHAVIOURS: Mapping[str, JsonValue] = {
    GOOD: {"delay_seconds": 0.02, "response": {"echo": True}},
    HANGS: {"faults": [{"kind": "hang"}]},
    THROTTLED: {"faults": [{"kind": "throttle", "retry_after": "5"}]},
}
_INPUT: JsonValue = {"customer": "Contoso", "note": "x" * 2000}
_WARM_UP = 20
_MAX_SECONDS = 120.0
_MIN_WIDTH = 100
"""Columns. On a narrower console, rich would cut the figures off."""


@dataclass(frozen=True, slots=True)
class Load:
    """The requests of each phase, and the lanes of the worker."""

    seconds: float
    good_per_second: float
    flood_per_second: float
    """The requests of the flooding sender."""
    lanes: int


def measure(rounds: int, load: Load, console: Console) -> Comparison:
    """Measure both phases in each round."""
    comparison = Comparison()
    with Progress(console=console, transient=True) as progress:
        for _ in progress.track(range(rounds), description="rounds"):
            alone, with_noise = _round(load)
            comparison.alone.append(alone)
            comparison.with_noise.append(with_noise)
    return comparison


def _round(load: Load) -> tuple[Phase, Phase]:
    """Run both phases, the undisturbed one first: hanging calls and postponed requests outlast their phase."""
    with TemporaryDirectory(prefix="flow-worker-bench-") as folder, running_emulator(Path(folder)) as emulator:
        for name, behaviour in BEHAVIOURS.items():
            httpx.put(f"{emulator.web_url}/emulator/flows/{name}", json=behaviour).raise_for_status()
        with running_worker(Path(folder), emulator, lambda client, port: _settings(client, port, load.lanes)):
            alone, with_noise = (asyncio.run(_run_phase(emulator, load, noisy=noisy)) for noisy in (False, True))
    return alone, with_noise


async def _run_phase(emulator: EmulatorClient, load: Load, *, noisy: bool) -> Phase:
    claim = SecretStr(emulator.mint("ada", ROLE))
    async with FlowClient.from_connection_string(emulator.connection_string) as client, client.background() as good:
        await asyncio.gather(*(_timed(good, claim) for _ in range(_WARM_UP)))
        async with asyncio.TaskGroup() as tasks:
            noise = tasks.create_task(_send_noise(client, claim, load)) if noisy else None
            flood = tasks.create_task(_send_flood(client, emulator, load)) if noisy else None
            samples = await _send_good(good, claim, load)
            sent = await noise if noise is not None else 0
            flooded = await flood if flood is not None else 0
        return Phase(samples, await _count_noise(emulator, sent, flooded) if noisy else None)


async def _send_good(good: Background, claim: SecretStr, load: Load) -> list[Sample]:
    """Send good requests at a steady rate, however long each takes.

    If each request waited for the one before, a slow worker would get fewer requests, and the median would hide it.
    """
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        pending = []
        for number in range(round(load.seconds * load.good_per_second)):
            await asyncio.sleep(began + number / load.good_per_second - time.perf_counter())
            pending.append(tasks.create_task(_timed(good, claim)))
    return [Sample(number / load.good_per_second, task.result()) for number, task in enumerate(pending)]


async def _timed(good: Background, claim: SecretStr) -> float:
    began = time.perf_counter()
    result = await good.request(GOOD, _INPUT, _MAX_SECONDS, claim=claim)
    if result.status != "succeeded":
        raise RuntimeError(f"a good request has the status {result.status}, expected succeeded: {result.error}")
    return time.perf_counter() - began


async def _send_noise(client: FlowClient, claim: SecretStr, load: Load) -> int:
    """Send as many requests as the good ones, in turn to both failing flows, and do not wait for results."""
    began = time.perf_counter()
    requests = round(load.seconds * load.good_per_second)
    for number in range(requests):
        await asyncio.sleep(began + number / load.good_per_second - time.perf_counter())
        await client.submit((HANGS, THROTTLED)[number % 2], _INPUT, claim=claim)
    return requests


async def _send_flood(client: FlowClient, emulator: EmulatorClient, load: Load) -> int:
    """Send requests of another sender, in turn for the good flow and without a claim, and do not wait for results."""
    claim = SecretStr(emulator.mint("bob", ROLE))
    began = time.perf_counter()
    requests = round(load.seconds * load.flood_per_second)
    for number in range(requests):
        await asyncio.sleep(began + number / load.flood_per_second - time.perf_counter())
        await client.submit(GOOD, _INPUT, claim=None if number % 2 else claim)
    return requests


async def _count_noise(emulator: EmulatorClient, sent: int, flooded: int) -> Noise:
    """Count the calls that reached the failing flows."""
    async with httpx.AsyncClient(base_url=f"{emulator.web_url}/emulator/flows") as control:
        answers = [await control.get(f"/{flow}/calls") for flow in (HANGS, THROTTLED)]
    calls = [call for answer in answers for call in answer.raise_for_status().json()["calls"]]
    called = {call["client_tracking_id"] for call in calls}
    return Noise(sent, len(called), sum(call["status"] is None for call in calls), flooded)


def _settings(emulator: EmulatorClient, health_port: int, lanes: int) -> str:
    base, tenant = emulator.web_url, emulator.issuer.split("/")[3]
    flows = "".join(
        f'[flows.{name}]\nurl = "{emulator.flows_url}/{name}/triggers/manual/paths/invoke?api-version=1"\n'
        f'role = "{ROLE}"\n\n'
        for name in BEHAVIOURS
    )
    return f"""plain_http_hosts = ["{base.split("/")[2]}"]
shutdown_grace_seconds = 0

[claims]
authority = "{base}"
tenants = ["{tenant}"]
audiences = ["{emulator.audience}"]

[[request_queues]]
name = "flow-requests"
lanes = {lanes}

[health]
port = {health_port}

{flows}"""


# --- output ------------------------------------------------------------------------------------------------------


def _show(comparison: Comparison, load: Load, console: Console) -> None:
    rate = load.good_per_second
    noise = f"{rate:g} noise requests/s and a flood of {load.flood_per_second:g}/s"
    console.print(f"{rate:g} good requests/s, alone and beside {noise}; {load.lanes} lanes")
    console.print(_phase_table(comparison))
    console.print(_second_table(comparison))
    console.print(f"Ratio of the medians: {comparison.ratio:.2f} (goal: at most {GOAL:g})")


def _phase_table(comparison: Comparison) -> Table:
    table = _table("round", "phase", "requests", "median", "p99", "noise: sent", "called", "hanging", "flood")
    for number, (alone, with_noise) in enumerate(zip(comparison.alone, comparison.with_noise, strict=True), 1):
        table.add_row(str(number), "alone", *_summary_cells(alone.summary))
        noise_cells = _noise_cells(with_noise.noise)
        table.add_row("", "with noise", *_summary_cells(with_noise.summary), *noise_cells, end_section=True)
    table.add_row("all", "alone", *_summary_cells(summary_of(comparison.alone)))
    table.add_row("", "with noise", *_summary_cells(summary_of(comparison.with_noise)))
    return table


def _second_table(comparison: Comparison) -> Table:
    """Return the medians of all phases second by second: the median over whole phases hides a slow start."""
    alone, with_noise = by_second(comparison.alone), by_second(comparison.with_noise)
    table = _table("second", "alone, median", "with noise, median", "ratio")
    for second in sorted(alone.keys() & with_noise.keys()):
        medians = alone[second].median, with_noise[second].median
        table.add_row(str(second), *(_ms(median) for median in medians), f"{medians[1] / medians[0]:.2f}")
    return table


def _table(*columns: str) -> Table:
    table = Table()
    for name in columns:
        table.add_column(name, justify="left" if name in {"round", "second", "phase"} else "right")
    return table


def _summary_cells(summary: Summary) -> tuple[str, str, str]:
    return str(summary.count), _ms(summary.median), _ms(summary.p99)


def _noise_cells(noise: Noise | None) -> tuple[str, ...]:
    return (str(noise.sent), str(noise.called), str(noise.hanging), str(noise.flooded)) if noise else ()


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often both phases run.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.5, help="Duration of a phase.")] = 15.0,
    rate: Annotated[
        float, typer.Option(min=1, help="Good requests a second, and as many noise requests a second.")
    ] = 15.0,
    flood: Annotated[float, typer.Option(min=1, help="Requests a second of the flooding sender.")] = 15.0,
    lanes: Annotated[int, typer.Option(min=2, help="Lanes of the request queue.")] = 8,
    check: Annotated[bool, typer.Option("--check", help=f"Exit with 1 if the ratio is above {GOAL:g}.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure how much failing flows and a flooding sender slow down the others, as a ratio of median times."""
    load = Load(seconds, rate, flood, lanes)
    console = Console(stderr=json_)
    console.width = max(console.width, _MIN_WIDTH)
    comparison = measure(rounds, load, console)
    if json_:
        sys.stdout.write(json.dumps({"load": asdict(load), "goal": GOAL} | as_json(comparison), indent=2) + "\n")
    else:
        _show(comparison, load, console)
    if check and comparison.ratio > GOAL:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
