"""Actions on dead letters whose queue is deleted and created again, so that it assigns its numbers once more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus import DeadLetteredMessage, Delivery, ServiceBusUnavailable
from flow_worker.dead_letters.actions import DeadLetterOutcome, discard, replay_job, settle_all
from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.pipeline import decode
from tests.support.pipeline import NOW, request

READ = decode.requests_of("flow-requests")
LISTED = request(sequence_number=7)
LATER = NOW + timedelta(minutes=1)


@dataclass
class FakeQueue:
    """A dead-letter queue that yields one message, and records what is deleted."""

    found: ReceivedMessage
    completed: list[Delivery] = field(default_factory=list)

    @asynccontextmanager
    async def dead_letter_queue(self, queue: str) -> AsyncIterator[FakeQueue]:
        yield self

    async def take(self, sequence_numbers: Iterable[int]) -> AsyncIterator[Delivery]:
        raw: Any = SimpleNamespace()
        yield Delivery(self.found, raw)

    async def complete(self, delivery: Delivery) -> None:
        self.completed.append(delivery)


@pytest.mark.parametrize(
    ("found", "is_same"),
    [
        (LISTED, True),
        (replace(LISTED, enqueued_at=LATER), False),
        (replace(LISTED, message_id="another"), False),
    ],
    ids=["the listed message", "sent later under the same id", "another id"],
)
async def test_only_the_message_that_was_listed_is_deleted(found: ReceivedMessage, is_same: bool) -> None:
    queue: Any = FakeQueue(found)
    view = DeadLetterView.of("flow-requests", DeadLetteredMessage(LISTED, "a reason", ""), READ)
    outcomes: list[DeadLetterOutcome] = []
    await settle_all(queue, [view], discard, outcomes.append)
    assert bool(queue.completed) is is_same
    assert [outcome.left is None for outcome in outcomes] == [is_same]


@dataclass
class FailingQueue(FakeQueue):
    """A dead-letter queue with several messages, some of which cannot be deleted."""

    stuck: frozenset[int] = frozenset()

    async def take(self, sequence_numbers: Iterable[int]) -> AsyncIterator[Delivery]:
        raw: Any = SimpleNamespace()
        for number in sorted(sequence_numbers):
            yield Delivery(request(sequence_number=number), raw)

    async def complete(self, delivery: Delivery) -> None:
        if delivery.message.sequence_number in self.stuck:
            raise ServiceBusUnavailable("complete: the SDK failed")
        await super().complete(delivery)


@pytest.mark.parametrize(
    ("stuck", "deleted"), [({1, 3}, [2, 4, 5, 6]), ({1, 2, 3}, [])], ids=["two that fail", "a lost connection"]
)
async def test_a_dead_letter_that_cannot_be_deleted_keeps_no_other_one(stuck: set[int], deleted: list[int]) -> None:
    queue: Any = FailingQueue(LISTED, stuck=frozenset(stuck))
    views = [
        DeadLetterView.of("flow-requests", DeadLetteredMessage(request(sequence_number=n), "a reason", ""), READ)
        for n in range(1, 7)
    ]
    outcomes: list[DeadLetterOutcome] = []
    await settle_all(queue, views, discard, outcomes.append)
    assert [each.message.sequence_number for each in queue.completed] == deleted
    assert len(outcomes) == len(views)
    assert all(each.left and "complete: the SDK failed" in each.left for each in outcomes if each.left is not None)


def test_two_dead_letters_with_one_number_are_replayed_as_two_requests() -> None:
    first, again, second = (
        replay_job(READ(message), "flow-requests", 7, NOW).message_id
        for message in (LISTED, LISTED, replace(LISTED, enqueued_at=LATER))
    )
    assert first == again
    assert first != second
