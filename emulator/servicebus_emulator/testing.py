"""A Service Bus for tests, and trouble for it on demand: for this project's tests and for those of others.

With pytest, the installed package registers the fixture `service_bus`: each test that takes it gets its own Service
Bus, with the queues that the fixture `service_bus_queues` names::

    @pytest.fixture
    def service_bus_queues():
        return ["orders", QueueSettings("replies", requires_session=True)]

    def test_an_order_is_sent_again_when_the_bus_is_busy(service_bus):
        service_bus.be_busy(times=1)
        send_order(service_bus.connection_string)
        assert service_bus.counts("orders")["active"] == 1

Without pytest, or with another life time: `emulator` in an event loop, `emulator_in_thread` beside what blocks.
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

__all__ = ["Control", "FaultPoint", "InjectedRefusal", "QueueSettings", "ServiceBus", "emulator", "emulator_in_thread"]

_START_SECONDS = 30.0


class ServiceBus(Control):
    """A running Service Bus. All that can be done to it is in `Control`."""

    def __init__(self, broker: Broker, server: AmqpServer, clock: MovableClock, host: str, port: int) -> None:
        super().__init__(broker, server, clock)
        self.port = port
        """Where it listens for AMQP."""
        self.connection_string = connection_string(host, port)
        """What an SDK is given; no secret is in it."""


@asynccontextmanager
async def emulator(*queues: QueueSettings | str, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[ServiceBus]:
    """Serve these queues in this event loop until the block ends; port 0 picks a free one.

    A queue may be given by its name, with the service's defaults. Raises `OSError` if the port cannot be had.
    """
    clock = MovableClock()
    broker = Broker([QueueSettings(one) if isinstance(one, str) else one for one in queues], clock=clock)
    server = AmqpServer(broker)
    bound = await server.start(host, port)
    try:
        yield ServiceBus(broker, server, clock, host, bound)
    finally:
        broker.faults.frozen = False  # else it would not say goodbye
        await server.stop()


@contextmanager
def emulator_in_thread(*queues: QueueSettings | str, host: str = "127.0.0.1", port: int = 0) -> Iterator[ServiceBus]:
    """As `emulator`, in a thread of its own: for what blocks, and for event loops that come and go."""
    started: Future[tuple[ServiceBus, Callable[[], object]]] = Future()
    thread = threading.Thread(target=_serve, args=(started, emulator(*queues, host=host, port=port)), name="emulator")
    thread.start()
    try:
        bus, end = started.result(_START_SECONDS)
        try:
            yield bus
        finally:
            end()
    finally:
        thread.join()


def _serve(
    started: Future[tuple[ServiceBus, Callable[[], object]]], running: AbstractAsyncContextManager[ServiceBus]
) -> None:
    async def until_told() -> None:
        told = asyncio.Event()
        async with running as bus:
            started.set_result((bus, lambda: bus.loop.call_soon_threadsafe(told.set)))
            await told.wait()

    try:
        asyncio.run(until_told())
    except Exception as error:
        if started.done():
            raise
        started.set_exception(error)
