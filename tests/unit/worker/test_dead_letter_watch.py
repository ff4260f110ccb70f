"""The dead-letter watch over plain data: which dead letters it answers, and where its next round begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import DeadLetteredMessage, MessageTooLarge
from flow_worker.journal import open_journal
from flow_worker.pipeline import decode
from flow_worker.pipeline.outcome import Continue
from flow_worker.runtime.dead_letter_watch import DeadLetterWatch
from flow_worker.runtime.dispatcher import Dispatcher
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.ports import QueueReceiver
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.settings import JournalSettings
from tests.support.pipeline import NOW, Clock, ScriptedFlow, Worker, flow_answer, request

THROTTLED = flow_answer(429, run=None, retry_after="30")


@dataclass
class FakeBus:
    """A bus with one dead-letter queue; `too_small` names the queues that take no message."""

    dead_letters: list[DeadLetteredMessage]
    too_small: set[str] = field(default_factory=set)
    sent: list[tuple[str, Message]] = field(default_factory=list)
    peeked_from: list[int] = field(default_factory=list)

    async def send(self, queue: str, message: Message) -> None:
        if queue in self.too_small:
            raise MessageTooLarge("larger than the queue takes")
        self.sent.append((queue, message))

    async def other_senders(self, queue: str) -> list[str] | None:
        return None

    def receiver(self, queue: str) -> AbstractAsyncContextManager[QueueReceiver]:
        raise NotImplementedError("the watch receives from no queue")

    @asynccontextmanager
    async def dead_letter_queue(self, queue: str) -> AsyncIterator[FakeBus]:
        yield self

    async def peek(self, *, from_sequence: int = 0) -> AsyncIterator[DeadLetteredMessage]:
        self.peeked_from.append(from_sequence)
        for dead_letter in self.dead_letters:
            if dead_letter.message.sequence_number >= from_sequence:
                yield dead_letter

    def results(self) -> list[FlowResult]:
        """The results that were published."""
        return [FlowResult.from_message(message) for queue, message in self.sent if queue == "flow-replies"]


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    clock = Clock()
    async with open_journal(JournalSettings(path=tmp_path / "journal.sqlite3"), now=clock) as journal:
        yield Worker(journal, clock)


def dead(message: ReceivedMessage, reason: str = "MaxDeliveryCountExceeded") -> DeadLetteredMessage:
    return DeadLetteredMessage(message, reason, "")


def watch_of(worker: Worker, bus: FakeBus) -> DeadLetterWatch:
    handler = worker.handler(ScriptedFlow())
    outbox = Outbox(bus)
    replies = Replies(outbox, time_to_live=timedelta(hours=1), publish_seconds=1)
    schedule = Schedule(outbox, "flow-continuations", schedule_seconds=1)
    return DeadLetterWatch(
        "flow-requests",
        decode.requests_of("flow-requests"),
        bus=bus,
        handler=handler,
        dispatcher=Dispatcher(replies, schedule, worker.journal),
        max_age=timedelta(days=1),
        now=worker.clock,
    )


async def test_a_dead_letter_whose_continuation_does_not_fit_is_answered_once_and_passed(worker: Worker) -> None:
    """A worker journalled the next step and was lost before it could schedule it."""
    message = request(sequence_number=7)
    assert isinstance(await worker.take(message, ScriptedFlow(THROTTLED)), Continue)
    bus = FakeBus([dead(message)], too_small={"flow-continuations"})
    watch = watch_of(worker, bus)
    await watch.answer_all()
    [result] = bus.results()
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.FAILED, "continuation_too_large")
    await watch.answer_all()
    assert len(bus.sent) == 1
    assert bus.peeked_from == [0, 8]
    worker.clock.now += timedelta(hours=2)  # the journalled step is overdue by then
    await watch_of(worker, bus).answer_all()  # the next worker begins with the first dead letter
    assert len(bus.sent) == 1


async def test_a_dead_letter_with_a_journalled_step_has_its_continuation_scheduled(worker: Worker) -> None:
    message = request(sequence_number=7)
    waits = await worker.take(message, ScriptedFlow(THROTTLED))
    assert isinstance(waits, Continue)
    bus = FakeBus([dead(message)])
    watch = watch_of(worker, bus)
    await watch.answer_all()
    await watch.answer_all()
    [(queue, sent)] = bus.sent
    assert (queue, sent.message_id) == ("flow-continuations", waits.continuation.continuation_id)
    assert sent.scheduled_at == waits.due
    assert bus.peeked_from == [0, 8]


async def test_a_dead_letter_whose_flow_is_being_called_is_left_to_that_worker(worker: Worker) -> None:
    message, flow = request(sequence_number=7), ScriptedFlow(None)
    call = asyncio.create_task(worker.take(message, flow))
    await flow.called.wait()
    bus = FakeBus([dead(message)])
    watch = watch_of(worker, bus)
    await watch.answer_all()
    assert bus.sent == []
    await watch.answer_all()
    assert bus.peeked_from == [0, 0]
    call.cancel()
    await asyncio.wait([call])


async def test_a_failing_dead_letter_does_not_keep_those_behind_it_from_their_results(worker: Worker) -> None:
    other = request(sequence_number=8, message_id="m-2", reply_to="other-replies")
    bus = FakeBus([dead(request(sequence_number=7)), dead(other)], too_small={"flow-replies"})
    watch = watch_of(worker, bus)
    await watch.answer_all()
    assert [queue for queue, _ in bus.sent] == ["other-replies"]
    bus.too_small.clear()
    await watch.answer_all()
    assert [queue for queue, _ in bus.sent] == ["other-replies", "flow-replies"]
    await watch.answer_all()
    assert bus.peeked_from == [0, 0, 9]


@pytest.mark.parametrize(
    ("reason", "age"), [("role_missing", timedelta(0)), ("MaxDeliveryCountExceeded", timedelta(days=2))]
)
async def test_a_dead_letter_of_the_worker_or_older_than_the_journal_remembers_is_passed(
    worker: Worker, reason: str, age: timedelta
) -> None:
    bus = FakeBus([dead(request(sequence_number=7, enqueued_at=NOW - age), reason)])
    watch = watch_of(worker, bus)
    await watch.answer_all()
    await watch.answer_all()
    assert bus.sent == []
    assert bus.peeked_from == [0, 8]
