from __future__ import annotations

import asyncio
import gc
import tracemalloc  # noqa: F401 - pytest's hook imports it late, which fails in two threads at a time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from flow_contracts.client import FlowClient
from tests.integration.contracts.broker_thread import BrokerThread, WorkerThread


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerThread]:
    """One broker per module, because each SDK connection takes half a second to open and to close."""
    thread = BrokerThread()
    try:
        yield thread
    finally:
        thread.close()


@pytest.fixture(scope="module")
def answering(broker: BrokerThread) -> Iterator[WorkerThread]:
    """A stand-in for the worker."""
    thread = WorkerThread(broker.connection_string)
    try:
        yield thread
    finally:
        thread.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(broker: BrokerThread) -> AsyncIterator[FlowClient]:
    async with FlowClient.from_connection_string(broker.connection_string) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def sockets_left_by_the_sdk() -> AsyncIterator[None]:
    """Collect the sockets that the SDK leaves open after an interrupted handshake.

    Use it with `ignore_sockets_left_by_the_sdk`.
    """
    yield
    gc.collect()
    await asyncio.sleep(0)
