"""A Service Bus for tests, with faults on demand.

The installed package registers the pytest fixture `service_bus`. Each test that takes it gets a Service Bus of its
own, with the queues that the fixture `service_bus_queues` names::

    @pytest.fixture
    def service_bus_queues():
        return ["orders", QueueSettings("replies", requires_session=True)]

    def test_an_order_is_sent_again_after_server_busy(service_bus):
        service_bus.throttle(times=1)
        send_order(service_bus.connection_string)
        assert service_bus.counts("orders")["active"] == 1

Without pytest, or for another lifetime, use `running_service_bus` in an event loop, or
`running_service_bus_in_thread` for code that blocks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from servicebus_emulator.control import Control
from servicebus_emulator.servicebus.clock import MovableClock
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.faults import FaultPoint, InjectedRefusal
from servicebus_emulator.transport.addresses import connection_string
from servicebus_emulator.transport.amqp_server import AmqpServer

__all__ = [
    "Control",
    "EmulatedServiceBus",
    "FaultPoint",
    "InjectedRefusal",
    "QueueSettings",
    "running_service_bus",
    "running_service_bus_in_thread",
]

_START_SECONDS = 30.0


class EmulatedServiceBus(Control):
    """A running Service Bus: its address, and the methods of `Control`."""

    def __init__(self, broker: Broker, server: AmqpServer, clock: MovableClock, host: str, port: int) -> None:
        super().__init__(broker, server, clock)
        self.port = port
        """The AMQP port."""
        self.connection_string = connection_string(host, port)
        """The connection string for SDKs. Its key is public, not a secret."""


@asynccontextmanager
async def running_service_bus(
    *queues: QueueSettings | str, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[EmulatedServiceBus]:
    """Serve these queues in the current event loop until the block ends. Port 0 picks a free port.

    A queue given by its name has the service's defaults. Raises `OSError` if the port is in use.
    """
    clock = MovableClock()
    broker = Broker([QueueSettings(queue) if isinstance(queue, str) else queue for queue in queues], clock=clock)
    server = AmqpServer(broker)
    bound = await server.start(host, port)
    try:
        yield EmulatedServiceBus(broker, server, clock, host, bound)
    finally:
        broker.faults.frozen = False  # a frozen broker would not send close frames
        await server.stop()


@contextmanager
def running_service_bus_in_thread(
    *queues: QueueSettings | str, host: str = "127.0.0.1", port: int = 0
) -> Iterator[EmulatedServiceBus]:
    """Serve as `running_service_bus` does, but in a separate thread, so that the caller may block."""
    started: Future[tuple[EmulatedServiceBus, Callable[[], object]]] = Future()
    thread = threading.Thread(
        target=_serve, args=(started, running_service_bus(*queues, host=host, port=port)), name="emulator"
    )
    thread.start()
    try:
        bus, stop = started.result(_START_SECONDS)
        try:
            yield bus
        finally:
            stop()
    finally:
        thread.join()


def _serve(
    started: Future[tuple[EmulatedServiceBus, Callable[[], object]]],
    running: AbstractAsyncContextManager[EmulatedServiceBus],
) -> None:
    async def serve() -> None:
        stopped = asyncio.Event()
        async with running as bus:
            started.set_result((bus, lambda: bus.loop.call_soon_threadsafe(stopped.set)))
            await stopped.wait()

    try:
        asyncio.run(serve())
    except Exception as error:
        # After the start, no caller waits for `started`: let the thread report the error.
        if started.done():
            raise
        started.set_exception(error)
