"""Runs a worker as a process beside an emulator in the test's process."""

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


class WorkerProcess:
    """A worker process, its log and its health endpoint."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, port: int) -> None:
        self.process = process
        self._log = log
        self._port = port

    @property
    def lines(self) -> list[str]:
        """The lines of its log."""
        return self._log.read_text(encoding="utf-8").splitlines()

    def events(self, event: str) -> int:
        """Return how often the worker has logged the event."""
        return sum(f"[{event} " in line for line in self.lines)

    async def health(self) -> tuple[int, float]:
        """Return the readiness probe's status, and the offset that it reports; 0 while nothing answers."""
        try:
            async with httpx.AsyncClient() as client:
                response = await client.get(f"http://127.0.0.1:{self._port}/health/ready")
        except httpx.HTTPError:
            return 0, 0.0
        return response.status_code, float(response.json()["clock"]["offset_seconds"])


@asynccontextmanager
async def worker_process(
    system: System, skew: float = 0.0, jump: float = 0.0, **changes: object
) -> AsyncIterator[WorkerProcess]:
    """Run a worker in a process with a clock that is wrong by `skew` seconds; see `skewed_worker`."""
    port = free_port()
    document = worker_settings(system.emulator, system.flows) | {
        "journal": {"path": str(system.folder / "journal.sqlite3")},
        "health": {"port": port},
        **changes,
    }
    settings, log = system.folder / f"settings{port}.json", system.folder / f"worker{port}.log"
    settings.write_text(json.dumps(document), encoding="utf-8")
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.support.skewed_worker", str(settings), str(skew), str(jump)),
            cwd=CHECKOUT,
            env={**os.environ, **system.emulator.web.environment()},
            stderr=errors,
        )
        worker = WorkerProcess(process, log, port)
        try:
            async with asyncio.timeout(2 * WAIT):
                while (await worker.health())[0] != 200:  # noqa: ASYNC110 - no event announces it
                    await asyncio.sleep(0.1)
            yield worker
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
