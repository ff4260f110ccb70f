"""Submissions that wait for one another travel together, and none of them waits for one that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from flow_contracts.message import Message
from flow_contracts.servicebus import MessageTooLarge, ServiceBusUnavailable
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.sending import GroupedSender


@dataclass
class Transport:
    """Holds each transfer until it is released, and refuses batches larger than `max_batch_bytes`."""

    released: asyncio.Event = field(default_factory=asyncio.Event)
    transfers: list[list[str]] = field(default_factory=list)
    failure: Exception | None = None
    max_batch_bytes: int = 1_000_000
    hangs: int = 0
    flushes: int = 0
    flush_failure: Exception | None = None

    async def flush(self) -> None:
        self.flushes += 1
        if self.flush_failure is not None:
            raise self.flush_failure

    async def send(self, queue: str, message: Message) -> None:
        await self._take([message])

    async def send_all(self, queue: str, messages: Sequence[Message]) -> None:
        if sum(len(message.body) for message in messages) > self.max_batch_bytes:
            raise MessageTooLarge("together too large")
        await self._take(messages)

    async def _take(self, messages: Sequence[Message]) -> None:
        self.transfers.append([str(message.message_id) for message in messages])
        if len(self.transfers) <= self.hangs:
            await asyncio.Event().wait()
        await self.released.wait()
        if self.failure is not None:
            raise self.failure

    def max_message_bytes(self, queue: str) -> int | None:
        return None


def message(number: int, size: int = 10) -> Message:
    return Message(body=b"x" * size, message_id=str(number))


async def test_messages_that_wait_travel_as_one_batch() -> None:
    transport = Transport()
    sender = GroupedSender(transport, "q", transport.flush)
    sending = [asyncio.create_task(sender.send("q", message(number))) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    transport.released.set()
    await asyncio.gather(*sending)
    assert transport.transfers == [["0"], ["1", "2", "3", "4"]]
    assert transport.flushes == 2


async def test_a_transfer_that_hangs_holds_up_no_others() -> None:
    transport = Transport(hangs=1)
    transport.released.set()
    sender = GroupedSender(transport, "q", transport.flush)
    hanging = asyncio.create_task(sender.send("q", message(0)))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await asyncio.gather(*(sender.send("q", message(number)) for number in range(1, 4)))
    assert not hanging.done()
    hanging.cancel()


async def test_a_failed_batch_fails_for_each_caller() -> None:
    transport = Transport(failure=ServiceBusUnavailable("away"))
    transport.released.set()
    sender = GroupedSender(transport, "q", transport.flush)
    results = await asyncio.gather(*(sender.send("q", message(n)) for n in range(4)), return_exceptions=True)
    assert all(isinstance(result, ServiceBusUnavailable) for result in results)


async def test_messages_that_are_too_large_together_travel_alone() -> None:
    transport = Transport(max_batch_bytes=25)
    transport.released.set()
    sender = GroupedSender(transport, "q", transport.flush)
    await asyncio.gather(*(sender.send("q", message(number)) for number in range(4)))
    assert transport.transfers == [["0"], ["1"], ["2"], ["3"]]


async def test_a_message_counts_as_sent_only_with_its_flushed_record() -> None:
    transport = Transport(flush_failure=TemporarilyUnavailable("unavailable", "the disk is full"))
    transport.released.set()
    sender = GroupedSender(transport, "q", transport.flush)
    results = await asyncio.gather(*(sender.send("q", message(n)) for n in range(4)), return_exceptions=True)
    assert all(isinstance(result, TemporarilyUnavailable) for result in results)
    transport.flush_failure = None
    await sender.send("q", message(5))


async def test_the_store_is_flushed_while_the_transfer_is_under_way() -> None:
    transport = Transport()
    sender = GroupedSender(transport, "q", transport.flush)
    sending = asyncio.create_task(sender.send("q", message(0)))
    async with asyncio.timeout(5):
        while not (transport.flushes and transport.transfers):  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0)
    assert not sending.done()
    transport.released.set()
    await sending


@pytest.mark.parametrize("size", [100_000, 190_000])
async def test_a_batch_stays_below_the_size_of_a_message(size: int) -> None:
    transport = Transport()
    transport.released.set()
    sender = GroupedSender(transport, "q", transport.flush)
    await asyncio.gather(*(sender.send("q", message(number, size)) for number in range(4)))
    assert max(map(len, transport.transfers)) == 1


async def test_a_caller_that_gives_up_takes_nothing_back() -> None:
    transport = Transport()
    sender = GroupedSender(transport, "q", transport.flush)
    first = asyncio.create_task(sender.send("q", message(0)))
    second = asyncio.create_task(sender.send("q", message(1)))
    await asyncio.sleep(0)
    second.cancel()
    transport.released.set()
    await first
    async with asyncio.timeout(5):
        while len(transport.transfers) < 2:  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.01)
    assert transport.transfers[1] == ["1"]
