"""A broker in a thread, and a stand-in for the worker that uses the SDK."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from azure.core.exceptions import AzureError
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender

from flow_contracts.request import FlowRequest
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus.conversion import from_sdk, to_sdk
from servicebus_emulator.servicebus.configuration.queues import parse_queues
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.transport.amqp_server import AmqpServer

_T = TypeVar("_T")

_QUEUES = {
    "UserConfig": {
        "Namespaces": [
            {
                "Name": "tests",
                "Queues": [
                    {"Name": "flow-requests", "Properties": {"RequiresDuplicateDetection": True}},
                    {
                        "Name": "flow-replies",
                        "Properties": {
                            "RequiresSession": True,
                            "RequiresDuplicateDetection": True,
                            "LockDuration": "PT4S",
                        },
                    },
                    {"Name": "copied-replies", "Properties": {"RequiresSession": True, "LockDuration": "PT2S"}},
                ],
            }
        ]
    }
}


class BrokerThread:
    """An emulator with the two queues; its messages survive a restart."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="broker")
        self._thread.start()
        self.broker = Broker(parse_queues(_QUEUES))
        self._server = AmqpServer(self.broker)
        self._port = self._run(self._server.start("127.0.0.1", 0))

    @property
    def connection_string(self) -> str:
        return (
            f"Endpoint=sb://127.0.0.1:{self._port};SharedAccessKeyName=RootManageSharedAccessKey;"
            "SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
        )

    def count(self, queue: str) -> dict[str, int]:
        """The number of a queue's messages in each state."""
        return self.call(self.broker.counts)[queue]

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function in the broker's thread."""

        async def call() -> _T:
            return function()

        return self._run(call())

    def set_fault(self, **faults: object) -> None:
        """Set faults of the broker (see `ServiceBusFaults`)."""

        def switch() -> None:
            for name, value in faults.items():
                setattr(self.broker.faults, name, value)

        self.call(switch)

    def down(self) -> None:
        """Stop listening and drop all connections."""
        self._run(self._server.stop())

    def up(self) -> None:
        """Listen again on the same port, with the same messages."""
        self._server = AmqpServer(self.broker)
        self._run(self._server.start("127.0.0.1", self._port))

    def close(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:  # Any: asyncio's own protocol
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


SILENT = "silent"
"""The name of a flow that never responds."""


def echo(request: FlowRequest) -> FlowResult:
    """The result of a flow that responds with its input."""
    return FlowResult(
        status=Status.SUCCEEDED,
        flow=request.flow,
        output=request.input,
        output_encoding="json",
        correlation_id=request.correlation_id,
        request_message_id=request.message_id,
    )


class WorkerThread:
    """Replies to every request with its input, except to those for the flow `SILENT`. It reconnects after a failure."""

    def __init__(self, connection_string: str) -> None:
        self.seen: list[FlowRequest] = []
        self._connection_string = connection_string
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), name="worker")
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    async def _work(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(AzureError, OSError, AttributeError, ValueError, TypeError):
                await self._serve()

    async def _serve(self) -> None:
        async with (
            ServiceBusClient.from_connection_string(self._connection_string, retry_total=0) as sdk,
            sdk.get_queue_receiver("flow-requests", prefetch_count=50) as receiver,
            sdk.get_queue_sender("flow-replies") as sender,
        ):
            while not self._stopping.is_set():
                for raw in await receiver.receive_messages(max_message_count=1, max_wait_time=0.5):
                    await self._answer(FlowRequest.from_message(from_sdk(raw)), sender)
                    await receiver.complete_message(raw)

    async def _answer(self, request: FlowRequest, sender: ServiceBusSender) -> None:
        self.seen.append(request)
        if request.flow != SILENT:
            reply = echo(request).to_message(
                request.reply_to_session_id, timedelta(hours=1), reply_key=request.reply_key
            )
            await sender.send_messages(to_sdk(reply))
