"""Runs the demo: all scenarios in one environment, which may stay open afterwards."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flow_worker.demo.environment import JOURNAL, ROLE, DemoEnvironment, running_demo
from flow_worker.demo.processes import DemoError

if TYPE_CHECKING:
    from flow_worker.demo.report import DemoReport

KEPT_FOLDER = Path(".demo")
"""The folder of `--keep`, below the working directory."""


def run_demo(*, as_json: bool, keep: bool, burst: int) -> int:
    """Run the demo and return its exit status."""
    console = Console(stderr=as_json)
    # The emulator runs on this machine, which no proxy of the user's reaches. The child processes inherit it.
    os.environ.update(NO_PROXY="*", no_proxy="*")
    # SystemExit unwinds the context managers below, so that a terminated demo leaves no process behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with _folder(keep=keep) as folder:
            console.print("Starting an emulator and a worker …")
            _import_ahead("flow_worker.demo.suite")
            with running_demo(folder) as environment:
                from flow_worker.demo.report import show  # imported here: see `_import_ahead`
                from flow_worker.demo.suite import run_scenarios

                report = asyncio.run(run_scenarios(environment, burst, console))
                show(report, console, as_json=as_json)
                if keep:
                    _wait_for_interrupt(environment, report, console)
    except DemoError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if report.ok else 1


def _import_ahead(module: str) -> None:
    """Import a module on a thread while this one waits for the child processes to start, which saves two seconds."""
    threading.Thread(target=importlib.import_module, args=(module,), name=f"import {module}", daemon=True).start()


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    """Yield the folder of the settings and logs and delete it at the end.

    With `keep` it is in the working directory, where the user can read it; otherwise it is a temporary one.
    """
    folder = KEPT_FOLDER.absolute() if keep else Path(tempfile.mkdtemp(prefix="flow-worker-demo-"))
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)  # also if it existed: claims, logs and the journal are in it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
        f"{command} health --url {_health_url(environment)}",
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


def _health_url(environment: DemoEnvironment) -> str:
    settings = tomllib.loads((environment.folder / "flow-worker.toml").read_text(encoding="utf-8"))
    return f"http://127.0.0.1:{settings['health']['port']}"


def _most_retried(report: DemoReport) -> str:
    """Return the message ID of the request with the most calls: its history has the most to show."""
    results = [outcome.result for outcome in report.single if outcome.result]
    return max(results, key=lambda result: result.attempts).request_message_id if results else "MESSAGE_ID"


def _write_sender_settings(environment: DemoEnvironment) -> Path:
    """Write the settings of the printed commands, claim included, readable by this user only; return the file."""
    emulator, path = environment.emulator, environment.folder / "sender.env"
    path.unlink(missing_ok=True)  # a file that others can read would keep its mode, and its readers
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
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
