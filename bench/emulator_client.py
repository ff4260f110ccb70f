"""Measures one operation of azure-servicebus for Python against the emulator, in a separate process.

`python -m bench.emulator_client OPERATION COUNT` reads the connection string from the environment variable
`BENCH_CONNECTION_STRING`. It prints a JSON object: messages, seconds, and the processor seconds of this process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

CONNECTION_STRING = "BENCH_CONNECTION_STRING"
QUEUE = "speed"
_BODY = b"x" * 256
_BATCH = 100
_SENDERS = 8

Operation = Callable[[ServiceBusClient, int], Awaitable[float]]
"""Handles this many messages and returns the seconds that it took, without opening and closing links."""


async def send_single(client: ServiceBusClient, count: int) -> float:
    """Send one message after the other on one sender."""
    async with client.get_queue_sender(QUEUE) as sender:
        began = time.perf_counter()
        for _ in range(count):
            await sender.send_messages(ServiceBusMessage(_BODY))
        return time.perf_counter() - began


async def send_parallel(client: ServiceBusClient, count: int) -> float:
    """Send on several senders in parallel, one message after the other on each."""
    senders = [client.get_queue_sender(QUEUE) for _ in range(_SENDERS)]
    for sender in senders:
        await sender.__aenter__()  # a sender opens its link lazily; the clock must not include that
    began = time.perf_counter()

    async def send_share(sender: ServiceBusSender) -> None:
        for _ in range(count // _SENDERS):
            await sender.send_messages(ServiceBusMessage(_BODY))

    await asyncio.gather(*(send_share(sender) for sender in senders))
    seconds = time.perf_counter() - began
    for sender in senders:
        await sender.close()
    return seconds


async def send_batches(client: ServiceBusClient, count: int) -> float:
    """Send batches of 100 messages."""
    async with client.get_queue_sender(QUEUE) as sender:
        began = time.perf_counter()
        for _ in range(count // _BATCH):
            await sender.send_messages([ServiceBusMessage(_BODY) for _ in range(_BATCH)])
        return time.perf_counter() - began


async def receive_complete(client: ServiceBusClient, count: int) -> float:
    """Receive up to 100 messages at a time with peek-lock and complete each."""
    async with client.get_queue_receiver(QUEUE) as receiver:
        return await _receive(receiver, count, complete=True)


async def receive_delete(client: ServiceBusClient, count: int) -> float:
    """Receive up to 100 messages at a time with receive-and-delete."""
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with client.get_queue_receiver(QUEUE, receive_mode=mode) as receiver:
        return await _receive(receiver, count, complete=False)


async def _receive(receiver: ServiceBusReceiver, count: int, *, complete: bool) -> float:
    began, done = time.perf_counter(), 0
    while done < count:
        messages = await receiver.receive_messages(max_message_count=min(_BATCH, count - done), max_wait_time=10)
        if not messages:
            raise RuntimeError(f"received {done} of {count} messages, then no message for 10 s")
        done += len(messages)
        if complete:
            for message in messages:
                await receiver.complete_message(message)
    return time.perf_counter() - began


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (send_single, send_parallel, send_batches, receive_complete, receive_delete)
}


async def run(name: str, count: int) -> None:
    """Run one operation and print its measurement."""
    async with ServiceBusClient.from_connection_string(os.environ[CONNECTION_STRING]) as client:
        cpu_before = time.process_time()
        seconds = await OPERATIONS[name](client, count)
        cpu_seconds = time.process_time() - cpu_before
    measurement = {"messages": count, "seconds": seconds, "client_cpu_seconds": cpu_seconds}
    print(json.dumps(measurement))  # noqa: T201 - bench.emulator reads this line


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2])))
