"""The dispatcher reports each reply that its queue has accepted, before the mark, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import pytest

from flow_contracts.message import Message
from flow_contracts.servicebus import BeforeSend, ServiceBusUnavailable, unconditionally
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.pipeline.outcome import DeadLetter, JournalledResult, Outcome, Reply
from flow_worker.runtime.dispatcher import Dispatcher
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from tests.support.deliveries import job
from tests.support.outbox import result
from tests.support.pipeline import SEAL

pytestmark = pytest.mark.asyncio


class Queue:
    """A bus that accepts messages, or does not."""

    def __init__(self, *, is_down: bool = False) -> None:
        self.is_down = is_down
        self.accepted = asyncio.Event()
        self.hold: asyncio.Event | None = None

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        await self.send_all(queue, [message], before)

    async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
        await before()
        if self.is_down:
            raise ServiceBusUnavailable("down")
        self.accepted.set()
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                return  # the queue had accepted the message already

    def max_message_bytes(self, queue: str) -> int | None:
        return None


class Journal:
    """Notes the marks."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    async def mark_published(self, message_id: str, origin: str) -> None:
        self._events.append("marked")

    async def find(self, message_id: str) -> None:
        raise TemporarilyUnavailable("journal_unavailable", "down")


def dispatcher(queue: Queue, events: list[str]) -> Dispatcher:
    async def published(reply: Reply) -> None:
        assert reply.job is not None
        events.append(f"published {reply.result.request_message_id}")

    return Dispatcher(
        Replies(Outbox(queue), time_to_live=timedelta(hours=1), publish_seconds=1),
        Schedule(Outbox(queue), "flow-continuations", seal=SEAL, schedule_seconds=1),
        cast(Any, Journal(events)),
        end_oversized=cast(Any, None),
        reply_retention=timedelta(hours=1),
        published=published,
    )


def reply(message_id: str = "m-1") -> Reply:
    one = job(message_id=message_id)
    found = result(message_id=message_id)
    return Reply(found, one.address, "flow-replies", JournalledResult(message_id, one.origin), job=one)


@pytest.mark.parametrize("outcome", [reply(), DeadLetter("code", "why", reply())], ids=["reply", "dead letter"])
async def test_an_accepted_reply_is_reported_before_its_mark(outcome: Outcome) -> None:
    events: list[str] = []
    sending = dispatcher(Queue(), events)
    await sending.mark_published(await sending.send(outcome))
    assert events == ["published m-1", "marked"]


async def test_a_batch_is_reported_reply_by_reply() -> None:
    events: list[str] = []
    assert await dispatcher(Queue(), events).send_together([(reply("a"), lambda: True), (reply("b"), lambda: True)])
    assert events == ["published a", "published b"]


async def test_a_reply_that_no_queue_accepted_is_not_reported() -> None:
    events: list[str] = []
    sending = dispatcher(Queue(is_down=True), events)
    assert not await sending.send_together([(reply(), lambda: True)])
    with pytest.raises(ServiceBusUnavailable):
        await sending.send(reply())
    assert events == []


async def test_a_reply_that_is_accepted_while_the_worker_is_interrupted_is_reported_before_its_mark() -> None:
    events: list[str] = []
    queue = Queue()
    queue.hold = asyncio.Event()
    sending = asyncio.create_task(dispatcher(queue, events).send(reply()))
    await queue.accepted.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert events == ["published m-1", "marked"]
