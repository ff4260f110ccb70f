"""One system for each module: an emulator, a worker that is ready, a sender's client and its reply session."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from flow_contracts.client import Background, FlowClient
from flow_worker.settings import Settings
from tests.support.system import System, configured, running_system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with running_system(monkeypatch, configured({"more-requests": {}})) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(system: System) -> Settings:
    queues = [{"name": "flow-requests", "lanes": 3}, {"name": "more-requests", "lanes": 1}]
    return system.settings(request_queues=queues, http={"max_response_bytes": 1_000_000})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(system: System, settings: Settings) -> AsyncIterator[FlowClient]:
    """A client of a sender, and a running worker."""
    async with system.worker(settings), system.client() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def background(client: FlowClient) -> AsyncIterator[Background]:
    async with client.background() as one:
        yield one
