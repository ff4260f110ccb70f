"""One worker freezes between two steps of the journey, another ends the request meanwhile, and the first one thaws."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flow_contracts.message import Message
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import BeforeSend, LockLost, ServiceBusUnavailable, unconditionally
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import open_journal
from flow_worker.journal.entry import Entry
from flow_worker.pipeline import decode
from flow_worker.pipeline.handler import Handler
from flow_worker.pipeline.outcome import Continue
from flow_worker.runtime.dispatcher import Dispatcher
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.settings import JournalSettings
from tests.support.freezing import Freeze, When
from tests.support.pipeline import (
    ADA,
    NOW,
    READ_CONTINUATION,
    SEAL,
    Clock,
    KnownSenders,
    OneByOne,
    ScriptedFlow,
    Worker,
    delivered,
    flow_answer,
    request,
)

AWAY = TemporarilyUnavailable("keys_unavailable", "the keys are away")
MUCH_LATER = timedelta(seconds=700)
"""Beyond the lease, and beyond `retry.max_age_seconds` of the test's settings."""
POINTS: list[tuple[str, When]] = [
    ("authenticate", "after"),
    ("token", "after"),
    ("acquire", "before"),
    ("acquire", "after"),
    ("invoke", "before"),
    ("invoke", "after"),
    ("conclude", "before"),
    ("conclude", "after"),
    ("send", "before"),
    ("send", "after"),
    ("mark_published", "after"),
]
NO_CALL = {Status.FAILED, Status.REFUSED, Status.EXPIRED}


@dataclass
class Queues(OneByOne):
    """Accepts every message."""

    sent: list[tuple[str, Message]] = field(default_factory=list)

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        await before()
        self.sent.append((queue, message))

    def results(self) -> list[FlowResult]:
        return [FlowResult.from_message(message) for queue, message in self.sent if queue == "flow-replies"]


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    clock = Clock()
    async with open_journal(JournalSettings(path=tmp_path / "journal.sqlite3"), now=clock) as journal:
        yield Worker(journal, clock)


def dispatcher_of(worker: Worker, queues: Queues, handler: Handler, freeze: Freeze | None) -> Dispatcher:
    outbox = Outbox(freeze.around(queues) if freeze else queues)
    return Dispatcher(
        Replies(outbox, time_to_live=timedelta(hours=1), publish_seconds=9),
        Schedule(outbox, "flow-continuations", seal=SEAL, schedule_seconds=9),
        freeze.around(worker.journal) if freeze else worker.journal,
        end_oversized=handler.end_oversized,
        reply_retention=timedelta(hours=1),
    )


async def process(
    worker: Worker,
    queues: Queues,
    handler: Handler,
    *,
    delivery_count: int,
    freeze: Freeze | None = None,
    expires_at: datetime | None = None,
    flow: str = "quote",
) -> None:
    """Do with one delivery what a lane does: handle it, send its outcome and mark the result."""
    dispatcher = dispatcher_of(worker, queues, handler, freeze)
    message = request(flow, delivery_count=delivery_count, expires_at=expires_at)

    def lock_held() -> bool:
        return freeze is None or worker.clock.now == NOW

    read = decode.requests_of("flow-requests")
    try:
        outcome = await handler.handle(message, read, "flow-requests", lock_held=lock_held)
        await dispatcher.mark_published(await dispatcher.send(outcome, lock_held=lock_held))
    except LockLost:
        return


@pytest.mark.parametrize("other", ["answers", "keys away", "token away", "refuses", "expires"])
@pytest.mark.parametrize(("method", "when"), POINTS, ids=[" ".join(point) for point in POINTS])
async def test_the_result_never_denies_a_call_and_never_changes(
    worker: Worker, method: str, when: When, other: str
) -> None:
    freeze, queues = Freeze(method, when), Queues()
    flow = ScriptedFlow(flow_answer(200, {"quote": 7}))
    frozen = Worker(freeze.around(worker.journal), worker.clock)
    handler = frozen.handler(freeze.around(flow), freeze.around(KnownSenders()))
    expires_at = NOW + MUCH_LATER if other == "expires" else None
    frozen_delivery = process(worker, queues, handler, delivery_count=0, freeze=freeze, expires_at=expires_at)
    first = asyncio.create_task(frozen_delivery)
    await asyncio.wait_for(freeze.reached.wait(), 9)
    worker.clock.now += MUCH_LATER
    second = replace(flow, token_error=AWAY if other == "token away" else None)
    senders = KnownSenders(
        instead=AWAY if other == "keys away" else None,
        principal=replace(ADA, roles=frozenset()) if other == "refuses" else ADA,
    )
    await process(worker, queues, worker.handler(second, senders), delivery_count=1, expires_at=expires_at)
    freeze.thaw()
    await first
    results = queues.results()
    assert {queue for queue, _ in queues.sent} == {"flow-replies"}
    calls = len(flow.calls)
    assert calls <= 1
    assert len({result.status for result in results}) == 1
    assert results[0].status not in NO_CALL or calls == 0
    assert results[0].status is not Status.SUCCEEDED or calls == 1
    # From the acceptance to the mark nobody else can know of it; duplicate detection drops the second message.
    assert len(results) == (2 if (method, when) == ("send", "after") else 1)
    assert len({message.message_id for _, message in queues.sent}) == 1


RETRY_POINTS: list[tuple[str, When]] = [
    ("invoke", "after"),
    ("schedule", "before"),
    ("schedule", "after"),
    ("send", "before"),
    ("send", "after"),
]


