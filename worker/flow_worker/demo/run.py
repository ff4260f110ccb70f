"""Runs the demo: all scenarios in one environment, which may stay open afterwards."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flow_contracts.client import FlowClient
from flow_contracts.servicebus import ServiceBus
from flow_worker.demo.dead_letter import REQUESTS, list_dead_letters, run_dead_letter_scenarios
from flow_worker.demo.environment import JOURNAL, ROLE, DemoEnvironment, EmulatorClient, running_demo
from flow_worker.demo.privileges import run_privilege_scenarios
from flow_worker.demo.processes import DemoError
from flow_worker.demo.report import DemoReport, show
from flow_worker.demo.scenarios import ScenarioOutcome, request_scenarios, run_burst, run_scenario, unanswerable
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import ServiceBusSettings

KEPT_FOLDER = Path(".demo")
"""The folder of `--keep`, below the working directory."""
_SCENARIOS_BESIDE_REQUESTS = 2
"""The dead-letter scenarios and the privilege scenarios each advance the progress bar once."""
_T = TypeVar("_T")


def run_demo(*, as_json: bool, keep: bool, burst: int) -> int:
    """Run the demo and return its exit status."""
    console = Console(stderr=as_json)
    # SystemExit unwinds the context managers below, so that a terminated demo leaves no process behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with _folder(keep=keep) as folder:
            console.print("Starting an emulator and a worker …")
            with running_demo(folder) as environment:
                report = asyncio.run(_run_scenarios(environment, burst, console))
                show(report, console, as_json=as_json)
                if keep:
                    _wait_for_interrupt(environment, report, console)
    except DemoError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if report.ok else 1


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    """Yield the folder of the settings and logs and delete it at the end.

    With `keep` it is in the working directory, where the user can read it; otherwise it is a temporary one.
    """
    folder = KEPT_FOLDER.absolute() if keep else Path(tempfile.mkdtemp(prefix="flow-worker-demo-"))
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _run_scenarios(environment: DemoEnvironment, burst: int, console: Console) -> DemoReport:
    emulator = environment.emulator
    settings = ServiceBusSettings(connection_string=SecretStr(emulator.connection_string))
    async with (
        open_service_bus(settings) as bus,
        FlowClient.from_connection_string(emulator.connection_string) as client,
    ):
        await bus.send(REQUESTS, unanswerable())
        name = f"demo-{secrets.token_hex(2)}"
        with _progress(console) as progress:
            single = await _run_single(emulator, bus, client, name, progress)
            many = await _run_burst(emulator, client, name, burst, progress) if burst else None
        return DemoReport(single, many, _queue_counts(emulator), await list_dead_letters(bus))


async def _run_single(
    emulator: EmulatorClient, bus: ServiceBus, client: FlowClient, name: str, progress: Progress
) -> list[ScenarioOutcome]:
    """Run the scenarios of single requests concurrently: they mostly wait, each for something else."""
    scenarios = request_scenarios(emulator)
    task = progress.add_task("single requests", total=len(scenarios) + _SCENARIOS_BESIDE_REQUESTS)

    async def counted(scenario: Awaitable[_T]) -> _T:
        outcome = await scenario
        progress.advance(task)
        return outcome

    requests = (
        run_scenario(emulator, client, scenario, f"{name}-{number}") for number, scenario in enumerate(scenarios, 1)
    )
    dead_letters = run_dead_letter_scenarios(emulator, bus, client, f"{name}-{len(scenarios) + 1}")
    privileges = run_privilege_scenarios(emulator, client, name)
    by_request, by_privilege, by_dead_letter = await asyncio.gather(
        asyncio.gather(*map(counted, requests)), counted(privileges), counted(dead_letters)
    )
    return [*by_request, *by_privilege, *by_dead_letter]


async def _run_burst(
    emulator: EmulatorClient, client: FlowClient, name: str, count: int, progress: Progress
) -> ScenarioOutcome:
    task = progress.add_task(f"burst of {count}", total=count)
    claim = SecretStr(emulator.mint("ada", ROLE))
    return await run_burst(client, claim, count, name, lambda: progress.advance(task))


def _queue_counts(emulator: EmulatorClient) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = httpx.get(f"{emulator.web_url}/emulator/queues", timeout=10).json()
    return counts


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _wait_for_interrupt(environment: DemoEnvironment, report: DemoReport, console: Console) -> None:
    """Print commands to try, and wait for Ctrl-C. Raise `DemoError` if the worker exits."""
    env_file = _write_sender_settings(environment)
    command = _own_command()
    console.print(
        "\nThe emulator and the worker keep running. Try these commands in a second terminal, in this folder:",
        style="bold",
    )
    for line in (
        f"{command} send create-quote customer=Contoso amount:=125 --wait 30 --env-file {env_file}",
        f"{command} send slow-report month=2026-11 --env-file {env_file}",
        f"{command} result CORRELATION_ID --env-file {env_file}",
        f"{command} deadletters list --env-file {env_file}",
        f"{command} journal show {_most_retried(report)} --env-file {env_file}",
    ):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"The worker's log is {KEPT_FOLDER / 'worker.log'}. Ctrl-C stops both processes.", highlight=False)
    never = threading.Event()
    try:
        while environment.worker.poll() is None and not never.wait(0.5):
            pass
    except KeyboardInterrupt:
        return
    raise DemoError(f"The worker exited. Read its log for the reason.\n{environment.worker_log_tail()}")


def _most_retried(report: DemoReport) -> str:
    """Return the message ID of the request with the most calls: its history has the most to show."""
    results = [outcome.result for outcome in report.single if outcome.result]
    return max(results, key=lambda result: result.attempts).request_message_id if results else "MESSAGE_ID"


def _write_sender_settings(environment: DemoEnvironment) -> Path:
    """Write the settings of the printed commands, claim included, readable by this user only; return the file."""
    emulator, path = environment.emulator, environment.folder / "sender.env"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING='{emulator.connection_string}'\n")
        file.write(f"FLOW_WORKER_JOURNAL__PATH='{(environment.folder / JOURNAL).as_posix()}'\n")
        file.write(f"FLOW_WORKER_CLAIM='{emulator.mint('ada', ROLE)}'\n")
    return path.relative_to(Path.cwd())


def _own_command() -> str:
    """Return the command that started this program, so that the printed commands work when pasted."""
    if shutil.which("flow-worker"):
        return "flow-worker"
    program = Path(sys.argv[0])
    if program.name.startswith("flow-worker"):
        return os.path.relpath(program) if program.is_absolute() else str(program)
    return f"{os.path.relpath(sys.executable)} -m flow_worker"
