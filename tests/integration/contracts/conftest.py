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
    """One for the module, as everything here: each SDK connection takes half a second to open and to close."""
    thread = BrokerThread()
    try:
        yield thread
    finally:
        thread.close()


@pytest.fixture(scope="module")
def answering(broker: BrokerThread) -> Iterator[WorkerThread]:
    """Someone who plays the worker's part."""
    thread = WorkerThread(broker.connection_string)
    try:
        yield thread
    finally:
        thread.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(broker: BrokerThread) -> AsyncIterator[FlowClient]:
    async with FlowClient.from_connection_string(broker.connection_string) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def sockets_left_by_the_sdk() -> AsyncIterator[None]:
    """A handshake that is cut short leaves the SDK's socket to the garbage collector: let it do its work here.

    To be used with `ignore_sockets_left_by_the_sdk`.
    """
    yield
    gc.collect()
    await asyncio.sleep(0)
