"""Runs the demo: all scenarios in one environment, which may stay open afterwards."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flow_worker.demo.environment import DemoEnvironment, running_demo
from flow_worker.demo.folder import demo_folder
from flow_worker.demo.processes import DemoError
from flow_worker.demo.sender_settings import POWERSHELL, SHELL, write_sender_settings
from flow_worker.demo.spinner import Spinner

if TYPE_CHECKING:
    from flow_worker.demo.report import DemoReport


def run_demo(console: Console, spinner: Spinner, *, as_json: bool, keep: bool, burst: int, verbose: bool) -> int:
    """Run the demo and return its exit status."""
    # The emulator runs on this machine, which no proxy of the user's reaches. The child processes inherit it.
    os.environ.update(NO_PROXY="*", no_proxy="*")
    _stop_on_signals()
    try:
        with demo_folder(keep=keep) as folder:
            try:
                report = _run_in(folder, console, spinner, as_json=as_json, keep=keep, burst=burst, verbose=verbose)
            finally:
                spinner.stop()
                if keep:
                    _print(console, f"The logs of all three processes stay in {_relative(folder)}.")
    except DemoError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if report.ok else 1


def _stop_on_signals() -> None:
    """Exit on SIGTERM, and on SIGHUP: a closed terminal sends it, unless `nohup` started the demo.

    SystemExit unwinds the context managers, so that the demo stops its processes and deletes its files.
    """
    numbers = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]

    def stop(number: int, _: object) -> None:
        for each in numbers:  # a terminal may send a second one, which must not end the cleanup
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in numbers:
        signal.signal(number, stop)


def _run_in(
    folder: Path, console: Console, spinner: Spinner, *, as_json: bool, keep: bool, burst: int, verbose: bool
) -> DemoReport:
    _import_ahead("flow_worker.demo.suite")

    def announce(worker_url: str, gateway_url: str) -> None:
        if keep:
            _print_all(console, metrics_lines(worker_url, gateway_url))

    with running_demo(folder, announce) as environment:
        from flow_worker.demo.report import show  # imported here: see `_import_ahead`
        from flow_worker.demo.suite import run_scenarios

        report = asyncio.run(run_scenarios(environment, burst, spinner.say))
        spinner.stop()
        show(report, console, as_json=as_json, verbose=verbose, keep=keep, command=_own_command())
        if keep:
            _wait_for_interrupt(environment, report, console)
        else:
            spinner.say("Stopping the gateway, the worker and the emulator ...")
    return report


def _import_ahead(module: str) -> None:
    """Import a module on a thread while this one waits for the child processes to start, which saves two seconds."""
    threading.Thread(target=importlib.import_module, args=(module,), name=f"import {module}", daemon=True).start()


def _wait_for_interrupt(environment: DemoEnvironment, report: DemoReport, console: Console) -> None:
    """Print commands to try, and wait for Ctrl-C. Raise `DemoError` if the worker exits."""
    write_sender_settings(environment)
    _print(console, "")
    _print(console, "The emulator, the worker and the gateway keep running. Ctrl-C stops them.", "bold")
    _print(console, f"Web page: {environment.emulator.web_url}/page/   Gateway: {environment.gateway_url}")
    _print_all(console, commands_to_try(environment.folder, _own_command(), _most_retried(report)))
    _print_all(console, telemetry_lines(environment, os.environ))
    never = threading.Event()
    try:
        while environment.worker.poll() is None and not never.wait(0.5):
            pass
    except KeyboardInterrupt:
        return
    raise DemoError(f"The worker exited. Read its log for the reason.\n{environment.worker_log_tail()}")


def commands_to_try(folder: Path, command: str, message_id: str) -> list[str]:
    """Return the lines about the second terminal. A shell reads the settings once, so the commands stay short."""
    place = _relative(folder)
    return [
        "In a second terminal, in this folder, load the settings of the demo:",
        *_activation(),
        f"  set -a; . {place}/{SHELL}; set +a        (PowerShell: . {place}\\{POWERSHELL})",
        "Then try:",
        f"  {command} send create-quote customer=Contoso amount:=125 --wait 30",
        f"  {command} send slow-report month=2026-11",
        f"  {command} result CORRELATION_ID",
        f"  {command} check-access --flow create-quote",
        f"  {command} deadletters list",
        f"  {command} journal show {message_id}",
        f"  {command} status",
    ]


def _activation() -> list[str]:
    """Return the line that activates this program's virtual environment; none outside of one."""
    if sys.prefix == sys.base_prefix:
        return []
    place = _relative(Path(sys.prefix))
    scripts = Path(place, "Scripts" if os.name == "nt" else "bin")
    line = f"  . {(scripts / 'activate').as_posix()}"
    powershell = scripts / "Activate.ps1"  # some tools that make environments leave it out
    return [f"{line}        (PowerShell: {powershell})" if powershell.exists() else line]


def metrics_lines(worker_url: str, gateway_url: str) -> list[str]:
    """Return the lines about the pages that Prometheus can scrape."""
    title = "Metrics for Prometheus: "
    return [
        f"{title}{worker_url} (worker)",
        f"{' ' * len(title)}{gateway_url} (gateway)",
    ]


def telemetry_lines(environment: DemoEnvironment, variables: Mapping[str, str]) -> list[str]:
    """Return the lines about metrics. The endpoint of the collector stays out of them: it may hold a key."""
    lines = metrics_lines(environment.metrics_url, environment.gateway_metrics_url)
    if variables.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip():
        lines.append("Both also push to the collector in OTEL_EXPORTER_OTLP_ENDPOINT.")
    return lines


def _relative(path: Path) -> str:
    """Return the path from the working directory; on Windows the path itself if it is on another drive."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)


def _print_all(console: Console, lines: list[str]) -> None:
    for line in lines:
        _print(console, line)


def _print(console: Console, line: str, style: str = "") -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _most_retried(report: DemoReport) -> str:
    """Return the message ID of the request with the most calls: its history has the most to show."""
    results = [outcome.result for outcome in report.single if outcome.result]
    return max(results, key=lambda result: result.attempts).request_message_id if results else "MESSAGE_ID"


def _own_command() -> str:
    """Return the command that started this program, so that the printed commands work when pasted."""
    found = shutil.which("flow-worker")
    if found and Path(found).parent.resolve() == Path(sys.executable).parent.resolve():
        return "flow-worker"  # of this installation, not of another one
    program = Path(sys.argv[0])
    if program.name.startswith("flow-worker"):
        return _relative(program) if program.is_absolute() else str(program)
    return f"{_relative(Path(sys.executable))} -m flow_worker"
