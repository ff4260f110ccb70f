"""The demo's run and what it shows: one table of requests, the queues' depths, the dead-letter queue."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import JsonValue, SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from contracts.client import FlowClient
from worker.demo.scenes import Ended, play_burst, play_scene, scenes, unanswerable
from worker.demo.stage import ROLE, Emulator, Stage, StageError, set_up
from worker.servicebus import DeadLettered, ServiceBus
from worker.settings import ServiceBusSettings

KEPT_FOLDER = Path(".demo")
_STYLE = {"succeeded": "green", "refused": "yellow", "failed": "red", "unknown": "magenta"}


@dataclass(frozen=True, slots=True)
class Report:
    """All that the demo found."""

    ended: list[Ended]
    queues: dict[str, dict[str, int]]
    dead_letters: list[DeadLettered]

    @property
    def ok(self) -> bool:
        """Whether every request ended as it should, and only the unanswerable one was dead-lettered."""
        return all(one.ok for one in self.ended) and [one.reason for one in self.dead_letters] == [
            "correlation_id_too_long"
        ]


def play(*, as_json: bool, keep: bool, burst: int) -> int:
    """Play the demo; the exit status."""
    console = Console(stderr=as_json)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with _folder(keep=keep) as folder:
            console.print("Starting an emulator and a worker …")
            with set_up(folder) as stage:
                report = asyncio.run(_perform(stage, burst, console))
                _show(report, console, as_json=as_json)
                if keep:
                    _hold_open(stage, console)
    except StageError as error:
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


async def _perform(stage: Stage, burst: int, console: Console) -> Report:
    emulator = stage.emulator
    settings = ServiceBusSettings(connection_string=SecretStr(emulator.connection_string))
    async with (
        ServiceBus(settings) as bus,
        FlowClient.from_connection_string(emulator.connection_string) as client,
    ):
        await bus.send("flow-requests", unanswerable())
        ended: list[Ended] = []
        name = f"demo-{secrets.token_hex(2)}"
        with _progress(console) as progress:
            single = progress.add_task("single requests", total=None)
            for scene in (played := scenes(emulator)):
                progress.update(single, total=len(played), description=scene.title)
                ended.append(await play_scene(client, scene, f"{name}-{len(ended) + 1}"))
                progress.advance(single)
            progress.update(single, description="single requests")
            if burst:
                many = progress.add_task(f"a burst of {burst}", total=burst)
                claim = SecretStr(emulator.mint("ada", ROLE))
                ended.append(await play_burst(client, claim, burst, name, lambda: progress.advance(many)))
        async with bus.dead_letter_queue("flow-requests") as dead_letters:
            return Report(ended, _depths(emulator), [letter async for letter in dead_letters.peek()])


def _depths(emulator: Emulator) -> dict[str, dict[str, int]]:
    depths: dict[str, dict[str, int]] = httpx.get(f"{emulator.web_url}/emulator/queues", timeout=10).json()
    return depths


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _show(report: Report, console: Console, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(_as_json(report), indent=2) + "\n")
        return
    console.print(_requests(report))
    console.print(_queues(report))
    console.print(_dead_letters(report))
    if report.ok:
        console.print("Every request ended as it should.", style="bold green")
    else:
        console.print("Some requests ended otherwise than they should: see ✗ above.", style="bold red")


def _requests(report: Report) -> Table:
    table = Table(title="What was asked, and what came back", title_justify="left", show_lines=True)
    table.add_column("correlation ID", no_wrap=True)
    table.add_column("asked")
    table.add_column("came back", overflow="fold")
    table.add_column("took", justify="right", no_wrap=True)
    for one in report.ended:
        mark = ("✓ ", "green") if one.ok else ("✗ ", "bold red")
        style = _STYLE.get(one.came_back.split(":")[0], "")
        came_back = Text.assemble(mark, (one.came_back, style), "\n", (one.detail, "dim"))
        table.add_row(one.correlation_id, one.asked, came_back, f"{one.seconds:.1f} s")
    return table


def _queues(report: Report) -> Table:
    table = Table(title="The queues now", title_justify="left")
    table.add_column("queue")
    counts = list(dict.fromkeys(name for queue in report.queues.values() for name in queue))
    for name in counts:
        table.add_column(name.replace("_", " "), justify="right")
    for queue, depth in report.queues.items():
        table.add_row(queue, *(str(depth.get(name, 0)) for name in counts))
    return table


def _dead_letters(report: Report) -> Table:
    table = Table(title="The dead-letter queue of flow-requests: what could not be answered", title_justify="left")
    for name in ("message ID", "reason", "description"):
        table.add_column(name, overflow="fold")
    for one in report.dead_letters:
        table.add_row(one.message.message_id, one.reason, one.description)
    return table


def _as_json(report: Report) -> dict[str, JsonValue]:
    return {
        "ok": report.ok,
        "requests": [
            {
                "correlation_id": one.correlation_id,
                "asked": one.asked,
                "came_back": one.came_back,
                "detail": one.detail,
                "seconds": round(one.seconds, 3),
                "ok": one.ok,
                "result": one.result.model_dump(mode="json", exclude_none=True) if one.result else None,
            }
            for one in report.ended
        ],
        "queues": {name: dict(depth) for name, depth in report.queues.items()},
        "dead_letters": [
            {"message_id": one.message.message_id, "reason": one.reason, "description": one.description}
            for one in report.dead_letters
        ],
    }


def _hold_open(stage: Stage, console: Console) -> None:
    """Tell how to send and poll oneself, and wait for Ctrl-C."""
    env_file = _write_sender_settings(stage)
    command = _own_command()
    console.print("\nThe stage stays up. In another terminal, here:", style="bold")
    for line in (
        f"{command} send create-quote customer=Contoso amount:=125 --wait 30 --env-file {env_file}",
        f"{command} send slow-report month=2026-11 --env-file {env_file}",
        f"{command} result ID --env-file {env_file}",
    ):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"The worker's log: {KEPT_FOLDER / 'worker.log'}. Ctrl-C ends it all.", highlight=False)
    ended = threading.Event()
    try:
        while stage.worker.poll() is None and not ended.wait(0.5):
            pass
    except KeyboardInterrupt:
        return
    raise StageError("The worker ended by itself; its log tells why.")


def _write_sender_settings(stage: Stage) -> Path:
    """What `send` and `result` need, claim included: readable by this user alone."""
    path = stage.folder / "sender.env"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING='{stage.emulator.connection_string}'\n")
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
