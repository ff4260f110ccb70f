"""The demo's HTTP gateway: its settings and its process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from flow_worker.demo import processes
from flow_worker.demo.processes import GATEWAY_LOCK, DemoError

START_SECONDS = 30.0
KEY_FILE, STORE_FILE = "gateway-key.pem", "gateway.sqlite3"
"""The gateway's key and its store, in its working directory."""
TUTORIAL_ORIGIN = "http://localhost:8000"
"""The origin of the reader's own page in the tutorial: the default port of `python -m http.server`."""


@dataclass(frozen=True, slots=True)
class GatewayPorts:
    """The ports of one gateway on this machine."""

    port: int
    health_port: int

    @classmethod
    def free(cls) -> GatewayPorts:
        """Return two ports that are free at the moment."""
        return cls(processes.free_port(), processes.free_port())

    @property
    def url(self) -> str:
        """The URL of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        """The page that Prometheus can scrape."""
        return f"http://127.0.0.1:{self.health_port}/metrics"


def settings(ports: GatewayPorts, web_url: str) -> str:
    """Return the gateway's part of the TOML file. `web_url`: of the emulator, whose page may call the gateway."""
    return f"""
[statements]
key_path = "{KEY_FILE}"

[gateway]
port = {ports.port}
health_port = {ports.health_port}
allowed_origins = ["{web_url}", "{TUTORIAL_ORIGIN}"]

[gateway.store]
path = "{STORE_FILE}"
"""


@contextmanager
def running_gateway(folder: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a gateway with the settings in `folder` until the block ends. It is not ready yet. Raise `DemoError`."""
    with _log(folder).open("w", encoding="utf-8") as errors:
        module = ["flow_worker", "gateway"]
        process = processes.start(module, lock=GATEWAY_LOCK, stdout=None, stderr=errors, cwd=folder, env=environment)
        try:
            yield process
        finally:
            processes.stop(process, "gateway")


def wait_until_ready(process: subprocess.Popen[str], ports: GatewayPorts, folder: Path) -> None:
    """Return once the gateway is ready. Raise `DemoError`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = processes.log_tail(_log(folder))
            raise DemoError(f"The gateway exited during its start, with status {process.returncode}.\n{tail}")
        try:
            if httpx.get(f"http://127.0.0.1:{ports.health_port}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise DemoError(f"The gateway was not ready within {START_SECONDS:g} s.\n{processes.log_tail(_log(folder))}")


def _log(folder: Path) -> Path:
    return folder / "gateway.log"
