"""Start and stop of the container, with and without Service Bus."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from flow_contracts.client import FlowClient
from flow_worker.demo.processes import free_port
from tests.containers.harness import (
    ROLE,
    START_SECONDS,
    Emulator,
    container,
    running_worker,
    settings_for,
    stop,
)

pytestmark = pytest.mark.timeout(600)  # the first test builds the image


async def test_docker_stop_lets_the_worker_finish_the_running_call_and_exit_with_0(
    image: str, emulator: Emulator
) -> None:
    with running_worker(image, emulator) as worker:
        async with FlowClient.from_connection_string(emulator.connection_string) as client:
            sent = await client.submit("slow-report", {}, claim=emulator.mint("ada", ROLE))
            until(lambda: emulator.calls("slow-report") > 0)
            assert stop(worker) == 0
            result = await client.poll(sent)
    assert result is not None
    assert result.status == "succeeded"


def test_without_service_bus_the_worker_is_live_but_not_ready_and_exits_with_0(image: str, emulator: Emulator) -> None:
    closed_port = f"sb://127.0.0.1:{free_port()}"
    bus = f"Endpoint={closed_port};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true"
    isolated = container(image, settings_for(emulator) | {"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": bus})
    # On a separate network the probes come from outside the container, as those of an orchestrator do.
    isolated.ports["8080/tcp"] = ("127.0.0.1", None)  # type: ignore[assignment]  # docker-py accepts pairs, its type hint does not
    with isolated as worker:
        url = f"http://127.0.0.1:{worker.get_exposed_port(8080)}/health"
        until(lambda: http_status(f"{url}/live") == 200)
        assert http_status(f"{url}/ready") == 503
        assert worker.exec(["flow-worker", "health"]).exit_code == 1
        assert stop(worker) == 0


def http_status(url: str) -> int | None:
    """Return the HTTP status, or None while the port does not answer."""
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return None


def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds: it depends on another process, which sends no event."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"the condition does not hold after {START_SECONDS} s"
        time.sleep(0.05)
