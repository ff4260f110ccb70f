"""What azure-servicebus for Python does to the emulator as fast as it can, in a process of its own.

`python -m bench.emulator_client NAME COUNT`, the connection string in the environment. Prints a JSON object: messages,
seconds, and the processor seconds that this process has used.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

CONNECTION_STRING = "BENCH_CONNECTION_STRING"
QUEUE = "speed"
_BODY = b"x" * 256
_BATCH = 100
_SENDERS = 8

Play = Callable[[ServiceBusClient, int], Awaitable[float]]
"""Returns the seconds it took, without opening and closing."""


async def send_single(client: ServiceBusClient, count: int) -> float:
    """One after the other, on one sender."""
    async with client.get_queue_sender(QUEUE) as sender:
        began = time.perf_counter()
        for _ in range(count):
            await sender.send_messages(ServiceBusMessage(_BODY))
        return time.perf_counter() - began


async def send_parallel(client: ServiceBusClient, count: int) -> float:
    """On several senders at a time, each one after the other."""
    senders = [client.get_queue_sender(QUEUE) for _ in range(_SENDERS)]
    for sender in senders:
        await sender.__aenter__()
    began = time.perf_counter()

    async def lane(number: int) -> None:
        for _ in range(count // _SENDERS):
            await senders[number].send_messages(ServiceBusMessage(_BODY))

    await asyncio.gather(*(lane(number) for number in range(_SENDERS)))
    seconds = time.perf_counter() - began
    for sender in senders:
        await sender.close()
    return seconds


async def send_batches(client: ServiceBusClient, count: int) -> float:
    """A hundred at a time."""
    async with client.get_queue_sender(QUEUE) as sender:
        began = time.perf_counter()
        for _ in range(count // _BATCH):
            await sender.send_messages([ServiceBusMessage(_BODY) for _ in range(_BATCH)])
        return time.perf_counter() - began


async def receive_complete(client: ServiceBusClient, count: int) -> float:
    """A hundred at a time, each completed."""
    async with client.get_queue_receiver(QUEUE) as receiver:
        return await _received(receiver, count, complete=True)


async def receive_delete(client: ServiceBusClient, count: int) -> float:
    """A hundred at a time, gone as they come."""
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with client.get_queue_receiver(QUEUE, receive_mode=mode) as receiver:
        return await _received(receiver, count, complete=False)


async def _received(receiver: ServiceBusReceiver, count: int, *, complete: bool) -> float:
    began, done = time.perf_counter(), 0
    while done < count:
        messages = await receiver.receive_messages(max_message_count=min(_BATCH, count - done), max_wait_time=10)
        if not messages:
            raise RuntimeError(f"only {done} of {count} messages came")
        done += len(messages)
        if complete:
            for message in messages:
                await receiver.complete_message(message)
    return time.perf_counter() - began


PLAYS: dict[str, Play] = {
    play.__name__: play for play in (send_single, send_parallel, send_batches, receive_complete, receive_delete)
}


async def play(name: str, count: int) -> None:
    """Play it, and say how long it took."""
    async with ServiceBusClient.from_connection_string(os.environ[CONNECTION_STRING]) as client:
        before = time.process_time()
        seconds = await PLAYS[name](client, count)
        said = {"messages": count, "seconds": seconds, "client_cpu_seconds": time.process_time() - before}
    print(json.dumps(said))  # noqa: T201 - what the bench reads


if __name__ == "__main__":
    asyncio.run(play(sys.argv[1], int(sys.argv[2])))
