"""The processes of the storm: broker, cloud, flows, journal's store and workers, each as an operator starts them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from flow_worker.demo.environment import EmulatorClient
from flow_worker.demo.processes import free_port
from tests.faults.storm import configuration as config
from tests.faults.storm.proxy import Network, Proxy
from tests.faults.storm.worker import CLOCK, MUTANT
from tests.support.azurite import azurite, connection_string
from tests.support.processes import CHECKOUT, Process, is_ready, start
from tests.support.small_disk import CannotMount, mount

READY_SECONDS = 90.0
_DISK = "journal-disk"


@dataclass
class Worker:
    """One worker process: restarted with other properties, or found dead and started again."""

    number: int
    folder: Path
    proxy: Proxy
    health_port: int
    environment: Mapping[str, str]
    mutant: str | None = None
    process: Process | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the fault that acts on the process."""
    clock_seconds: float = 0.0

    @property
    def log(self) -> Path:
        """The log of all the processes that ran in this worker's place."""
        return self.folder / f"worker-{self.number}.log"

    def start(self, *, clock_seconds: float = 0.0) -> None:
        """Start the process, with a wrong clock if `clock_seconds` is not 0."""
        self.kill()  # closes the output of a process that was found dead
        self.clock_seconds = clock_seconds
        environment = dict(self.environment)
        module = "flow_worker"
        if clock_seconds or self.mutant:
            module = "tests.faults.storm.worker"
            environment |= {CLOCK: str(clock_seconds), MUTANT: self.mutant or ""}
        self.process = start([module, "run"], self.log, environment, self.folder)

    @property
    def status(self) -> int | None:
        """The exit status; None while the process runs."""
        return None if self.process is None else self.process.popen.poll()

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        if self.process is not None:
            self.process.kill()

    async def stop(self) -> int:
        """Stop the process (SIGTERM) and return its exit status; -1 if it did not end in time."""
        assert self.process is not None
        try:
            return await asyncio.to_thread(self.process.stop, config.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return -1

    def send(self, name: str) -> None:
        """Send a signal by its name; do nothing if the process is dead."""
        if self.process is not None and self.status is None:
            self.process.popen.send_signal(getattr(signal, name))

    async def wait_ready(self) -> bool:
        """Wait until the worker reports readiness; return whether it did."""
        give_up_at = time.monotonic() + READY_SECONDS
        while time.monotonic() < give_up_at and self.status is None:
            if await asyncio.to_thread(is_ready, self.health_port):
                return True
            await asyncio.sleep(0.2)
        return False


@dataclass
class World:
    """All running processes."""

    folder: Path
    journal: str
    broker_port: int
    broker_web: str
    admin_port: int
    cloud: EmulatorClient
    flows_url: str
    store_proxy: Proxy | None
    """In front of the table service; None for an SQLite journal."""
    disk: Path | None
    """The small disk of an SQLite journal; None if this user may not mount one."""
    broker: Process | None = None
    broker_busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    workers: list[Worker] = field(default_factory=list)
    bad_exits: list[str] = field(default_factory=list)
    """The workers that ended by themselves, or stopped with another status than 0."""

    @property
    def calls_file(self) -> Path:
        """The flows' own record."""
        return self.folder / "calls.jsonl"

    @property
    def journal_path(self) -> Path:
        """The file of an SQLite journal."""
        return (self.disk or self.folder) / "journal.sqlite3"

    async def start_broker(self) -> None:
        """Start the broker on its data folder, and wait until it listens."""
        ports = [*("--amqp-port", str(self.broker_port)), *("--admin-port", str(self.admin_port))]
        web_port = self.broker_web.rsplit(":", 1)[1]
        arguments = ["serve", "--config", "broker.json", "--data", "broker", *ports, "--http-port", web_port]
        self.broker = start(["servicebus_emulator", *arguments], self.folder / "broker.log", _python(), self.folder)
        await asyncio.to_thread(_ready_line, self.broker)

    def kill_broker(self) -> None:
        """Kill the broker (SIGKILL); its data folder stays."""
        if self.broker is not None:
            self.broker.kill()

    async def counts(self) -> dict[str, dict[str, int]]:
        """Return the broker's own numbers of messages. Raises `httpx.HTTPError`."""
        async with httpx.AsyncClient(timeout=30) as http:
            response = await http.get(f"{self.broker_web}/emulator/queues")
            counts: dict[str, dict[str, int]] = response.raise_for_status().json()
            return counts

    async def control(self, path: str, change: Mapping[str, Any]) -> None:
        """Change the cloud's identity endpoint, issuer or Dataverse while they run."""
        async with httpx.AsyncClient(timeout=60) as http:
            response = await http.put(f"{self.cloud.web_url}/emulator/{path}", json=dict(change))
            response.raise_for_status()

    async def watch_workers(self) -> None:
        """Start every worker again that ended by itself, until cancelled."""
        while True:
            await asyncio.sleep(0.5)
            for worker in self.workers:
                if worker.status is not None and not worker.busy.locked():
                    self.bad_exits.append(f"worker {worker.number} ended by itself with status {worker.status}")
                    worker.kill()  # closes its pipe
                    worker.start()

    async def heal(self) -> None:
        """End every fault that has a duration."""
        for proxy in (*(worker.proxy for worker in self.workers), self.store_proxy):
            if proxy is not None and proxy.state is not Network.SOUND:
                proxy.switch(Network.SOUND)


@asynccontextmanager
async def running_world(
    folder: Path,
    journal: str,
    *,
    workers: int,
    window_seconds: int,
    lock_seconds: int,
    disk_megabytes: int,
    mutant: str | None = None,
) -> AsyncIterator[World]:
    """Start all processes, and end them when the block ends. `mutant` replaces every worker by a mutated copy."""
    (folder / "broker.json").write_text(config.broker_configuration(window_seconds, lock_seconds), encoding="utf-8")
    async with AsyncExitStack() as stack:
        cloud_process = start(
            ["servicebus_emulator", "serve", "--amqp-port", "0", "--http-port", "0"], folder / "cloud.log", _python()
        )
        stack.callback(cloud_process.kill)
        flows = start(["tests.faults.storm.flow_server", "calls.jsonl"], folder / "flows.log", _python(), folder)
        stack.callback(flows.kill)
        cloud = EmulatorClient.from_ready_line(await asyncio.to_thread(_ready_line, cloud_process))
        flows_url = f"http://127.0.0.1:{(await asyncio.to_thread(_ready_line, flows)).strip()}"
        store_proxy = await _table_proxy(stack, folder) if journal == "table" else None
        world = World(
            folder=folder,
            journal=journal,
            broker_port=free_port(),
            broker_web=f"http://127.0.0.1:{free_port()}",
            admin_port=free_port(),
            cloud=cloud,
            flows_url=flows_url,
            store_proxy=store_proxy,
            disk=_mounted_disk(stack, folder, disk_megabytes) if journal == "sqlite" else None,
        )
        await world.start_broker()
        stack.callback(world.kill_broker)
        for number in range(workers):
            await _add_worker(stack, world, number, mutant)
        yield world


async def _add_worker(stack: AsyncExitStack, world: World, number: int, mutant: str | None) -> None:
    proxy = Proxy(world.broker_port)
    await proxy.start()
    stack.push_async_callback(proxy.stop)
    addresses = config.Addresses(proxy.port, free_port(), world.cloud, world.flows_url, _journal_settings(world))
    settings = world.folder / f"worker-{number}.toml"
    settings.write_text(config.as_toml(config.worker_settings(addresses)), encoding="utf-8")
    inherited = {name: value for name, value in _python().items() if not name.startswith("FLOW_WORKER_")}
    environment = inherited | {
        "IDENTITY_ENDPOINT": world.cloud.identity_endpoint,
        "IDENTITY_HEADER": world.cloud.identity_header,
        "FLOW_WORKER_CONFIG": str(settings),
    }
    worker = Worker(number, world.folder, proxy, addresses.health_port, environment, mutant)
    worker.start()
    stack.callback(worker.kill)
    stack.callback(worker.send, "SIGCONT" if sys.platform != "win32" else "SIGTERM")
    world.workers.append(worker)


def _journal_settings(world: World) -> dict[str, Any]:
    if world.store_proxy is None:
        return {"path": str(world.journal_path), "max_log_bytes": config.MAX_LOG_BYTES}
    return {"backend": "table", "table_connection_string": connection_string(world.store_proxy.port)}


async def _table_proxy(stack: AsyncExitStack, folder: Path) -> Proxy:
    port = free_port()
    await stack.enter_async_context(azurite(folder, port))
    proxy = Proxy(port)
    await proxy.start()
    stack.push_async_callback(proxy.stop)
    return proxy


def _mounted_disk(stack: AsyncExitStack, folder: Path, megabytes: int) -> Path | None:
    """Mount a small disk in memory for the journal; return None where that is not permitted."""
    disk = folder / _DISK
    try:
        mount(disk, megabytes)
    except CannotMount:
        return None
    stack.callback(_unmount, disk)
    return disk


def _unmount(disk: Path) -> None:
    for entry in disk.glob("journal.sqlite3*"):
        with contextlib.suppress(OSError):
            shutil.copy(entry, disk.parent)  # for a person who looks at a failure
    subprocess.run(["umount", "-l", str(disk)], capture_output=True, check=False)
    with contextlib.suppress(OSError):
        disk.rmdir()


def _python() -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}


def _ready_line(process: Process) -> str:
    assert process.popen.stdout is not None
    line = process.popen.stdout.readline()
    assert line, process.log.read_text(encoding="utf-8")[-2000:]
    return line
