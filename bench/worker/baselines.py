"""Processes the same requests with the SDK alone, without checks and without a journal.

`python -m bench.worker.baselines SUBJECT LANES` runs until it is killed. The environment variables
`BENCH_CONNECTION_STRING` and `BENCH_FLOW_URL` name the broker and the flow.

- `floor`: the minimum for this work with these libraries. Each lane has a receiver and a sender; bare aiohttp calls the
  flow.
- `documented`: the use that the SDK's documentation shows. One receiver with `AutoLockRenewer`, one sender,
  `httpx.AsyncClient` with its defaults, one task per message, at most `LANES` at once.
- `sequential`: the first sample of the SDK's documentation, which handles one message after the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from bench.worker.case import Subject
from bench.worker.flow_server import TRACKING

CONNECTION_STRING = "BENCH_CONNECTION_STRING"
FLOW_URL = "BENCH_FLOW_URL"
REQUESTS, REPLIES = "flow-requests", "flow-replies"


def _flow_call(message: ServiceBusReceivedMessage) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of the HTTP request to the flow."""
    body = json.loads(b"".join(message.body))
    headers = {"content-type": "application/json", TRACKING: message.correlation_id or ""}
    return json.dumps(body["input"]).encode(), headers


def _reply(message: ServiceBusReceivedMessage, answer: bytes) -> ServiceBusMessage:
    correlation_id = message.correlation_id or ""
    return ServiceBusMessage(
        answer,
        session_id=message.reply_to_session_id or correlation_id,
        correlation_id=correlation_id,
        message_id=f"result-{message.message_id}",
    )


async def floor(client: ServiceBusClient, url: str, lanes: int) -> None:
    """Run lanes that share nothing but the connection pool to the flow."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=lanes)) as http:
        await asyncio.gather(*(_lane(client, http, url) for _ in range(lanes)))


async def _lane(client: ServiceBusClient, http: aiohttp.ClientSession, url: str) -> None:
    async with client.get_queue_receiver(REQUESTS) as receiver, client.get_queue_sender(REPLIES) as sender:
        while True:
            for message in await receiver.receive_messages(max_message_count=1, max_wait_time=1):
                body, headers = _flow_call(message)
                async with http.post(url, data=body, headers=headers) as response:
                    answer = await response.read()
                await sender.send_messages(_reply(message, answer))
                await receiver.complete_message(message)


async def documented(client: ServiceBusClient, url: str, lanes: int) -> None:
    """Share one receiver and one sender between tasks, as the SDK's documentation does."""
    free_lanes = asyncio.Semaphore(lanes)
    async with (
        client.get_queue_receiver(REQUESTS) as receiver,
        client.get_queue_sender(REPLIES) as sender,
        httpx.AsyncClient() as http,
        AutoLockRenewer() as renewer,
        asyncio.TaskGroup() as tasks,
    ):

        async def handle(message: ServiceBusReceivedMessage) -> None:
            try:
                await _process(message, receiver, sender, http, url)
            finally:
                free_lanes.release()

        async for message in receiver:
            # The renewer takes over before the wait for a free lane: the message lock runs since the receive.
            renewer.register(receiver, message)
            await free_lanes.acquire()
            tasks.create_task(handle(message))


async def sequential(client: ServiceBusClient, url: str, lanes: int) -> None:
    """Handle one message after the other; `lanes` has no effect."""
    async with (
        client.get_queue_receiver(REQUESTS) as receiver,
        client.get_queue_sender(REPLIES) as sender,
        httpx.AsyncClient() as http,
    ):
        async for message in receiver:
            await _process(message, receiver, sender, http, url)


async def _process(
    message: ServiceBusReceivedMessage,
    receiver: ServiceBusReceiver,
    sender: ServiceBusSender,
    http: httpx.AsyncClient,
    url: str,
) -> None:
    body, headers = _flow_call(message)
    response = await http.post(url, content=body, headers=headers)
    await sender.send_messages(_reply(message, response.content))
    await receiver.complete_message(message)


BASELINES: dict[Subject, Callable[[ServiceBusClient, str, int], Awaitable[None]]] = {
    Subject.FLOOR: floor,
    Subject.DOCUMENTED: documented,
    Subject.SEQUENTIAL: sequential,
}


async def run(subject: Subject, lanes: int) -> None:
    """Process requests until the process is killed."""
    async with ServiceBusClient.from_connection_string(os.environ[CONNECTION_STRING]) as client:
        await BASELINES[subject](client, os.environ[FLOW_URL], lanes)


if __name__ == "__main__":
    asyncio.run(run(Subject(sys.argv[1]), int(sys.argv[2])))
