"""Runs `flow-worker gateway` as a process beside an emulator in the test's process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from flow_worker.demo.processes import free_port
from tests.support.processes import CHECKOUT
from tests.support.system import WAIT, System, worker_settings


class GatewayProcess:
    """A gateway process and its log."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, port: int, health_port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._health_port = health_port

    @property
    def log(self) -> str:
        """Its log so far."""
        return self._log.read_text(encoding="utf-8")

    async def readiness(self) -> int:
        """Return the status of the readiness probe; 0 while nothing answers."""
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://127.0.0.1:{self._health_port}/health/ready")).status_code
        except httpx.HTTPError:
            return 0

    def client(self, token: str) -> httpx.AsyncClient:
        """Return a client with this token."""
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)


@asynccontextmanager
async def gateway_process(system: System, **changes: object) -> AsyncIterator[GatewayProcess]:
    """Run a gateway until the block ends: ready at the start. `changes` replace variables of its settings."""
    port, health_port = free_port(), free_port()
    document = worker_settings(system.emulator, system.flows)
    variables = {
        "SERVICEBUS": document["servicebus"],
        "CLAIMS": document["claims"],
        "FLOWS": {
            name: {key: one for key, one in flow.items() if key != "url"} for name, flow in document["flows"].items()
        },
        "PLAIN_HTTP_HOSTS": document["plain_http_hosts"],
        "STATEMENTS": {"key_path": str(system.folder / "gateway-key.pem")},
        "GATEWAY": {
            "port": port,
            "health_port": health_port,
            "store": {"path": str(system.folder / "gateway.sqlite3")},
        },
    } | changes
    environment = {f"FLOW_WORKER_{name}": json.dumps(value) for name, value in variables.items()}
    log = system.folder / f"gateway{port}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "flow_worker", "gateway"),
            cwd=CHECKOUT,
            env={**os.environ, **system.emulator.web.environment(), **environment},
            stderr=errors,
        )
        gateway = GatewayProcess(process, log, port, health_port)
        try:
            async with asyncio.timeout(WAIT):
                while await gateway.readiness() != 200:
                    assert process.returncode is None, gateway.log
                    await asyncio.sleep(0.05)
            yield gateway
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
