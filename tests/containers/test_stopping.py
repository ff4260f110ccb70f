"""Starting and stopping the container, in good times and bad."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from flow_contracts.client import FlowClient
from tests.containers.harness import (
    ROLE,
    START_SECONDS,
    Emulator,
    container,
    free_port,
    running_worker,
    settings_for,
    stop,
)

pytestmark = pytest.mark.timeout(600)  # the first test builds the image


async def test_docker_stop_lets_it_finish_the_flow_at_hand_and_exit_0(image: str, emulator: Emulator) -> None:
    with running_worker(image, emulator) as worker:
        async with FlowClient.from_connection_string(emulator.connection_string) as client:
            sent = await client.submit("slow-report", {}, claim=emulator.mint("ada", ROLE))
            until(lambda: emulator.calls("slow-report") > 0)
            assert stop(worker) == 0
            result = await client.poll(sent)
    assert result is not None
    assert result.status == "succeeded"


def test_without_service_bus_it_lives_but_is_not_ready_and_stops_with_0(image: str, emulator: Emulator) -> None:
    nobody = f"sb://127.0.0.1:{free_port()}"
    bus = f"Endpoint={nobody};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true"
    alone = container(image, settings_for(emulator) | {"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": bus})
    # on a network of its own: the probes come from outside, as an orchestrator's do
    alone.ports["8080/tcp"] = ("127.0.0.1", None)  # type: ignore[assignment]  # docker takes pairs, the hint does not
    with alone as worker:
        url = f"http://127.0.0.1:{worker.get_exposed_port(8080)}/health"
        until(lambda: answer(f"{url}/live") == 200)
        assert answer(f"{url}/ready") == 503
        assert worker.exec(["flow-worker", "health"]).exit_code == 1
        assert stop(worker) == 0


def answer(url: str) -> int | None:
    """The HTTP status; None as long as nobody answers."""
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return None


def until(holds: Callable[[], bool]) -> None:
    """Look again and again, for what is looked at is in another process."""
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not so within {START_SECONDS} s"
        time.sleep(0.05)
