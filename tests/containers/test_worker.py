"""The worker in its container processes requests from an emulator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from testcontainers.core.container import DockerContainer

from flow_contracts.client import FlowClient
from tests.containers.harness import ROLE, Emulator, running_worker

pytestmark = pytest.mark.timeout(600)  # the first test builds the image

WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def worker(image: str, emulator: Emulator) -> Iterator[DockerContainer]:
    with running_worker(image, emulator) as running:
        yield running


@pytest.mark.usefixtures("worker")
async def test_a_request_gets_the_flows_output(emulator: Emulator) -> None:
    async with FlowClient.from_connection_string(emulator.connection_string) as client:
        claim = emulator.mint("ada", ROLE)
        sent = await client.submit("create-quote", {"customer": "Contoso", "amount": 1250}, claim=claim)
        result = await client.wait(sent, timeout=WAIT_SECONDS)
    assert result.status == "succeeded"
    assert isinstance(result.output, dict)
    assert result.output["customer"] == "Contoso"


@pytest.mark.usefixtures("worker")
async def test_a_sender_without_the_role_is_refused(emulator: Emulator) -> None:
    async with FlowClient.from_connection_string(emulator.connection_string) as client:
        sent = await client.submit("create-quote", {}, claim=emulator.mint("bob"))
        result = await client.wait(sent, timeout=WAIT_SECONDS)
    assert result.status == "refused"


def test_the_log_shows_the_settings_without_secrets(worker: DockerContainer, emulator: Emulator) -> None:
    log = "".join(part.decode() for part in worker.get_logs())
    assert emulator.audience in log
    assert "SAS_KEY_VALUE" not in log
