"""Serves a Service Bus for one test: in the test's event loop, or in a thread for a synchronous test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.transport.addresses import connection_string
from servicebus_emulator.transport.amqp_server import AmqpServer

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Bus:
    """A running Service Bus."""

    connection_string: str
    port: int
    broker: Broker
    server: AmqpServer


@asynccontextmanager
async def emulator(*queues: QueueSettings, port: int = 0) -> AsyncIterator[Bus]:
    """Serve these queues in the running event loop; port 0 takes a free port."""
    broker = Broker(queues)
    server = AmqpServer(broker)
    bound = await server.start(HOST, port)
    try:
        yield Bus(connection_string(HOST, bound), bound, broker, server)
    finally:
        await server.stop()


@contextmanager
def emulator_in_thread(*queues: QueueSettings, port: int = 0) -> Iterator[Bus]:
    """Serve these queues in a separate thread. A blocking client would stop an event loop in its own thread."""
    ready: list[Bus] = []
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with emulator(*queues, port=port) as bus:
            ready.append(bus)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="emulator")
    thread.start()
    try:
        assert started.wait(10), "the emulator did not start"
        yield ready[0]
    finally:
        stop.set()
        thread.join(10)
