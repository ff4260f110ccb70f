"""The dead-letter watch over plain data: which dead letters it answers, and what it recognizes again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusReceivedMessage

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import (
    BeforeSend,
    DeadLetteredMessage,
    Delivery,
    MessageTooLarge,
    ServiceBusUnavailable,
    unconditionally,
)
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.journal import Entry, Journal, open_journal
from flow_worker.pipeline import decode
from flow_worker.pipeline.outcome import Continue
from flow_worker.runtime.answered_dead_letters import AnsweredDeadLetters
from flow_worker.runtime.dead_letter_watch import DeadLetterWatch
from flow_worker.runtime.dispatcher import Dispatcher
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.ports import QueueReceiver
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.runtime.unproven_dead_letters import UnprovenDeadLetters
from flow_worker.settings import JournalSettings
from tests.support.pipeline import (
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

RETENTION = timedelta(hours=12)
THROTTLED = flow_answer(429, run=None, retry_after="30")


@dataclass
class FakeBus(OneByOne):
    """A bus with one dead-letter queue; `too_small` names the queues that take no message."""

    dead_letters: list[DeadLetteredMessage]
    too_small: set[str] = field(default_factory=set)
    sent: list[tuple[str, Message]] = field(default_factory=list)
    rounds: int = 0
    stuck: set[int] = field(default_factory=set)
    """The sequence numbers of the dead letters whose deletion fails."""
    completions: int = 0

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        await before()
        if queue in self.too_small:
            raise MessageTooLarge("larger than the queue takes")
        self.sent.append((queue, message))

    def max_message_bytes(self, queue: str) -> int | None:
        return None

    async def other_senders(self, queue: str) -> list[str] | None:
        return None

    def receiver(self, queue: str) -> AbstractAsyncContextManager[QueueReceiver]:
        raise NotImplementedError("the watch receives from no queue")

    @asynccontextmanager
    async def dead_letter_queue(self, queue: str) -> AsyncIterator[FakeBus]:
        yield self

    async def peek(self) -> AsyncIterator[DeadLetteredMessage]:
        self.rounds += 1
        for dead_letter in sorted(self.dead_letters, key=lambda each: each.message.sequence_number):
            yield dead_letter

    async def take(self, sequence_numbers: Iterable[int]) -> AsyncIterator[Delivery]:
        taken = set(sequence_numbers)
        for dead_letter in list(self.dead_letters):
            if dead_letter.message.sequence_number in taken:
                yield Delivery(dead_letter.message, ServiceBusReceivedMessage.__new__(ServiceBusReceivedMessage))

    async def complete(self, delivery: Delivery) -> None:
        self.completions += 1
        if delivery.message.sequence_number in self.stuck:
            raise ServiceBusUnavailable("complete: the SDK failed")
        del self.dead_letters[next(n for n, each in enumerate(self.dead_letters) if each.message == delivery.message)]

    async def release(self) -> None:
        pass

    def results(self) -> list[FlowResult]:
        """The results that were published."""
        return [FlowResult.from_message(message) for queue, message in self.sent if queue == "flow-replies"]


@dataclass
class CountingJournal:
    """The journal behind a watch's memory: counts the reads; with `is_full`, it takes no record."""

    journal: Journal
    reads: int = 0
    is_full: bool = False
    is_away: bool = False

    async def find(self, message_id: str) -> Entry | None:
        self.reads += 1
        if self.is_away:
            raise TemporarilyUnavailable("journal_unavailable", "the journal did not answer")
        return await self.journal.find(message_id)

    async def settle(self, message_id: str, result: FlowResult) -> FlowResult | None:
        raise NotImplementedError

    async def keep_mark(self, key: str, *, note: str = "") -> None:
        if self.is_full:
            raise TemporarilyUnavailable("journal_unavailable", "the disk is full")
        await self.journal.keep_mark(key, note=note)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    clock = Clock()
    async with open_journal(JournalSettings(path=tmp_path / "journal.sqlite3"), now=clock) as journal:
        yield Worker(journal, clock)


def dead(message: ReceivedMessage, reason: str = "MaxDeliveryCountExceeded") -> DeadLetteredMessage:
    return DeadLetteredMessage(message, reason, "")


