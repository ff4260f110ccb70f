"""How fast the emulator is, what it costs, and how it bears much: `python -m bench.emulator`.

The emulator is a process of its own, and so is each client; they have a core each where there are two. Said is the
median of the rounds: messages a second, and the processor time that the emulator and the client spend on a message.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.emulator_client import CONNECTION_STRING, QUEUE
from bench.worker.stage import cores, pin

ROOT = Path(__file__).resolve().parents[1]
_NODE_CLIENT = ROOT / "tests" / "clients" / "node" / "speed.mjs"
_READY = "ready "


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one client does. What it receives was sent before."""

    sdk: str
    play: str
    count: int

    @property
    def receives(self) -> bool:
        """Whether messages must be there."""
        return self.play.startswith(("receive", "subscribe"))


SCENARIOS = (
    Scenario("Python", "send_single", 2_000),
    Scenario("Python", "send_parallel", 4_000),
    Scenario("Python", "send_batches", 20_000),
    Scenario("Python", "receive_complete", 4_000),
    Scenario("Python", "receive_delete", 10_000),
    Scenario("JavaScript", "send_in_flight", 20_000),
    Scenario("JavaScript", "send_batches", 60_000),
    Scenario("JavaScript", "receive_complete", 20_000),
    Scenario("JavaScript", "subscribe_complete", 20_000),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a scenario."""

    per_second: float
    server_us: float
    client_us: float


@dataclass(frozen=True, slots=True)
class Start:
    """A start with nothing to do."""

    seconds: float
    """To the line `ready`."""
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Serving:
    """A running emulator."""

    process: psutil.Process
    connection_string: str
    start: Start


@contextmanager
def serving() -> Iterator[Serving]:
    """An emulator with one queue that takes all there is."""
    queue = {"Name": QUEUE, "Properties": {"MaxSizeInMegabytes": 5120}}
    configuration = {"UserConfig": {"Namespaces": [{"Name": "bench", "Queues": [queue]}]}}
    with TemporaryDirectory(prefix="flow-worker-bench-") as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(configuration), encoding="utf-8")
        command = [sys.executable, "-m", "servicebus_emulator", "serve", "--config", str(file)]
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, "--amqp-port", "0", "--http-port", "0"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            said = process.stdout.readline()
            seconds = time.perf_counter() - began
            seen = psutil.Process(process.pid)
            start = Start(seconds, seen.memory_info().rss / 2**20)
            yield Serving(seen, json.loads(said.removeprefix(_READY))["connection_string"], start)
        finally:
            process.kill()
            process.communicate()


def measure(scenario: Scenario) -> Run:
    """Once, on an emulator of its own."""
    ours, its = cores()
    pin(its)
    with serving() as emulator:
        pin(ours)
        if scenario.receives:
            play(emulator, Scenario("Python", "send_batches", -(-scenario.count // 100) * 100))
        before = _cpu_seconds(emulator.process)
        said = play(emulator, scenario)
        server = _cpu_seconds(emulator.process) - before
    messages = said["messages"]
    return Run(messages / said["seconds"], 1e6 * server / messages, 1e6 * said["client_cpu_seconds"] / messages)


def play(emulator: Serving, scenario: Scenario) -> dict[str, float]:
    """Have a client do it; what it says of it."""
    environment = {**os.environ, CONNECTION_STRING: emulator.connection_string, "PYTHONPATH": str(ROOT)}
    if scenario.sdk == "Python":
        command = [sys.executable, "-m", "bench.emulator_client"]
    else:
        command = [shutil.which("node") or "node", str(_NODE_CLIENT)]
    ended = subprocess.run(  # noqa: S603 - our own commands
        [*command, scenario.play, str(scenario.count)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"{scenario.sdk} {scenario.play} failed:\n{ended.stderr[-2000:]}")
    said: dict[str, float] = json.loads(ended.stdout)
    return said


def missing(sdk: str) -> str | None:
    """Why this SDK cannot be measured here."""
    if sdk == "Python":
        return None
    if shutil.which("node") is None:
        return "Node is not installed"
    there = (_NODE_CLIENT.parents[1] / "node_modules" / "@azure" / "service-bus").is_dir()
    return None if there else "no npm packages; `npm install --prefix tests/clients` gets them"


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


# --- much of everything ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """How much the emulator held after so many messages had gone through a queue."""

    messages: int
    rss_mb: float


async def through(emulator: Serving, total: int, steps: int) -> list[Memory]:
    """Send and receive messages, never more than a few thousand waiting, and look at the memory now and then."""
    seen = []
    for step in range(1, steps + 1):
        share = total // steps // 100 * 100
        await asyncio.gather(
            asyncio.to_thread(play, emulator, Scenario("Python", "send_batches", share)),
            asyncio.to_thread(play, emulator, Scenario("Python", "receive_delete", share)),
        )
        seen.append(Memory(step * share, emulator.process.memory_info().rss / 2**20))
    return seen


async def connected(emulator: Serving, count: int) -> tuple[float, float]:
    """Open so many connections with a sender each; the seconds it took, and the MB that the emulator held then."""
    clients = [ServiceBusClient.from_connection_string(emulator.connection_string) for _ in range(count)]
    senders = [client.get_queue_sender(QUEUE) for client in clients]
    began = time.perf_counter()
    for start in range(0, count, 100):
        await asyncio.gather(*(sender.__aenter__() for sender in senders[start : start + 100]))
    seconds = time.perf_counter() - began
    await senders[-1].send_messages(ServiceBusMessage(b"the last one is served, too"))
    rss = emulator.process.memory_info().rss / 2**20
    for start in range(0, count, 100):
        await asyncio.gather(*(sender.close() for sender in senders[start : start + 100]))
    return seconds, rss


# --- what is said ------------------------------------------------------------------------------------------------


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    share: Annotated[float, typer.Option(min=0.001, max=10, help="Of the messages of each scenario.")] = 1.0,
    stress: Annotated[bool, typer.Option("--stress", help="Also 2,000 connections and 1,000,000 messages.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print every run as JSON.")] = False,
) -> None:
    """Measure the emulator with the Python and the JavaScript SDK."""
    console = Console(stderr=json_)
    console.width = max(console.width, 120)  # figures that are cut off are none
    for sdk in dict.fromkeys(scenario.sdk for scenario in SCENARIOS):
        if reason := missing(sdk):
            console.print(f"{sdk} is left out: {reason}.")
    scenarios = [
        Scenario(one.sdk, one.play, max(100, int(one.count * share) // 100 * 100))
        for one in SCENARIOS
        if missing(one.sdk) is None
    ]
    runs: dict[Scenario, list[Run]] = {}
    starts: list[Start] = []
    with Progress(console=console, transient=True) as progress:
        for scenario in progress.track(scenarios * rounds, description="runs"):
            runs.setdefault(scenario, []).append(measure(scenario))
            with serving() as idle:
                starts.append(idle.start)
    console.print(_table(runs))
    console.print(
        f"start-up {statistics.median(one.seconds for one in starts):.2f} s, "
        f"idle {statistics.median(one.rss_mb for one in starts):.0f} MB",
        highlight=False,
    )
    if stress:
        _stress(console)
    if json_:
        document = {
            "runs": [{**asdict(one), "runs": [asdict(run) for run in all_]} for one, all_ in runs.items()],
            "starts": [asdict(one) for one in starts],
        }
        typer.echo(json.dumps(document, indent=2))


def _table(runs: dict[Scenario, list[Run]]) -> Table:
    table = Table(title="the emulator: medians, and in brackets the least and the most", title_justify="left")
    for name in ("SDK", "what", "messages/s", "emulator µs/message", "client µs/message"):
        table.add_column(name, justify="right" if "/" in name else "left")
    for scenario, all_ in runs.items():
        rates = [run.per_second for run in all_]
        table.add_row(
            scenario.sdk,
            scenario.play.replace("_", " "),
            f"{statistics.median(rates):,.0f} [{min(rates):,.0f}-{max(rates):,.0f}]",
            f"{statistics.median(run.server_us for run in all_):,.0f}",
            f"{statistics.median(run.client_us for run in all_):,.0f}",
        )
    return table


def _stress(console: Console) -> None:
    with serving() as emulator:
        seconds, rss = asyncio.run(connected(emulator, 2_000))
    console.print(f"2,000 connections: open after {seconds:.0f} s, {rss:.0f} MB", highlight=False)
    with serving() as emulator:
        empty = emulator.process.memory_info().rss
        play(emulator, Scenario("Python", "send_batches", 100_000))
        waiting = emulator.process.memory_info().rss
        last = play(emulator, Scenario("Python", "receive_complete", 1_000))
    console.print(
        f"100,000 messages waiting: {(waiting - empty) / 100_000:,.0f} bytes for each of 256, "
        f"{last['messages'] / last['seconds']:,.0f}/s received and completed then",
        highlight=False,
    )
    with serving() as emulator:
        memories: Sequence[Memory] = asyncio.run(through(emulator, 1_000_000, 10))
    steps = ", ".join(f"{one.rss_mb:.0f}" for one in memories)
    console.print(f"1,000,000 messages through one queue, MB after each tenth: {steps}", highlight=False)


if __name__ == "__main__":
    cli()
