"""Measures throughput, processor time, start-up and memory of the emulator: `python -m bench.emulator`.

The emulator and each client are separate processes. On a machine with two or more cores, the emulator has one core to
itself. The figures are medians over all rounds: messages a second, and the processor time per message on both sides.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, assert_never

import psutil
import typer
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.cores import cores, pin
from bench.emulator_client import CONNECTION_STRING, QUEUE

ROOT = Path(__file__).resolve().parents[1]
_NODE_CLIENT = ROOT / "tests" / "clients" / "node" / "speed.mjs"
_READY = "ready "
_MIN_WIDTH = 120
"""Columns. On a narrower console, rich would cut the figures off."""
_OPEN_AT_ONCE = 100
"""Connections. The emulator's listener has asyncio's default backlog, which is 100."""


class Sdk(StrEnum):
    """The client libraries that the benchmark can drive."""

    PYTHON = "Python"
    JAVASCRIPT = "JavaScript"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One operation of one client. Messages to receive are sent before the measurement."""

    sdk: Sdk
    operation: str
    count: int

    @property
    def receives(self) -> bool:
        """True if the queue must hold messages beforehand."""
        return self.operation.startswith(("receive", "subscribe"))


SCENARIOS = (
    Scenario(Sdk.PYTHON, "send_single", 2_000),
    Scenario(Sdk.PYTHON, "send_parallel", 4_000),
    Scenario(Sdk.PYTHON, "send_batches", 20_000),
    Scenario(Sdk.PYTHON, "receive_complete", 4_000),
    Scenario(Sdk.PYTHON, "receive_delete", 10_000),
    Scenario(Sdk.JAVASCRIPT, "send_in_flight", 20_000),
    Scenario(Sdk.JAVASCRIPT, "send_batches", 60_000),
    Scenario(Sdk.JAVASCRIPT, "receive_complete", 20_000),
    Scenario(Sdk.JAVASCRIPT, "subscribe_complete", 20_000),
)


@dataclass(frozen=True, slots=True)
class Run:
    """The measurement of one run of a scenario."""

    per_second: float
    server_us: float
    client_us: float


@dataclass(frozen=True, slots=True)
class StartUp:
    """A start of the emulator without clients."""

    seconds: float
    """From the start of the process to the line `ready`."""
    rss_mb: float


@dataclass(frozen=True, slots=True)
class RunningEmulator:
    """An emulator process that serves one queue."""

    process: psutil.Process
    connection_string: str
    start_up: StartUp

    def cpu_seconds(self) -> float:
        """The processor time used so far."""
        times = self.process.cpu_times()
        return times.user + times.system

    def rss_mb(self) -> float:
        """The resident memory."""
        return self.process.memory_info().rss / 2**20