def watch_of(
    worker: Worker,
    bus: FakeBus,
    journal: Journal | None = None,
    senders: KnownSenders | None = None,
    max_count: int = 10_000,
) -> DeadLetterWatch:
    """Return the watch of a new worker process. `journal`: the journal as the watch's memory sees it."""
    handler = worker.handler(ScriptedFlow(), senders)
    outbox = Outbox(bus)
    replies = Replies(outbox, time_to_live=timedelta(hours=1), publish_seconds=1)
    schedule = Schedule(outbox, "flow-continuations", seal=SEAL, schedule_seconds=1)
    return DeadLetterWatch(
        "flow-requests",
        decode.requests_of("flow-requests"),
        bus=bus,
        handler=handler,
        dispatcher=Dispatcher(
            replies,
            schedule,
            worker.journal,
            end_oversized=handler.end_oversized,
            reply_retention=timedelta(hours=1),
        ),
        answered=AnsweredDeadLetters("flow-requests", journal or worker.journal),
        unproven=UnprovenDeadLetters("flow-requests", retention=RETENTION, max_count=max_count, now=worker.clock),
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


async def test_a_dead_letter_whose_flow_is_being_called_is_left_to_that_worker(worker: Worker) -> None:
    message, flow = request(sequence_number=7), ScriptedFlow(None)
    call = asyncio.create_task(worker.take(message, flow))
    await flow.called.wait()
    bus = FakeBus([dead(message)])
    watch = watch_of(worker, bus)
    await watch.answer_all()
    await watch.answer_all()
    assert bus.sent == []
    call.cancel()
    await asyncio.wait([call])
    await watch.answer_all()
    assert [result.status for result in bus.results()] == [Status.UNKNOWN]


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
    assert len(bus.sent) == 2


@pytest.mark.parametrize(
    ("reason", "age"), [("role_missing", timedelta(0)), ("MaxDeliveryCountExceeded", timedelta(days=2))]
)
async def test_a_dead_letter_of_the_worker_or_older_than_the_journal_remembers_is_passed(
    worker: Worker, reason: str, age: timedelta
) -> None:
    bus = FakeBus([dead(request(sequence_number=7, enqueued_at=NOW - age), reason)])
    journal = CountingJournal(worker.journal)
    await watch_of(worker, bus, journal).answer_all()
    assert bus.sent == []
    assert journal.reads == 0


# --- which messages are the same ---------------------------------------------------------------------------------


async def test_a_message_that_is_dead_lettered_late_under_a_lower_number_is_answered(worker: Worker) -> None:
    """A broker that keeps the sequence number puts such a message before those that were answered earlier."""
    bus = FakeBus([dead(request(sequence_number=9, message_id="m-9"))])
    watch = watch_of(worker, bus)
    await watch.answer_all()
    bus.dead_letters.append(dead(request(sequence_number=2, message_id="m-2")))
    await watch.answer_all()
    assert [result.correlation_id for result in bus.results()] == ["m-9", "m-2"]


@pytest.mark.parametrize("message_id", ["m-1", "m-2"], ids=["same request again", "another request"])
async def test_a_message_of_a_queue_that_was_created_again_is_another_one(worker: Worker, message_id: str) -> None:
    """The queue assigns its sequence numbers once more; only the enqueued time differs."""
    bus = FakeBus([dead(request(sequence_number=1))])
    watch = watch_of(worker, bus)
    await watch.answer_all()
    later = NOW - timedelta(seconds=1)
    bus.dead_letters = [dead(request(sequence_number=1, message_id=message_id, enqueued_at=later))]
    await watch.answer_all()
    await watch.answer_all()
    assert [result.correlation_id for result in bus.results()] == ["m-1", message_id]


@pytest.mark.parametrize("number", [7, 1], ids=["kept", "renumbered"])
async def test_a_published_request_whose_settlement_was_lost_is_not_published_again(
    worker: Worker, number: int
) -> None:
    message = request(sequence_number=7)
    await worker.mark_published(reply_of(await worker.take(message, ScriptedFlow(flow_answer(200, {})))))
    bus = FakeBus([dead(replace(message, sequence_number=number))])
    await watch_of(worker, bus).answer_all()
    withdrawn_key = KnownSenders(instead=Refused("claim_invalid", "no"))
    await watch_of(worker, bus, senders=withdrawn_key).answer_all()
    assert bus.sent == []


@pytest.mark.parametrize("number", [7, 1], ids=["kept", "renumbered"])
async def test_a_journalled_step_that_no_worker_scheduled_is_scheduled_once(worker: Worker, number: int) -> None:
    message = request(sequence_number=7)
    waits = await worker.take(message, ScriptedFlow(THROTTLED))
    assert isinstance(waits, Continue)
    bus = FakeBus([dead(replace(message, sequence_number=number))])
    for _ in range(2):
        await watch_of(worker, bus).answer_all()
    assert [message.message_id for _, message in bus.sent] == [waits.continuation.continuation_id]


async def test_a_message_of_the_same_millisecond_under_the_same_id_gets_no_foreign_result(worker: Worker) -> None:
    """A sender who copies the message ID of another request must not learn its result from the dead-letter queue."""
    message = request(sequence_number=7)
    reply_of(await worker.take(message, ScriptedFlow(flow_answer(200, {"secret": 1}))))  # not published yet
    copy = request(sequence_number=8, claim="forged")
    bus = FakeBus([dead(copy)])
    await watch_of(worker, bus).answer_all()
    assert [(result.status, result.output) for result in bus.results()] == [(Status.UNKNOWN, None)]


# --- what a restart or another worker recognizes -----------------------------------------------------------------


def _unreadable(number: int) -> ReceivedMessage:
    return request(sequence_number=number, message_id=f"m-{number}", body=b"not JSON")


async def test_no_kind_of_answer_is_repeated_after_a_restart(worker: Worker) -> None:
    await worker.take(request(sequence_number=2, message_id="taken"), ScriptedFlow(flow_answer(200, {})))
    kinds = {
        "proven": request(sequence_number=3, message_id="proven"),
        "unproven": request(sequence_number=4, message_id="unproven", claim="forged"),
        "unreadable": _unreadable(5),
        "conflict": request(sequence_number=6, message_id="taken", input={"customer": "Other"}),
        "sent twice": request(sequence_number=7, message_id="twice"),
        "sent twice again": request(sequence_number=8, message_id="twice", enqueued_at=NOW - timedelta(seconds=1)),
    }
    bus = FakeBus([dead(message) for message in kinds.values()])
    await watch_of(worker, bus).answer_all()
    assert len(bus.results()) == len(kinds)
    worker.clock.now += timedelta(hours=1)  # long after any window of duplicate detection
    for _ in range(2):
        await watch_of(worker, bus).answer_all()
    assert len(bus.results()) == len(kinds)


async def test_a_record_that_the_journal_did_not_take_is_written_in_the_next_round(worker: Worker) -> None:
    bus = FakeBus([dead(_unreadable(5))])
    journal = CountingJournal(worker.journal, is_full=True)
    watch = watch_of(worker, bus, journal)
    await watch.answer_all()
    await watch.answer_all()
    journal.is_full = False
    await watch.answer_all()
    await watch_of(worker, bus).answer_all()
    assert len(bus.sent) == 1


async def test_an_absent_journal_ends_the_round_after_a_few_dead_letters(worker: Worker) -> None:
    """Each further one would cost the journal's deadline. The next round answers them all."""
    bus, journal = FakeBus(_many(30)), CountingJournal(worker.journal, is_away=True)
    watch = watch_of(worker, bus, journal)
    with pytest.raises(TemporarilyUnavailable):
        await watch.answer_all()
    assert (journal.reads, bus.sent) == (5, [])
    journal.is_away = False
    await watch.answer_all()
    assert len(bus.sent) == 30


# --- dead letters of senders whom nobody has proven ---------------------------------------------------------------


UNPROVEN: dict[str, dict[str, Any]] = {
    "no claim": {"claim": None},
    "a junk claim": {"claim": "junk"},
    "an unreadable body": {"body": b"["},
    "no contract": {"application_properties": {}},
}
UNPROVEN_KINDS = pytest.mark.parametrize("change", UNPROVEN.values(), ids=UNPROVEN.keys())


def unproven(change: dict[str, Any], count: int) -> list[DeadLetteredMessage]:
    each = (request(sequence_number=n, message_id=f"m-{n}", **change) for n in range(1, count + 1))
    return [dead(message, "TTLExpiredException") for message in each]


@UNPROVEN_KINDS
async def test_an_unproven_dead_letter_costs_one_small_entry_and_is_answered_once(
    worker: Worker, change: dict[str, Any], tmp_path: Path
) -> None:
    bus = FakeBus(unproven(change, 5))
    for _ in range(3):  # three processes, long after any window of duplicate detection
        await watch_of(worker, bus).answer_all()
        worker.clock.now += timedelta(hours=1)
    assert len(bus.results()) == len(bus.dead_letters) == 5
    with closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as file:
        sizes = [size for (size,) in file.execute("SELECT length(document) FROM entry WHERE length(document) > 0")]
    assert len(sizes) == 5
    assert max(sizes) < 400


@UNPROVEN_KINDS
async def test_an_answered_unproven_dead_letter_is_deleted_after_its_retention(
    worker: Worker, change: dict[str, Any]
) -> None:
    bus = FakeBus(unproven(change, 3))
    watch = watch_of(worker, bus)
    await watch.answer_all()
    worker.clock.now += RETENTION
    await watch_of(worker, bus).answer_all()  # after a restart the record in the journal says that it is unproven
    assert (len(bus.results()), bus.dead_letters) == (3, [])


@UNPROVEN_KINDS
async def test_unproven_dead_letters_beyond_the_maximum_are_answered_and_deleted_at_once(
    worker: Worker, change: dict[str, Any]
) -> None:
    bus, watch = FakeBus(unproven(change, 10)), None
    for _ in range(3):
        watch = watch_of(worker, bus, max_count=4)
        await watch.answer_all()
    assert len(bus.results()) == 10
    assert [each.message.sequence_number for each in bus.dead_letters] == [1, 2, 3, 4], "the first ones are the sample"


async def test_dead_letters_that_name_no_address_are_deleted_too(worker: Worker) -> None:
    bus = FakeBus([dead(request(sequence_number=n, message_id=None), "message_id_missing") for n in range(1, 6)])
    await watch_of(worker, bus, max_count=2).answer_all()
    assert (len(bus.dead_letters), bus.sent) == (2, [])


@pytest.mark.parametrize(
    "change", [{"correlation_id": "c" * 200}, {"message_id": None}, {"reply_to_session_id": "s" * 200}]
)
async def test_a_request_without_an_address_that_the_broker_dead_lettered_is_deleted_too(
    worker: Worker, change: dict[str, Any]
) -> None:
    """Its reason is the broker's own, and it can get no answer."""
    each = [request(sequence_number=n, **{"message_id": f"m-{n}", **change}) for n in range(1, 6)]
    bus = FakeBus([dead(message, "TTLExpiredException") for message in each])
    watch = watch_of(worker, bus, max_count=2)
    await watch.answer_all()
    assert (len(bus.dead_letters), bus.sent) == (2, [])
    worker.clock.now += RETENTION
    await watch.answer_all()
    assert (bus.dead_letters, bus.sent) == ([], [])


@pytest.mark.parametrize("reason", ["continuation_unproven", "malformed_request", "message_id_too_long"])
async def test_unproven_dead_letters_of_the_worker_have_the_same_retention_and_maximum(
    worker: Worker, reason: str
) -> None:
    bus = FakeBus([dead(request(sequence_number=n, message_id=f"m-{n}"), reason) for n in range(1, 6)])
    watch = watch_of(worker, bus, max_count=2)
    await watch.answer_all()
    assert [each.message.sequence_number for each in bus.dead_letters] == [1, 2]
    worker.clock.now += timedelta(days=2)  # older than any that the watch answers
    await watch.answer_all()
    assert (bus.dead_letters, bus.sent) == ([], [])


@pytest.mark.parametrize(
    "change", [{"claim": None}, {"body": b"["}, {"application_properties": {}}, {"correlation_id": "c" * 200}]
)
async def test_old_dead_letters_that_prove_no_sender_are_deleted_unanswered(
    worker: Worker, change: dict[str, Any]
) -> None:
    """No worker ran for longer than the journal remembers."""
    bus = FakeBus(unproven({**change, "enqueued_at": NOW - timedelta(days=2)}, 3))
    claimed = dead(request(sequence_number=9, enqueued_at=NOW - timedelta(days=2)), "TTLExpiredException")
    bus.dead_letters.append(claimed)
    journal = CountingJournal(worker.journal)
    watch = watch_of(worker, bus, journal)
    for _ in range(2):
        await watch.answer_all()
    assert (bus.dead_letters, bus.sent, journal.reads) == ([claimed], [], 0)


async def test_an_unproven_dead_letter_that_grew_old_before_its_deletion_is_deleted(worker: Worker) -> None:
    bus = FakeBus(unproven({"claim": "junk"}, 3))
    watch = watch_of(worker, bus)
    await watch.answer_all()
    worker.clock.now += timedelta(days=2)
    await watch.answer_all()
    assert bus.dead_letters == []


async def test_a_dead_letter_that_cannot_be_deleted_keeps_no_other_one(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    bus = FakeBus(unproven({"claim": "junk"}, 10), stuck={1, 4})
    watch = watch_of(worker, bus, max_count=0)
    for _ in range(2):
        await watch.answer_all()
    assert [each.message.sequence_number for each in bus.dead_letters] == [1, 4]
    assert "deletes a dead letter later" in caplog.text


async def test_a_lost_connection_ends_the_deletion_after_a_few_dead_letters(worker: Worker) -> None:
    bus = FakeBus(unproven({"claim": "junk"}, 10), stuck=set(range(1, 11)))
    with pytest.raises(ServiceBusUnavailable):
        await watch_of(worker, bus, max_count=0).answer_all()
    assert bus.completions == 5


async def test_dead_letters_of_proven_senders_stay(worker: Worker) -> None:
    proven = [dead(request(sequence_number=n, message_id=f"m-{n}"), "TTLExpiredException") for n in range(1, 6)]
    bus = FakeBus([*proven, dead(request(sequence_number=6), "flow_throttled")])
    for _ in range(2):
        await watch_of(worker, bus, max_count=0).answer_all()
    assert (len(bus.results()), len(bus.dead_letters)) == (5, 6)


async def test_a_message_that_a_lane_answered_is_not_answered_again_when_it_expires(worker: Worker) -> None:
    """The lane's settlement failed, so the broker dead-lettered the message."""
    for number, change in enumerate(UNPROVEN.values(), 1):
        message = request(sequence_number=number, message_id=f"m-{number}", **change)
        reply = reply_of(await worker.take(message))
        assert reply.stand_in is not None
        await worker.journal.keep_published(reply.stand_in, reply.result, retention=timedelta(hours=1))
        bus = FakeBus([dead(message, "TTLExpiredException")])
        await watch_of(worker, bus).answer_all()
        assert bus.sent == [], change


# --- what a round costs ------------------------------------------------------------------------------------------


def _many(count: int, enqueued_at: datetime = NOW) -> list[DeadLetteredMessage]:
    return [dead(replace(_unreadable(number), enqueued_at=enqueued_at)) for number in range(1, count + 1)]


async def test_the_memory_is_bounded_and_the_journal_recognizes_the_rest(worker: Worker) -> None:
    bus, journal = FakeBus(_many(30)), CountingJournal(worker.journal)
    watch = watch_of(worker, bus)
    watch._answered = AnsweredDeadLetters("flow-requests", journal, capacity=20)
    await watch.answer_all()
    assert journal.reads == 30
    await watch.answer_all()
    assert journal.reads == 30 + 10
    del bus.dead_letters[:15]  # a person replayed them: there is room for others
    await watch.answer_all()
    await watch.answer_all()
    assert journal.reads == 30 + 10 + 10
    assert len(bus.sent) == 30


async def test_a_round_reads_no_journal_for_old_dead_letters(worker: Worker) -> None:
    bus, journal = FakeBus(_many(5000, NOW - timedelta(days=2))), CountingJournal(worker.journal)
    await watch_of(worker, bus, journal).answer_all()
    assert journal.reads == 0


async def test_the_pause_grows_with_the_time_that_a_round_takes(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(100))
    old = NOW - timedelta(days=2)  # nothing is sent or deleted: the watch reads the time once for each
    bus = FakeBus([dead(request(sequence_number=n, message_id=f"m-{n}", enqueued_at=old)) for n in range(1, 6)])
    watch = watch_of(worker, bus)
    assert watch.pause_seconds() == 0
    monkeypatch.setattr("flow_worker.runtime.dead_letter_watch.time.monotonic", lambda: float(next(seconds)))
    await watch.answer_all()
    assert watch.pause_seconds() == 5 * 9
