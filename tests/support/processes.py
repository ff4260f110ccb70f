"""Runs the emulator and the worker as separate processes, for tests that kill them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from flow_worker.demo import environment as demo
from servicebus_emulator import config

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    """A running program and its log."""

    popen: subprocess.Popen[str]
    log: Path

    def stop(self, seconds: float = 60) -> int:
        """Send SIGTERM (Ctrl-Break on Windows), wait, and return the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        status = self.popen.wait(seconds)
        self._close_output()
        return status

    def kill(self) -> None:
        """Kill the process; safe to call again."""
        self.popen.kill()
        self.popen.wait()
        self._close_output()

    def _close_output(self) -> None:
        if self.popen.stdout is not None:
            self.popen.stdout.close()


def start(arguments: list[str], log: Path, env: Mapping[str, str] = os.environ, cwd: Path = CHECKOUT) -> Process:
    """Start `python -m …`; its stderr goes to the log."""
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    with log.open("a", encoding="utf-8") as errors:
        popen = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=cwd,
            env=dict(env),
            creationflags=flags,
        )
    return Process(popen, log)


def start_emulator(folder: Path, amqp_port: int = 0, http_port: int = 0) -> tuple[Process, demo.EmulatorClient]:
    """Start an emulator and wait until it listens. A second one in the folder accepts the worker of the first one."""
    document = json.loads(config.DEFAULT.read_text(encoding="utf-8"))
    document["FlowWorker"]["Identity"]["IdentityHeader"] = "the same after a restart"
    configuration = folder / "emulator.json"
    configuration.write_text(json.dumps(document), encoding="utf-8")
    ports = ["--amqp-port", str(amqp_port), "--http-port", str(http_port)]
    process = start(
        ["servicebus_emulator", "serve", "--config", str(folder / "emulator.json"), *ports], folder / "emulator.log"
    )
    assert process.popen.stdout is not None
    line = process.popen.stdout.readline()
    assert line.startswith("ready "), process.log.read_text(encoding="utf-8")
    return process, demo.EmulatorClient.from_ready_line(line)


def start_worker(folder: Path, emulator: demo.EmulatorClient, health_port: int, **settings: str) -> Process:
    """Start a worker with the demo's settings; `wait_ready` waits for it. `settings` by their variables' names."""
    (folder / "flow-worker.toml").write_text(demo.worker_settings(emulator, health_port), encoding="utf-8")
    environment = dict(demo.worker_environment(emulator))
    environment |= {f"FLOW_WORKER_{name.upper()}": value for name, value in settings.items()}
    return start(["flow_worker", "run"], folder / "worker.log", environment, folder)


def is_ready(health_port: int) -> bool:
    """Return whether the worker's health endpoint reports readiness."""
    try:
        return httpx.get(f"http://127.0.0.1:{health_port}/health/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_ready(process: Process, health_port: int, *, ready: bool = True, seconds: float = 120) -> float:
    """Wait until the worker is ready (or not ready) and return the seconds it took."""
    began = time.monotonic()
    while is_ready(health_port) is not ready:
        assert process.popen.poll() is None, process.log.read_text(encoding="utf-8")
        assert time.monotonic() - began < seconds, process.log.read_text(encoding="utf-8")
        time.sleep(0.1)
    return time.monotonic() - began