@contextmanager
def running_emulator() -> Iterator[RunningEmulator]:
    """Run an emulator with one queue of the maximum size, 5 GB."""
    queue = {"Name": QUEUE, "Properties": {"MaxSizeInMegabytes": 5120}}
    configuration = {"UserConfig": {"Namespaces": [{"Name": "bench", "Queues": [queue]}]}}
    with TemporaryDirectory(prefix="flow-worker-bench-") as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(configuration), encoding="utf-8")
        command = [sys.executable, "-m", "servicebus_emulator", "serve", "--config", str(file)]
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - a fixed command
            [*command, "--amqp-port", "0", "--http-port", "0"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None  # noqa: S101 - stdout is a pipe
            ready_line = process.stdout.readline()
            seconds = time.perf_counter() - began
            measured = psutil.Process(process.pid)
            start_up = StartUp(seconds, measured.memory_info().rss / 2**20)
            connection_string = json.loads(ready_line.removeprefix(_READY))["connection_string"]
            yield RunningEmulator(measured, connection_string, start_up)
        finally:
            process.kill()
            process.communicate()


def measure(scenario: Scenario) -> Run:
    """Run a scenario once, on a new emulator."""
    available = cores()
    pin(available.subject)  # the emulator inherits this
    with running_emulator() as emulator:
        pin(available.environment)
        if scenario.receives:
            full_batches = -(-scenario.count // 100) * 100
            run_client(emulator, Scenario(Sdk.PYTHON, "send_batches", full_batches))
        cpu_before = emulator.cpu_seconds()
        client = run_client(emulator, scenario)
        cpu_seconds = emulator.cpu_seconds() - cpu_before
    messages = client["messages"]
    return Run(
        per_second=messages / client["seconds"],
        server_us=1e6 * cpu_seconds / messages,
        client_us=1e6 * client["client_cpu_seconds"] / messages,
    )


def run_client(emulator: RunningEmulator, scenario: Scenario) -> dict[str, float]:
    """Run a client and return its measurement. Raise `RuntimeError` with its error output if it fails."""
    environment = {**os.environ, CONNECTION_STRING: emulator.connection_string, "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(  # noqa: S603 - fixed commands
        [*_client_command(scenario.sdk), scenario.operation, str(scenario.count)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if completed.returncode:
        raise RuntimeError(f"{scenario.sdk} {scenario.operation} failed:\n{completed.stderr[-2000:]}")
    measurement: dict[str, float] = json.loads(completed.stdout)
    return measurement


def _client_command(sdk: Sdk) -> list[str]:
    match sdk:
        case Sdk.PYTHON:
            return [sys.executable, "-m", "bench.emulator_client"]
        case Sdk.JAVASCRIPT:
            return [shutil.which("node") or "node", str(_NODE_CLIENT)]
    assert_never(sdk)


def unavailable(sdk: Sdk) -> str | None:
    """Return the reason why this machine cannot run the SDK, or None if it can."""
    match sdk:
        case Sdk.PYTHON:
            return None
        case Sdk.JAVASCRIPT:
            if shutil.which("node") is None:
                return "Node is not installed"
            installed = (_NODE_CLIENT.parents[1] / "node_modules" / "@azure" / "service-bus").is_dir()
            return None if installed else "its packages are missing; run `npm install --prefix tests/clients`"
    assert_never(sdk)


# --- stress ------------------------------------------------------------------------------------------------------


async def pass_messages(emulator: RunningEmulator, total: int, steps: int) -> list[float]:
    """Send and receive `total` messages through the queue and return the memory in MB after each step.

    Both clients run at once, so that few messages wait: the memory is that of the traffic, not of a backlog.
    """
    memory = []
    for _ in range(steps):
        share = total // steps // 100 * 100
        await asyncio.gather(
            asyncio.to_thread(run_client, emulator, Scenario(Sdk.PYTHON, "send_batches", share)),
            asyncio.to_thread(run_client, emulator, Scenario(Sdk.PYTHON, "receive_delete", share)),
        )
        memory.append(emulator.rss_mb())
    return memory


async def open_connections(emulator: RunningEmulator, count: int) -> tuple[float, float]:
    """Open connections with one sender each; return the seconds it took and the emulator's memory in MB."""
    clients = [ServiceBusClient.from_connection_string(emulator.connection_string) for _ in range(count)]
    senders = [client.get_queue_sender(QUEUE) for client in clients]
    began = time.perf_counter()
    for start in range(0, count, _OPEN_AT_ONCE):
        await asyncio.gather(*(sender.__aenter__() for sender in senders[start : start + _OPEN_AT_ONCE]))
    seconds = time.perf_counter() - began
    await senders[-1].send_messages(ServiceBusMessage(b"the last connection works, too"))
    rss_mb = emulator.rss_mb()
    for start in range(0, count, _OPEN_AT_ONCE):
        await asyncio.gather(*(sender.close() for sender in senders[start : start + _OPEN_AT_ONCE]))
    return seconds, rss_mb


# --- command line ------------------------------------------------------------------------------------------------


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each scenario runs.")] = 3,
    scale: Annotated[
        float, typer.Option(min=0.001, max=10, help="Factor for the number of messages in each scenario.")
    ] = 1.0,
    stress: Annotated[
        bool, typer.Option("--stress", help="Also open 2,000 connections and pass 1,000,000 messages.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print every run as JSON; the tables go to stderr.")] = False,
) -> None:
    """Measure throughput, start-up and memory of the emulator with the Python and the JavaScript SDK."""
    console = Console(stderr=json_)
    console.width = max(console.width, _MIN_WIDTH)
    for sdk in Sdk:
        if reason := unavailable(sdk):
            console.print(f"Skipped the {sdk} SDK: {reason}.", markup=False)
    scenarios = [
        replace(scenario, count=max(100, int(scenario.count * scale) // 100 * 100))
        for scenario in SCENARIOS
        if unavailable(scenario.sdk) is None
    ]
    runs, starts = _measure_all(scenarios, rounds, console)
    console.print(_table(runs))
    console.print(
        f"Start-up: {statistics.median(start.seconds for start in starts):.2f} s. "
        f"Idle memory: {statistics.median(start.rss_mb for start in starts):.0f} MB.",
        highlight=False,
    )
    if stress:
        _stress(console)
    if json_:
        document = {
            "runs": [
                {**asdict(scenario), "runs": [asdict(run) for run in its_runs]} for scenario, its_runs in runs.items()
            ],
            "starts": [asdict(start) for start in starts],
        }
        typer.echo(json.dumps(document, indent=2))


def _measure_all(
    scenarios: list[Scenario], rounds: int, console: Console
) -> tuple[dict[Scenario, list[Run]], list[StartUp]]:
    """Interleave the scenarios: a change of the machine's load then affects all of them, not one."""
    runs: dict[Scenario, list[Run]] = {}
    starts: list[StartUp] = []
    with Progress(console=console, transient=True) as progress:
        for scenario in progress.track(scenarios * rounds, description="runs"):
            runs.setdefault(scenario, []).append(measure(scenario))
            with running_emulator() as idle:
                starts.append(idle.start_up)
    return runs, starts


def _table(runs: dict[Scenario, list[Run]]) -> Table:
    table = Table(title="Emulator: medians [min-max]", title_justify="left")
    for name in ("SDK", "operation", "messages/s", "emulator CPU µs/message", "client CPU µs/message"):
        table.add_column(name, justify="right" if "/" in name else "left")
    for scenario, its_runs in runs.items():
        rates = [run.per_second for run in its_runs]
        table.add_row(
            scenario.sdk,
            scenario.operation.replace("_", " "),
            f"{statistics.median(rates):,.0f} [{min(rates):,.0f}-{max(rates):,.0f}]",
            f"{statistics.median(run.server_us for run in its_runs):,.0f}",
            f"{statistics.median(run.client_us for run in its_runs):,.0f}",
        )
    return table


def _stress(console: Console) -> None:
    with running_emulator() as emulator:
        seconds, rss_mb = asyncio.run(open_connections(emulator, 2_000))
    console.print(f"2,000 connections: open after {seconds:.0f} s, {rss_mb:.0f} MB of memory.", highlight=False)
    with running_emulator() as emulator:
        empty_mb = emulator.rss_mb()
        run_client(emulator, Scenario(Sdk.PYTHON, "send_batches", 100_000))
        bytes_per_message = (emulator.rss_mb() - empty_mb) * 2**20 / 100_000
        client = run_client(emulator, Scenario(Sdk.PYTHON, "receive_complete", 1_000))
    console.print(
        f"100,000 waiting messages of 256 bytes: {bytes_per_message:,.0f} bytes of memory each; "
        f"a client then receives and completes {client['messages'] / client['seconds']:,.0f}/s.",
        highlight=False,
    )
    with running_emulator() as emulator:
        memory = asyncio.run(pass_messages(emulator, 1_000_000, 10))
    steps = ", ".join(f"{rss_mb:.0f}" for rss_mb in memory)
    console.print(f"1,000,000 messages through one queue: MB of memory after each tenth: {steps}.", highlight=False)


if __name__ == "__main__":
    cli()
