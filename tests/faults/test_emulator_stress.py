"""The emulator with misbehaving clients and under load: other clients are served, and memory is bounded.

Smaller than `python -m bench.emulator --stress`, which has 2,000 connections and 1,000,000 messages.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psutil
import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient

from servicebus_emulator.amqp.framing import AMQP_HEADER
from servicebus_emulator.amqp.performatives import Attach, Source, Target
from tests.support.amqp_client import Client, connect
from tests.support.processes import Process, start

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

HOST = "127.0.0.1"
GOOD, BUSY = "good", "busy"
SLOWEST_SECONDS = 3.0
"""The maximum of a well-behaved client's round trip beside the others. Alone, it takes about 10 ms."""
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("stress")
    queues = [{"Name": name, "Properties": {"MaxSizeInMegabytes": 5120}} for name in (GOOD, BUSY)]
    configuration = folder / "config.json"
    configuration.write_text(json.dumps({"UserConfig": {"Namespaces": [{"Queues": queues}]}}), encoding="utf-8")
    ports = ["--amqp-port", "0", "--http-port", "0"]
    process = start(
        ["servicebus_emulator", "serve", "--access", "open", "--config", str(configuration), *ports], folder / "log"
    )
    yield process
    process.kill()


@pytest.fixture(scope="module")
def connection_string(emulator: Process) -> str:
    assert emulator.popen.stdout is not None
    connection_string: str = json.loads(emulator.popen.stdout.readline().removeprefix("ready "))["connection_string"]
    return connection_string


@pytest.fixture(scope="module")
def port(connection_string: str) -> int:
    return int(connection_string.split(";")[0].rpartition(":")[2])


def memory(emulator: Process) -> float:
    """Return the memory of the emulator in megabytes."""
    return psutil.Process(emulator.popen.pid).memory_info().rss / MEGABYTE


@asynccontextmanager
async def good_client(connection_string: str) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """Make round trips of a well-behaved client on a separate queue. Return the duration of one."""
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_sender(GOOD) as sender,
        client.get_queue_receiver(GOOD) as receiver,
    ):

        async def round_trip() -> float:
            began = time.perf_counter()
            await sender.send_messages(ServiceBusMessage(b"x"))
            (message,) = await receiver.receive_messages(max_message_count=1, max_wait_time=10)
            await receiver.complete_message(message)
            return time.perf_counter() - began

        yield round_trip


Bad = Callable[[int, random.Random], Awaitable[None]]


async def garbage(port: int, chance: random.Random) -> None:
    client, stream = await connect(HOST, port)
    await client.wire.send(chance.randbytes(1 << 16))
    await stream.close()


async def half_a_frame(port: int, chance: random.Random) -> None:
    client, stream = await connect(HOST, port)
    await client.open()
    await client.wire.send(b"\x00\x00\x10\x00\x02\x00\x00\x00" + chance.randbytes(100))
    await stream.close()


async def a_giant_frame(port: int, chance: random.Random) -> None:
    client, stream = await connect(HOST, port)
    await client.wire.send(AMQP_HEADER + b"\xff\xff\xff\xff\x02\x00\x00\x00" + chance.randbytes(1 << 16))
    with suppress(EOFError):
        await client.receive(Attach)  # never comes: the broker closes the connection
    await stream.close()


async def open_and_drop(port: int, chance: random.Random) -> None:
    client, stream = await connect(HOST, port)
    await client.open()
    await client.attach(BUSY, receives=chance.random() < 0.5)
    stream._writer.transport.abort()


async def a_flood_of_attaches(port: int, chance: random.Random) -> None:
    client, stream = await connect(HOST, port)
    await client.open()
    links = (
        Attach(f"{chance.random()}", handle, True, source=Source("absent"), target=Target("x")) for handle in range(200)
    )
    await client.send(*links)
    await stream.close()


BADLY: list[Bad] = [garbage, half_a_frame, a_giant_frame, open_and_drop, a_flood_of_attaches]


async def behave(bad: Bad, port: int, times: int) -> None:
    chance = random.Random(7)  # noqa: S311 - the same sequence in every run
    for _ in range(times):
        with suppress(ConnectionError, EOFError):
            await bad(port, chance)