@pytest.mark.parametrize("name", ["quote", "again"])
@pytest.mark.parametrize(("method", "when"), RETRY_POINTS, ids=[" ".join(point) for point in RETRY_POINTS])
async def test_a_retry_that_a_frozen_worker_schedules_late_changes_nothing(
    worker: Worker, method: str, when: When, name: str
) -> None:
    """The flow was throttled. The other worker takes the request to its end, and the frozen one schedules a retry."""
    freeze, queues = Freeze(method, when), Queues()
    flow = ScriptedFlow(flow_answer(200), answers=[flow_answer(429, run=None)])
    frozen = Worker(freeze.around(worker.journal), worker.clock)
    handler = frozen.handler(freeze.around(flow), freeze.around(KnownSenders()))
    first = asyncio.create_task(process(worker, queues, handler, delivery_count=0, freeze=freeze, flow=name))
    await asyncio.wait_for(freeze.reached.wait(), 9)
    worker.clock.now += timedelta(seconds=400)
    handler = worker.handler(flow)
    await process(worker, queues, handler, delivery_count=1, flow=name)
    await process_continuations(worker, queues, handler)
    freeze.thaw()
    await first
    await process_continuations(worker, queues, handler)
    assert len({result.status for result in queues.results()}) == 1
    [result, *_] = queues.results()
    assert (result.status, len(flow.calls)) in ((Status.SUCCEEDED, 2), (Status.UNKNOWN, 1))
    assert result.attempts == len(flow.calls)
    assert len(queues.results()) == 1


async def process_continuations(worker: Worker, queues: Queues, handler: Handler) -> None:
    """Deliver every continuation that was sent, in order, until there are none; none is dropped as a duplicate."""
    while (found := next((sent for sent in queues.sent if sent[0] == "flow-continuations"), None)) is not None:
        queues.sent.remove(found)
        message = found[1]
        worker.clock.now = max(worker.clock.now, message.scheduled_at or NOW)
        received = delivered(message, worker.clock.now)
        outcome = await handler.handle(received, READ_CONTINUATION, "flow-continuations")
        sender = dispatcher_of(worker, queues, handler, None)
        await sender.mark_published(await sender.send(outcome))


class LosesTheFirstAnswer(Queues):
    """Accepts every message, but the first sender freezes before the answer, and never gets it."""

    def __init__(self, freeze: Freeze) -> None:
        super().__init__()
        self._freeze = freeze

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        await super().send(queue, message, before)
        if len(self.sent) == 1:
            await self._freeze.block("answer", "before")
            raise ServiceBusUnavailable("no answer within 20 s")


async def test_a_worker_that_was_frozen_while_it_sent_does_not_send_again(worker: Worker) -> None:
    """The queue accepted its result. The other worker published the result, too, within the detection window."""
    freeze, flow = Freeze("answer", "before"), ScriptedFlow(flow_answer(200))
    queues = LosesTheFirstAnswer(freeze)
    handler = worker.handler(flow)
    first = asyncio.create_task(process(worker, queues, handler, delivery_count=0, freeze=freeze))
    await asyncio.wait_for(freeze.reached.wait(), 9)
    worker.clock.now += MUCH_LATER
    await process(worker, queues, handler, delivery_count=1)
    freeze.thaw()
    await first
    assert len(queues.results()) == 2, "one of each worker"
    assert len(flow.calls) == 1


class AwayJournal:
    """Answers no question."""

    async def find(self, message_id: str) -> Entry | None:
        raise AWAY


async def test_a_frozen_worker_leaves_a_journalled_result_to_the_next_delivery(worker: Worker) -> None:
    """It was frozen again while it asked the journal, whose answer then came too late."""
    queues, handler = Queues(), worker.handler(ScriptedFlow(flow_answer(200)))
    outcome = await handler.handle(request(), decode.requests_of("flow-requests"), "flow-requests")
    journal: Any = AwayJournal()
    dispatcher = dispatcher_of(Worker(journal, worker.clock), queues, handler, None)
    with pytest.raises(LockLost):
        await dispatcher.send(outcome, lock_held=lambda: False)
    assert not queues.sent
    await process(worker, queues, handler, delivery_count=1)
    assert [result.status for result in queues.results()] == [Status.SUCCEEDED]


async def test_a_frozen_worker_leaves_its_lease_to_the_one_that_calls(worker: Worker) -> None:
    """It was about to give the request up; the other worker got a token and calls."""
    freeze, queues = Freeze("acquire", "after"), Queues()
    worker.clock.now += timedelta(seconds=601)
    frozen = Worker(freeze.around(worker.journal), worker.clock)
    handler = frozen.handler(ScriptedFlow(token_error=AWAY))
    giving_up = asyncio.create_task(
        handler.handle(request(delivery_count=1), decode.requests_of("flow-requests"), "flow-requests")
    )
    await asyncio.wait_for(freeze.reached.wait(), 9)
    worker.clock.now += MUCH_LATER
    flow = ScriptedFlow(None)
    calling = asyncio.create_task(process(worker, queues, worker.handler(flow), delivery_count=2))
    await asyncio.wait_for(flow.called.wait(), 9)
    freeze.thaw()
    outcome = await giving_up
    assert isinstance(outcome, Continue)
    assert outcome.continuation.code == "call_under_way"
    calling.cancel()
    await asyncio.wait([calling])
    assert [result.status for result in queues.results()] == [Status.UNKNOWN]
