"""A worker whose network is frozen stops within `shutdown_seconds` with status 0, and leaves no request behind."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow_contracts.client import FlowClientSync
from flow_worker.demo.environment import ROLE, EmulatorClient
from tests.support.processes import Process, start_emulator, start_worker, wait_ready

pytestmark = pytest.mark.timeout(180)

STOP_SECONDS = 5.0
SETTINGS = {"shutdown_grace_seconds": "1.5", "shutdown_seconds": f"{STOP_SECONDS:g}"}
EXIT_SECONDS = 2.0
"""The margin for a busy machine: the worker process ends itself."""


@dataclass
class Frozen:
    """A running emulator and worker, and a broker that freezes."""

    folder: Path
    cleanup: ExitStack
    broker: Process = field(init=False)
    emulator: EmulatorClient = field(init=False)
    worker: Process = field(init=False)

    def __post_init__(self) -> None:
        self.broker, self.emulator = start_emulator(self.folder)
        self.cleanup.callback(self.broker.kill)
        self.worker, self.port = self._start(**SETTINGS)

    def _start(self, **settings: str) -> tuple[Process, int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port: int = server.getsockname()[1]
        worker = start_worker(self.folder, self.emulator, port, **settings)
        self.cleanup.callback(worker.kill)
        wait_ready(worker, port)
        return worker, port

    def put(self, path: str, document: dict[str, Any]) -> None:
        httpx.put(f"{self.emulator.web_url}/emulator/{path}", json=document).raise_for_status()

    def freeze(self, *, drop: bool = False) -> None:
        """Freeze Service Bus only; `drop` drops the connections first, so that the lanes open new ones."""
        self.put("servicebus", {"frozen": True, "drop_connections": drop})

    def submit(self) -> str:
        with FlowClientSync.from_connection_string(self.emulator.connection_string) as client:
            return client.submit("create-quote", {"customer": "x", "amount": 1}, claim=self.emulator.mint("ada", ROLE))

    def calls(self) -> int:
        response = httpx.get(f"{self.emulator.web_url}/emulator/flows/create-quote/calls")
        return len(response.raise_for_status().json()["calls"])

    def log(self) -> str:
        return self.worker.log.read_text(encoding="utf-8")

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the worker and check the deadline and the exit status."""
        began = time.monotonic()
        assert self.worker.stop(STOP_SECONDS + 30) == 0, self.log()
        assert time.monotonic() - began < STOP_SECONDS + EXIT_SECONDS, self.log()
        assert "Traceback" not in self.log()

    def result(self, sent: str) -> tuple[str, str | None]:
        """Thaw Service Bus, let another worker continue, and return the request's result."""
        self.put("servicebus", {"frozen": False, "drop_connections": True, "expire_locks": ["flow-requests"]})
        self._start()
        with FlowClientSync.from_connection_string(self.emulator.connection_string) as client:
            result = client.take(sent, 60)
            assert result is not None, "no result came"
            assert client.poll(sent) is None
        return result.status, result.error.code if result.error else None


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Frozen]:
    with ExitStack() as cleanup:
        yield Frozen(tmp_path, cleanup)


def test_a_worker_whose_lanes_are_connected_stops_in_time(frozen: Frozen) -> None:
    frozen.freeze()
    frozen.stop()


def test_a_worker_whose_lanes_open_a_link_stops_in_time(frozen: Frozen) -> None:
    frozen.freeze(drop=True)
    wait_ready(frozen.worker, frozen.port, ready=False)
    frozen.stop()


def test_a_worker_in_a_call_stops_in_time_and_its_request_is_answered_once(frozen: Frozen) -> None:
    frozen.put("flows/create-quote", {"delay_seconds": 60})
    sent = frozen.submit()
    frozen.until(lambda: frozen.calls() == 1)
    frozen.freeze()
    frozen.stop()
    assert frozen.result(sent) == ("unknown", "interrupted")
    assert frozen.calls() == 1


def test_a_worker_that_publishes_stops_in_time_and_its_result_is_published_once(frozen: Frozen) -> None:
    frozen.put(
        "servicebus", {"refusals": [{"at": "send", "condition": "com.microsoft:server-busy", "queue": "flow-replies"}]}
    )
    sent = frozen.submit()
    frozen.until(lambda: "send.retrying" in frozen.log())
    frozen.put("servicebus", {"refusals": []})
    frozen.freeze()
    frozen.stop()
    assert frozen.result(sent) == ("succeeded", None)
    assert frozen.calls() == 1


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows cannot stop a process and let it continue")
def test_a_worker_whose_whole_environment_is_frozen_stops_in_time(frozen: Frozen) -> None:
    frozen.submit()
    frozen.until(lambda: frozen.calls() == 1)
    frozen.broker.popen.send_signal(signal.SIGSTOP)
    try:
        frozen.stop()
    finally:
        frozen.broker.popen.send_signal(signal.SIGCONT)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows cannot stop a process and let it continue")
def test_a_worker_that_starts_in_a_frozen_environment_stops_in_time(frozen: Frozen) -> None:
    assert frozen.worker.stop() == 0
    frozen.broker.popen.send_signal(signal.SIGSTOP)
    try:
        frozen.worker = start_worker(frozen.folder, frozen.emulator, frozen.port, **SETTINGS)
        frozen.cleanup.callback(frozen.worker.kill)
        frozen.until(lambda: _is_live(frozen.port))
        frozen.stop()
    finally:
        frozen.broker.popen.send_signal(signal.SIGCONT)


def _is_live(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
