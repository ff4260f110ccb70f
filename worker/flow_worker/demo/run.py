"""The demo's run: all scenes on one stage, which may be held open afterwards."""

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
from flow_worker.demo.dead_letter import REQUESTS, lying, play_dead_letter
from flow_worker.demo.environment import JOURNAL, ROLE, DemoEnvironment, DemoError, EmulatorClient, running_demo
from flow_worker.demo.privileges import play_privileges
from flow_worker.demo.report import Report, show
from flow_worker.demo.scenarios import Ended, play_burst, play_scene, scenes, unanswerable
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import ServiceBusSettings

KEPT_FOLDER = Path(".demo")
_T = TypeVar("_T")


def play(*, as_json: bool, keep: bool, burst: int) -> int:
    """Play the demo; the exit status."""
    console = Console(stderr=as_json)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with _folder(keep=keep) as folder:
            console.print("Starting an emulator and a worker …")
            with running_demo(folder) as stage:
                report = asyncio.run(_perform(stage, burst, console))
                show(report, console, as_json=as_json)
                if keep:
                    _hold_open(stage, report, console)
    except DemoError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if report.ok else 1


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    """Where settings and logs go: beside the user while the demo is kept open, else nowhere to stay."""
    folder = KEPT_FOLDER.absolute() if keep else Path(tempfile.mkdtemp(prefix="flow-worker-demo-"))
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _perform(stage: DemoEnvironment, burst: int, console: Console) -> Report:
    settings = ServiceBusSettings(connection_string=SecretStr(stage.emulator.connection_string))
    async with (
        open_service_bus(settings) as bus,
        FlowClient.from_connection_string(stage.emulator.connection_string) as client,
    ):
        await bus.send(REQUESTS, unanswerable())
        name = f"demo-{secrets.token_hex(2)}"
        with _progress(console) as progress:
            single = await _single(stage.emulator, bus, client, name, progress)
            many = await _burst(stage.emulator, client, name, burst, progress) if burst else None
        return Report(single, many, _depths(stage.emulator), await lying(bus))


async def _single(
    emulator: EmulatorClient, bus: ServiceBus, client: FlowClient, name: str, progress: Progress
) -> list[Ended]:
    """The single requests, all at once: each waits for something else."""
    played = scenes(emulator)
    task = progress.add_task("single requests", total=len(played) + 2)

    async def shown(playing: Awaitable[_T]) -> _T:
        ended = await playing
        progress.advance(task)
        return ended

    alone = (play_scene(emulator, client, scene, f"{name}-{number}") for number, scene in enumerate(played, 1))
    dead = play_dead_letter(emulator, bus, client, f"{name}-{len(played) + 1}")
    asked = play_privileges(emulator, client, name)
    ended, by_privilege, twice = await asyncio.gather(asyncio.gather(*map(shown, alone)), shown(asked), shown(dead))
    return [*ended, *by_privilege, *twice]


async def _burst(emulator: EmulatorClient, client: FlowClient, name: str, count: int, progress: Progress) -> Ended:
    task = progress.add_task(f"a burst of {count}", total=count)
    claim = SecretStr(emulator.mint("ada", ROLE))
    return await play_burst(client, claim, count, name, lambda: progress.advance(task))


def _depths(emulator: EmulatorClient) -> dict[str, dict[str, int]]:
    depths: dict[str, dict[str, int]] = httpx.get(f"{emulator.web_url}/emulator/queues", timeout=10).json()
    return depths


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _hold_open(stage: DemoEnvironment, report: Report, console: Console) -> None:
    """Tell how to send, poll and look behind the scenes oneself, and wait for Ctrl-C."""
    env_file = _write_sender_settings(stage)
    command = _own_command()
    console.print("\nThe stage stays up. In another terminal, here:", style="bold")
    for line in (
        f"{command} send create-quote customer=Contoso amount:=125 --wait 30 --env-file {env_file}",
        f"{command} send slow-report month=2026-11 --env-file {env_file}",
        f"{command} result ID --env-file {env_file}",
        f"{command} deadletters list --env-file {env_file}",
        f"{command} journal show {_most_called(report)} --env-file {env_file}",
    ):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"The worker's log: {KEPT_FOLDER / 'worker.log'}. Ctrl-C ends it all.", highlight=False)
    ended = threading.Event()
    try:
        while stage.worker.poll() is None and not ended.wait(0.5):
            pass
    except KeyboardInterrupt:
        return
    raise DemoError("The worker ended by itself; its log tells why.")


def _most_called(report: Report) -> str:
    """The message ID of the request that has most to tell."""
    results = [one.result for one in report.single if one.result]
    return max(results, key=lambda result: result.attempts).request_message_id if results else "ID"


def _write_sender_settings(stage: DemoEnvironment) -> Path:
    """What these commands need, claim included: readable by this user alone."""
    path = stage.folder / "sender.env"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING='{stage.emulator.connection_string}'\n")
        file.write(f"FLOW_WORKER_JOURNAL__PATH='{(stage.folder / JOURNAL).as_posix()}'\n")
        file.write(f"FLOW_WORKER_CLAIM='{stage.emulator.mint('ada', ROLE)}'\n")
    return path.relative_to(Path.cwd())


def _own_command() -> str:
    """How this program was called, so that the printed lines work where they are pasted."""
    if shutil.which("flow-worker"):
        return "flow-worker"
    here = Path(sys.argv[0])
    if here.name.startswith("flow-worker"):
        return os.path.relpath(here) if here.is_absolute() else str(here)
    return f"{os.path.relpath(sys.executable)} -m worker"
