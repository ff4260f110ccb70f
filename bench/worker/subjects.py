"""What is measured beside the worker: the same job, done by the SDK's means alone, without any check or journal.

`python -m bench.worker.subjects NAME LANES` works until killed. Connection string and flow URL are in the environment.

- `floor`: the least that the job costs with these parts. Each lane has a receiver and a sender of its own; the flow is
  called by bare aiohttp.
- `documented`: what the SDK's documentation shows: one receiver, `AutoLockRenewer`, one sender, `httpx.AsyncClient` as
  it is, a task for each message, so many at a time.
- `sequential`: the documentation's first sample: one message after the other.
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

from bench.worker.flow import TRACKING

CONNECTION_STRING = "BENCH_CONNECTION_STRING"
FLOW_URL = "BENCH_FLOW_URL"
REQUESTS, REPLIES = "flow-requests", "flow-replies"


def _call(message: ServiceBusReceivedMessage) -> tuple[bytes, dict[str, str]]:
    """What is posted to the flow."""
    body = json.loads(b"".join(message.body))
    headers = {"content-type": "application/json", TRACKING: message.correlation_id or ""}
    return json.dumps(body["input"]).encode(), headers


def _reply(message: ServiceBusReceivedMessage, answer: bytes) -> ServiceBusMessage:
    identifier = message.correlation_id or ""
    return ServiceBusMessage(
        answer,
        session_id=message.reply_to_session_id or identifier,
        correlation_id=identifier,
        message_id=f"result-{message.message_id}",
    )


async def floor(client: ServiceBusClient, url: str, lanes: int) -> None:
    """See the module."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=lanes)) as http:
        await asyncio.gather(*(_lane(client, http, url) for _ in range(lanes)))


async def _lane(client: ServiceBusClient, http: aiohttp.ClientSession, url: str) -> None:
    async with client.get_queue_receiver(REQUESTS) as receiver, client.get_queue_sender(REPLIES) as sender:
        while True:
            for message in await receiver.receive_messages(max_message_count=1, max_wait_time=1):
                body, headers = _call(message)
                async with http.post(url, data=body, headers=headers) as response:
                    answer = await response.read()
                await sender.send_messages(_reply(message, answer))
                await receiver.complete_message(message)


async def documented(client: ServiceBusClient, url: str, lanes: int) -> None:
    """See the module."""
    places = asyncio.Semaphore(lanes)
    async with (
        client.get_queue_receiver(REQUESTS) as receiver,
        client.get_queue_sender(REPLIES) as sender,
        httpx.AsyncClient() as http,
        AutoLockRenewer() as renewer,
        asyncio.TaskGroup() as tasks,
    ):

        async def handle(message: ServiceBusReceivedMessage) -> None:
            try:
                await _handled(message, receiver, sender, http, url)
            finally:
                places.release()

        async for message in receiver:
            renewer.register(receiver, message)
            await places.acquire()
            tasks.create_task(handle(message))


async def sequential(client: ServiceBusClient, url: str, lanes: int) -> None:
    """See the module."""
    async with (
        client.get_queue_receiver(REQUESTS) as receiver,
        client.get_queue_sender(REPLIES) as sender,
        httpx.AsyncClient() as http,
    ):
        async for message in receiver:
            await _handled(message, receiver, sender, http, url)


async def _handled(
    message: ServiceBusReceivedMessage,
    receiver: ServiceBusReceiver,
    sender: ServiceBusSender,
    http: httpx.AsyncClient,
    url: str,
) -> None:
    body, headers = _call(message)
    response = await http.post(url, content=body, headers=headers)
    await sender.send_messages(_reply(message, response.content))
    await receiver.complete_message(message)


SUBJECTS: dict[str, Callable[[ServiceBusClient, str, int], Awaitable[None]]] = {
    "floor": floor,
    "documented": documented,
    "sequential": sequential,
}


async def work(name: str, lanes: int) -> None:
    """Until killed."""
    async with ServiceBusClient.from_connection_string(os.environ[CONNECTION_STRING]) as client:
        await SUBJECTS[name](client, os.environ[FLOW_URL], lanes)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], int(sys.argv[2])))
