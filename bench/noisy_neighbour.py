"""How much one flow's trouble costs the others: `python -m bench.noisy_neighbour` (`make bench`).

Each round has an emulator and a worker of its own, and two turns: good flows alone; then the same with as many requests
again for a flow that hangs and one that is throttled. Said is the ratio of the good requests' median time, from submit
to result, and how the median runs second by second. The worker has its default settings, except that its lanes may be
set, and that it does not wait for calls under way when it is stopped.
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

from bench.samples import Summary
from bench.turns import Measured, Noise, Sample, Turn, as_json, by_second, summary_of
from flow_contracts.client import Background, FlowClient
from flow_worker.demo.environment import ROLE, EmulatorClient, running_emulator, running_worker

GOAL = 1.2
"""The good requests' median time may be so many times what it is alone."""
GOOD, HANGS, THROTTLED = "good", "hangs", "throttled"
BEHAVIOURS: Mapping[str, JsonValue] = {
    GOOD: {"delay_seconds": 0.02, "response": {"echo": True}},
    HANGS: {"faults": [{"kind": "hang"}]},
    THROTTLED: {"faults": [{"kind": "throttle", "retry_after": "5"}]},
}
_INPUT: JsonValue = {"customer": "Contoso", "note": "x" * 2000}
_WARM_UP = 20
_MAX_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the worker in each turn."""

    seconds: float
    good_per_second: float
    lanes: int


def measure(rounds: int, load: Load, console: Console) -> Measured:
    """`rounds` times alone and then beside trouble."""
    measured = Measured()
    with Progress(console=console, transient=True) as progress:
        for _ in progress.track(range(rounds), description="rounds"):
            alone, beside = _round(load)
            measured.alone.append(alone)
            measured.beside.append(beside)
    return measured


def _round(load: Load) -> tuple[Turn, Turn]:
    """Alone first: calls that hang, and requests put off, outlast the turn."""
    with TemporaryDirectory(prefix="flow-worker-bench-") as folder, running_emulator(Path(folder)) as emulator:
        for name, behaviour in BEHAVIOURS.items():
            httpx.put(f"{emulator.web_url}/emulator/flows/{name}", json=behaviour).raise_for_status()
        with running_worker(Path(folder), emulator, lambda said, port: _settings(said, port, load.lanes)):
            alone, beside = (asyncio.run(_play(emulator, load, noisy=noisy)) for noisy in (False, True))
    return alone, beside


async def _play(emulator: EmulatorClient, load: Load, *, noisy: bool) -> Turn:
    claim = SecretStr(emulator.mint("ada", ROLE))
    async with FlowClient.from_connection_string(emulator.connection_string) as client, client.background() as good:
        await asyncio.gather(*(_timed(good, claim) for _ in range(_WARM_UP)))
        async with asyncio.TaskGroup() as tasks:
            noise = tasks.create_task(_noise(client, claim, load)) if noisy else None
            samples = await _at_rate(good, claim, load)
            sent = await noise if noise is not None else None
        return Turn(samples, await _became_of(emulator, sent) if sent is not None else None)


async def _at_rate(good: Background, claim: SecretStr, load: Load) -> list[Sample]:
    """Requests at a steady rate, however long each takes."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        asked = []
        for number in range(round(load.seconds * load.good_per_second)):
            await asyncio.sleep(began + number / load.good_per_second - time.perf_counter())
            asked.append(tasks.create_task(_timed(good, claim)))
    return [Sample(number / load.good_per_second, task.result()) for number, task in enumerate(asked)]


async def _timed(good: Background, claim: SecretStr) -> float:
    began = time.perf_counter()
    result = await good.request(GOOD, _INPUT, _MAX_SECONDS, claim=claim)
    if result.status != "succeeded":
        raise RuntimeError(f"a good request ended {result.status}: {result.error}")
    return time.perf_counter() - began


async def _noise(client: FlowClient, claim: SecretStr, load: Load) -> int:
    """As many requests as the good ones, for the two flows in trouble by turns; nobody waits for their results."""
    began = time.perf_counter()
    requests = round(load.seconds * load.good_per_second)
    for number in range(requests):
        await asyncio.sleep(began + number / load.good_per_second - time.perf_counter())
        await client.submit((HANGS, THROTTLED)[number % 2], _INPUT, claim=claim)
    return requests


async def _became_of(emulator: EmulatorClient, sent: int) -> Noise:
    """What the flows in trouble have seen of it."""
    async with httpx.AsyncClient(base_url=f"{emulator.web_url}/emulator/flows") as control:
        answers = [await control.get(f"/{flow}/calls") for flow in (HANGS, THROTTLED)]
    calls = [call for answer in answers for call in answer.raise_for_status().json()["calls"]]
    called = {call["client_tracking_id"] for call in calls}
    return Noise(sent, len(called), sum(call["status"] is None for call in calls))


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


# --- what is said ------------------------------------------------------------------------------------------------


def _show(measured: Measured, load: Load, console: Console) -> None:
    rate = load.good_per_second
    console.print(f"{rate:g} good requests/s, alone and beside {rate:g}/s for flows in trouble; {load.lanes} lanes")
    console.print(_turns(measured))
    console.print(_seconds(measured))
    console.print(f"Ratio of the medians: {measured.ratio:.2f} (goal: at most {GOAL:g})")


def _turns(measured: Measured) -> Table:
    table = _table("round", "", "requests", "median", "p99", "noise sent", "called", "hanging")
    for number, (alone, beside) in enumerate(zip(measured.alone, measured.beside, strict=True), 1):
        table.add_row(str(number), "alone", *_cells(alone.summary))
        table.add_row("", "beside", *_cells(beside.summary), *_of_noise(beside.noise), end_section=True)
    table.add_row("all", "alone", *_cells(summary_of(measured.alone)))
    table.add_row("", "beside", *_cells(summary_of(measured.beside)))
    return table


def _seconds(measured: Measured) -> Table:
    """The medians of all turns, second by second: what a median over whole turns does not show."""
    alone, beside = by_second(measured.alone), by_second(measured.beside)
    table = _table("second", "alone", "beside", "ratio")
    for second in sorted(alone.keys() & beside.keys()):
        medians = alone[second].median, beside[second].median
        table.add_row(str(second), *(_ms(median) for median in medians), f"{medians[1] / medians[0]:.2f}")
    return table


def _table(*columns: str) -> Table:
    table = Table()
    for name in columns:
        table.add_column(name, justify="left" if name in {"round", "second", ""} else "right")
    return table


def _cells(summary: Summary) -> tuple[str, str, str]:
    return str(summary.count), _ms(summary.median), _ms(summary.p99)


def _of_noise(noise: Noise | None) -> tuple[str, ...]:
    return (str(noise.sent), str(noise.called), str(noise.hanging)) if noise else ()


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often both are measured.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long each time.")] = 15.0,
    rate: Annotated[float, typer.Option(min=1, help="Good requests a second.")] = 15.0,
    lanes: Annotated[int, typer.Option(min=2, help="Lanes of the request queue.")] = 8,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if the goal is missed.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How much one flow's trouble costs the others, as a ratio of medians."""
    load = Load(seconds, rate, lanes)
    console = Console(stderr=json_)
    measured = measure(rounds, load, console)
    if json_:
        sys.stdout.write(json.dumps({"load": asdict(load), "goal": GOAL} | as_json(measured), indent=2) + "\n")
    else:
        _show(measured, load, console)
    if check and measured.ratio > GOAL:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
