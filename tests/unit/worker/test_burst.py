"""A burst of unproven requests is received in batches, and its refusals wait until the other requests have gone on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.result import FlowError, FlowResult, Status
from flow_contracts.servicebus import BeforeSend, Delivery, ServiceBusUnavailable, unconditionally
from flow_worker.access.authorities import Evidence, ProvenSender
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.journal import open_journal
from flow_worker.pipeline import decode
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.outcome import AlreadyHandled, Continue, DeadLetter, Outcome, Reply, is_of_nobody
from flow_worker.pipeline.results import without_answer
from flow_worker.runtime.burst import BATCH, Burst, Sorting
from flow_worker.runtime.dispatcher import Dispatcher
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.settings import JournalSettings
from tests.support.pipeline import (
    ADA,
    NOW,
    SEAL,
    Clock,
    KnownSenders,
    OneByOne,
    ScriptedFlow,
    Worker,
    flow_answer,
    reply_of,
    request,
)

READ = decode.requests_of("flow-requests")
JOB = READ(request())
PROVEN = Continue(JOB.model_copy(update={"principal": ADA}), NOW)


def refusal(job: Job = JOB) -> Reply:
    error = FlowError(code="claim_missing", message="no claim")
    result = without_answer(job, Status.REFUSED, error, NOW)
    return Reply(result, job.address, "flow-replies", is_unproven=True)


# --- the burst of one queue ------------------------------------------------------------------------------------------


@dataclass
class Seconds:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def burst_of(count: int, seconds: Seconds | None = None, lanes: int = 8) -> Burst:
    burst = Burst(lanes, monotonic=seconds or Seconds())
    for _ in range(count):
        burst.saw(refusal())
    return burst


def test_a_burst_begins_when_most_of_the_latest_requests_are_unproven() -> None:
    assert not burst_of(15).is_on
    assert burst_of(30).is_on


@pytest.mark.parametrize("each", [1, 2])
def test_a_sender_who_does_not_outnumber_the_others_three_times_begins_none(each: int) -> None:
    burst = burst_of(0)
    for _ in range(100):
        burst.saw(PROVEN)
        for _ in range(each):
            burst.saw(refusal())
        assert not burst.is_on


def test_a_burst_ends_with_proven_requests_and_when_no_more_unproven_ones_come() -> None:
    seconds = Seconds()
    burst = burst_of(50, seconds)
    seconds.now += 2.5
    states = [burst.is_on]
    burst.saw(refusal())
    states.append(burst.is_on)
    for _ in range(8):
        burst.saw(PROVEN)
    states.append(burst.is_on)
    assert states == [False, True, False]


@pytest.mark.parametrize(("lanes", "places"), [(0, 0), (1, 1), (3, 1), (8, 2), (32, 8)])
def test_a_quarter_of_the_lanes_sorts_and_at_least_one(lanes: int, places: int) -> None:
    burst = burst_of(50, lanes=lanes)
    assert [burst.enter() for _ in range(places + 1)] == [True] * places + [False]
    if places:
        burst.leave()
        assert burst.enter()


def test_the_other_lanes_leave_the_queue_to_a_lane_that_sorts_only_for_as_long_as_it_receives_many() -> None:
    seconds = Seconds()
    burst = burst_of(50, seconds)
    states = [burst.is_draining]
    burst.received(BATCH)
    states.append(burst.is_draining)
    seconds.now += 1.5  # the lane hangs
    states.append(burst.is_draining)
    burst.received(BATCH)
    burst.received(3)
    states.append(burst.is_draining)
    assert states == [False, True, False, False]


def test_few_messages_wait_until_the_queues_have_accepted_batches_and_none_after_a_failure() -> None:
    seconds = Seconds()
    burst = burst_of(50, seconds)
    assert burst.max_waiting == BATCH
    for _ in range(20):
        burst.answered()
    assert burst.max_waiting == 4096
    burst.failed()
    assert (burst.max_waiting, burst.is_on) == (BATCH, False)
    seconds.now += 31
    burst.saw(refusal())
    assert burst.is_on


def test_outcomes_of_nobody_are_those_without_a_proven_sender() -> None:
    nobody: list[Outcome] = [refusal(), DeadLetter("r", "d"), DeadLetter("r", "d", refusal()), Continue(JOB, NOW)]
    somebody: list[Outcome] = [PROVEN, replace(refusal(), is_unproven=False), AlreadyHandled("c", "s")]
    assert [is_of_nobody(outcome) for outcome in nobody + somebody] == [True] * 4 + [False] * 3


# --- a lane that sorts -----------------------------------------------------------------------------------------------


def delivery(number: int, *, lock_seconds: float = 60.0, body: bytes = b"") -> Delivery:
    raw: Any = number
    message = ReceivedMessage(body=body, message_id=f"m-{number}", enqueued_at=NOW)
    return Delivery(message, raw, time.monotonic() + lock_seconds)


@dataclass
class FakeLane:
    """A lane and its receiver: records what happens to which messages, in order."""

    arriving: list[list[Delivery]]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """The outcomes by message ID; the others are refusals."""
    accepts_batches: bool = True
    stops_at: int = 1000
    done: list[tuple[str, list[str]]] = field(default_factory=list)
    receives: list[int] = field(default_factory=list)

    @property
    def is_stopping(self) -> bool:
        return len(self.receives) >= self.stops_at

    async def receive_many(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        self.receives.append(max_messages)
        return self.arriving.pop(0) if self.arriving else []

    async def sort(self, delivery: Delivery) -> Outcome:
        return self.outcomes.get(delivery.message.message_id or "", refusal())

    async def finish(self, receiver: object, delivery: Delivery, outcome: Outcome) -> None:
        self.done.append((type(outcome).__name__, [str(delivery.raw)]))

    async def finish_together(self, receiver: object, outcomes: list[tuple[Delivery, Reply | Continue]]) -> bool:
        if self.accepts_batches:
            kinds = {type(outcome).__name__ for _, outcome in outcomes}
            self.done.append((f"{kinds.pop()} together", [str(delivery.raw) for delivery, _ in outcomes]))
        return self.accepts_batches


async def sorted_by(lane: FakeLane, burst: Burst | None = None) -> Burst:
    burst = burst or burst_of(50)
    receiver: Any = lane
    lane.stops_at = min(lane.stops_at, len(lane.arriving) + 1)
    await Sorting(burst, lane, receiver).run()
    return burst


async def test_a_proven_request_goes_on_before_the_refusals_that_came_before_it() -> None:
    lane = FakeLane([[delivery(1), delivery(2)], [delivery(3), delivery(4)]], {"m-4": PROVEN})
    await sorted_by(lane)
    assert lane.done == [("Continue together", ["4"]), ("Reply together", ["1", "2", "3"])]


async def test_every_outcome_that_is_no_refusal_is_carried_out_at_once() -> None:
    lane = FakeLane([[delivery(1), delivery(2), delivery(3)]], {"m-1": DeadLetter("r", "d"), "m-3": PROVEN})
    await sorted_by(lane)
    assert [kind for kind, _ in lane.done] == ["DeadLetter", "Continue together", "Reply together"]


async def test_refusals_are_answered_when_as_many_wait_as_may_wait() -> None:
    lane = FakeLane([[delivery(100 * batch + n) for n in range(BATCH)] for batch in range(3)], stops_at=1)
    burst = burst_of(50)
    await sorted_by(lane, burst)
    assert [len(ids) for _, ids in lane.done] == [BATCH]
    assert burst.max_waiting == 4 * BATCH


@pytest.mark.parametrize(
    "first",
    [delivery(1, lock_seconds=-1), delivery(1, body=b"x" * (4 << 20))],
    ids=["the lock expires", "the bodies are large"],
)
async def test_refusals_are_answered_before_a_lock_expires_and_before_they_take_much_memory(first: Delivery) -> None:
    lane = FakeLane([[first], [delivery(2)]], {"m-2": PROVEN})
    await sorted_by(lane)
    assert lane.done == [("Reply together", ["1"]), ("Continue together", ["2"])]


async def test_a_lane_receives_few_large_messages_at_once() -> None:
    lane = FakeLane([[delivery(1, body=b"x" * (1 << 20))], [delivery(2)], [delivery(3)]])
    await sorted_by(lane)
    assert lane.receives == [BATCH, 4, 8, 16]


async def test_a_lane_that_stops_answers_the_refusals_that_wait() -> None:
    lane = FakeLane([[delivery(1)], [delivery(2)]], stops_at=1)
    await sorted_by(lane)
    assert lane.done == [("Reply together", ["1"])]


async def test_refusals_are_answered_one_by_one_if_the_queue_takes_no_batch() -> None:
    lane = FakeLane([[delivery(n) for n in range(3)]], accepts_batches=False)
    burst = await sorted_by(lane)
    assert lane.done == [("Reply", [str(n)]) for n in range(3)]
    assert not burst.is_on


# --- the decisions of such a lane ------------------------------------------------------------------------------------


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    clock = Clock()
    async with open_journal(JournalSettings(path=tmp_path / "journal.sqlite3"), now=clock) as journal:
        yield Worker(journal, clock)


class Unproven(KnownSenders):
    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        raise Refused("claim_missing", "no claim")


class KeysAway(KnownSenders):
    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        raise TemporarilyUnavailable("keys_unavailable", "no keys")


async def sort(worker: Worker, message: ReceivedMessage, senders: KnownSenders, flow: ScriptedFlow) -> Outcome:
    return await worker.handler(flow, senders).sort(message, READ, "flow-requests")


@pytest.mark.parametrize("message", [request(), request(claim=None), replace(request(), body=b"{")])
async def test_the_refusal_is_the_same_as_that_of_any_other_lane(worker: Worker, message: ReceivedMessage) -> None:
    refused = reply_of(await sort(worker, message, Unproven(), ScriptedFlow()))
    assert refused == await worker.take(message, senders=Unproven())
    assert refused.is_unproven


async def test_a_proven_request_becomes_a_continuation_that_calls_its_flow(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200))
    outcome = await sort(worker, request(), KnownSenders(), flow)
    assert isinstance(outcome, Continue)
    assert (outcome.continuation.principal, outcome.continuation.claim, outcome.due) == (ADA, None, worker.clock.now)
    assert not flow.calls
    assert reply_of(await worker.resume(outcome, flow)).result.status is Status.SUCCEEDED


async def test_a_request_that_must_wait_for_keys_becomes_a_continuation_with_its_claim(worker: Worker) -> None:
    outcome = await sort(worker, request(), KeysAway(), ScriptedFlow())
    assert isinstance(outcome, Continue)
    assert outcome.continuation.principal is None
    assert outcome.continuation.claim is not None
    assert reply_of(await worker.resume(outcome, ScriptedFlow(flow_answer(200)))).result.status is Status.SUCCEEDED


# --- the batches -----------------------------------------------------------------------------------------------------


@dataclass
class Batches(OneByOne):
    """Accepts batches, and no single message."""

    error: Exception | None = None
    sent: list[tuple[str, list[Message]]] = field(default_factory=list)

    async def send_all(self, queue: str, messages: Any, before: BeforeSend = unconditionally) -> None:
        await before()
        if self.error:
            raise self.error
        self.sent.append((queue, list(messages)))


def dispatcher(worker: Worker, queues: Batches) -> Dispatcher:
    outbox = Outbox(queues)
    return Dispatcher(
        Replies(outbox, time_to_live=timedelta(days=1), publish_seconds=5),
        Schedule(outbox, "flow-continuations", seal=SEAL, schedule_seconds=5),
        worker.journal,
        end_oversized=worker.handler(ScriptedFlow()).end_oversized,
        reply_retention=timedelta(days=1),
    )


async def test_a_batch_for_each_queue_has_the_messages_that_each_outcome_alone_would_send(worker: Worker) -> None:
    other = replace(refusal(), queue="other-replies")
    queues = Batches()
    outcomes: list[Reply | Continue] = [refusal(), other, PROVEN]
    assert await dispatcher(worker, queues).send_together([(each, lambda: True) for each in outcomes])
    assert [queue for queue, _ in queues.sent] == ["flow-replies", "other-replies", "flow-continuations"]
    [answer] = queues.sent[0][1]
    assert FlowResult.from_message(answer) == refusal().result
    [continuation] = queues.sent[2][1]
    assert (continuation.message_id, continuation.scheduled_at) == (PROVEN.continuation.continuation_id, NOW)


@pytest.mark.parametrize(
    ("error", "held"), [(ServiceBusUnavailable("gone"), True), (None, False)], ids=["queue away", "lock lost"]
)
async def test_no_batch_is_sent_if_its_queue_is_away_or_a_lock_expired(
    worker: Worker, error: Exception | None, held: bool
) -> None:
    queues = Batches(error)
    outcomes: list[tuple[Reply | Continue, Callable[[], bool]]] = [(refusal(), lambda: True), (refusal(), lambda: held)]
    assert not await dispatcher(worker, queues).send_together(outcomes)
    assert not queues.sent