@pytest.mark.parametrize("bad", BADLY, ids=lambda bad: bad.__name__)
async def test_a_misbehaving_client_does_not_disturb_the_others(
    emulator: Process, connection_string: str, port: int, bad: Bad
) -> None:
    async with good_client(connection_string) as round_trip:
        await behave(bad, port, 20)  # for what is allocated only once
        before = memory(emulator)
        misbehaviour = asyncio.create_task(behave(bad, port, 200))
        took = [await round_trip()]
        while not misbehaviour.done():
            took.append(await round_trip())
        await misbehaviour
        assert max(took) < SLOWEST_SECONDS
        assert memory(emulator) - before < 30


async def test_a_client_that_never_reads_or_settles_does_not_delay_the_others(
    emulator: Process, connection_string: str, port: int
) -> None:
    body = b"x" * 10_000
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_sender(BUSY) as sender,
        good_client(connection_string) as round_trip,
        AsyncExitStack() as stack,
    ):
        for _ in range(5):
            await sender.send_messages([ServiceBusMessage(body) for _ in range(20)])
        before = memory(emulator)
        greedy: list[Client] = []
        for _ in range(20):
            one, stream = await connect(HOST, port)
            stack.push_async_callback(stream.close)
            await (await one.open()).attach(BUSY)
            await one.grant_credit(100_000)
            greedy.append(one)
        for _ in range(40):
            await sender.send_messages([ServiceBusMessage(body) for _ in range(20)])
        took = [await round_trip() for _ in range(20)]
        assert max(took) < SLOWEST_SECONDS
        # 9 MB of messages, and for each of 20 connections its maximum of unsent bytes
        assert memory(emulator) - before < 150


async def test_many_connections_are_served(emulator: Process, connection_string: str, port: int) -> None:
    before = memory(emulator)
    async with AsyncExitStack() as stack:
        for _ in range(400):
            client, stream = await connect(HOST, port)
            stack.push_async_callback(stream.close)
            await (await client.open()).attach(GOOD, receives=False)
        async with good_client(connection_string) as round_trip:
            assert max([await round_trip() for _ in range(10)]) < SLOWEST_SECONDS
        assert (memory(emulator) - before) / 400 < 0.2


async def test_memory_stays_constant_while_messages_pass_through(emulator: Process, connection_string: str) -> None:
    async def through(count: int) -> None:
        mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
        async with (
            ServiceBusClient.from_connection_string(connection_string) as client,
            client.get_queue_sender(BUSY) as sender,
            client.get_queue_receiver(BUSY, receive_mode=mode) as receiver,
        ):
            for _ in range(count // 500):
                await sender.send_messages([ServiceBusMessage(b"x" * 100) for _ in range(500)])
                left = 500
                while left:
                    left -= len(await receiver.receive_messages(max_message_count=left, max_wait_time=10))

    await drained(connection_string)
    await through(5_000)
    before = memory(emulator)
    await through(15_000)
    assert memory(emulator) - before < 10


async def test_a_long_queue_is_as_fast_as_a_short_one(emulator: Process, connection_string: str) -> None:
    before = memory(emulator)
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_sender(BUSY) as sender,
        client.get_queue_receiver(BUSY) as receiver,
    ):
        for _ in range(20):
            await sender.send_messages([ServiceBusMessage(b"x") for _ in range(1000)])
        began = time.perf_counter()
        (last,) = await receiver.peek_messages(sequence_number=(await first_number(receiver)) + 19_999)
        (one,) = await receiver.receive_messages(max_message_count=1, max_wait_time=10)
        await receiver.complete_message(one)
        assert time.perf_counter() - began < SLOWEST_SECONDS
        assert str(last) == "x"
    assert (memory(emulator) - before) * MEGABYTE / 20_000 < 5_000  # bytes for each message with a body of one byte
    await drained(connection_string)


async def first_number(receiver: object) -> int:
    (first,) = await receiver.peek_messages()  # type: ignore[attr-defined]
    number: int = first.sequence_number
    return number


async def drained(connection_string: str) -> None:
    """Receive everything from the busy queue."""
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_receiver(BUSY, receive_mode=mode) as receiver,
    ):
        while await receiver.receive_messages(max_message_count=1000, max_wait_time=1):
            pass
