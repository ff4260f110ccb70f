"""Requests that end without a call: given up, refused or expired. The journal decides if a call may have gone out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import BeforeSend, LockLost, MessageTooLarge, unconditionally
from flow_worker.access.rights import Rights
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.journal import open_journal
from flow_worker.pipeline.handler import Handler
from flow_worker.pipeline.outcome import Abandon, AlreadyHandled, Continue, DeadLetter, Outcome
from flow_worker.runtime.dispatcher import Dispatcher
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.settings import JournalSettings, LimitSettings
from tests.support.pipeline import (
    ADA,
    MAX_OUTAGE,
    NOW,
    RETRY,
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

TOO_OLD = timedelta(seconds=RETRY.max_age_seconds + 60)
WITHOUT_A_ROLE = KnownSenders(principal=replace(ADA, roles=frozenset()))


def away(what: str) -> TemporarilyUnavailable:
    return TemporarilyUnavailable(f"{what}_unavailable", f"the {what} are away")


async def fail(*_: object, **__: object) -> None:
    raise away("journal")


@dataclass
class BreakableJournal:
    """A journal that can be made unavailable; counts its uses."""

    journal: Any
    is_away: bool = False
    uses: list[str] = field(default_factory=list)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(self.journal, method)

        async def call(*arguments: Any, **options: Any) -> Any:
            self.uses.append(method)
            if self.is_away:
                raise away("journal")
            return await original(*arguments, **options)

        return call


@dataclass
class SmallQueue(OneByOne):
    """Accepts results, but no continuation."""

    results: list[FlowResult] = field(default_factory=list)

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        await before()
        if queue == "flow-continuations":
            raise MessageTooLarge("larger than the queue takes")
        self.results.append(FlowResult.from_message(message))


@pytest.fixture
async def broken(tmp_path: Path) -> AsyncIterator[BreakableJournal]:
    async with open_journal(JournalSettings(path=tmp_path / "journal.sqlite3"), now=Clock()) as journal:
        yield BreakableJournal(journal)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    clock = Clock()
    async with open_journal(JournalSettings(path=tmp_path / "of-worker.sqlite3"), now=clock) as journal:
        yield Worker(BreakableJournal(journal), clock, LimitSettings(max_in_flight=1))


def dispatcher(worker: Worker, handler: Handler, queue: SmallQueue) -> Dispatcher:
    outbox = Outbox(queue)
    return Dispatcher(
        Replies(outbox, time_to_live=timedelta(hours=1), publish_seconds=1),
        Schedule(outbox, "flow-continuations", seal=SEAL, schedule_seconds=1),
        worker.journal,
        end_oversized=handler.end_oversized,
        reply_retention=timedelta(hours=1),
    )


def set_away(worker: Worker, *, is_away: bool = True) -> None:
    journal: Any = worker.journal
    journal.is_away = is_away


async def published(worker: Worker, outcome: Outcome) -> FlowResult:
    """Mark the outcome's result as published, as the dispatcher does, and return it."""
    queue = SmallQueue()
    sender = dispatcher(worker, worker.handler(ScriptedFlow()), queue)
    await sender.mark_published(await sender.send(outcome))
    [result] = queue.results
    return result


async def killed_in_the_call(worker: Worker, flow: ScriptedFlow, message: ReceivedMessage) -> asyncio.Task[Outcome]:
    """Leave the journal as a worker leaves it that is killed while its flow runs."""
    call = asyncio.create_task(worker.take(message, flow))
    await asyncio.wait_for(flow.called.wait(), 9)
    return call


# --- giving up after a call whose answer was lost ----------------------------------------------------------------


@pytest.mark.parametrize("cause", ["throttled", "token", "keys", "dataverse", "internal error"])
@pytest.mark.parametrize("name", ["quote", "again"])
async def test_giving_up_after_a_lost_call_is_unknown_whatever_the_cause(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, cause: str, name: str
) -> None:
    flow = ScriptedFlow(None)
    call = await killed_in_the_call(worker, flow, request(name))
    worker.clock.now += TOO_OLD
    senders = KnownSenders(instead=away("keys") if cause == "keys" else None)
    token_error = {"token": away("identity"), "internal error": ValueError("bug")}.get(cause)
    if cause != "throttled":
        worker = Worker(worker.journal, worker.clock)  # a process of its own, with its own limits
    if cause == "dataverse":

        async def require(*_: object) -> None:
            raise away("dataverse")

        monkeypatch.setattr(Rights, "require", require)
    outcome = await worker.take(request(name, delivery_count=1), replace(flow, token_error=token_error), senders)
    result = reply_of(outcome).result
    assert result.error is not None
    assert (result.status, result.attempts, result.error.retryable) == (Status.UNKNOWN, 1, False)
    assert len(flow.calls) == 1
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call


async def test_a_request_is_not_given_up_while_another_worker_calls_its_flow(worker: Worker) -> None:
    flow = ScriptedFlow(None)
    old = request(enqueued_at=NOW - TOO_OLD)
    call = await killed_in_the_call(worker, flow, old)
    outcome = await worker.take(replace(old, delivery_count=1), ScriptedFlow(token_error=away("identity")))
    assert isinstance(outcome, Continue)
    assert outcome.continuation.code == "call_under_way"
    call.cancel()
    assert reply_of(await call).result.status is Status.UNKNOWN


async def test_a_continuation_too_large_after_a_lost_call_is_unknown(worker: Worker) -> None:
    flow, queue = ScriptedFlow(None), SmallQueue()
    call = await killed_in_the_call(worker, flow, request())
    worker.clock.now += timedelta(seconds=500)  # the lease is over, the time to try is not
    other = Worker(worker.journal, worker.clock)
    handler = other.handler(ScriptedFlow(token_error=away("identity")))
    waits = await other.take(request(delivery_count=1), ScriptedFlow(token_error=away("identity")))
    assert isinstance(waits, Continue)
    await dispatcher(other, handler, queue).send(waits)
    [result] = queue.results
    assert (result.status, result.attempts) == (Status.UNKNOWN, 1)
    call.cancel()
    await asyncio.wait([call])


async def test_a_continuation_too_large_without_a_call_fails_and_is_dead_lettered(worker: Worker) -> None:
    flow, queue = ScriptedFlow(flow_answer(429, run=None)), SmallQueue()
    sender = dispatcher(worker, worker.handler(flow), queue)
    sent = await sender.send(await worker.take(request(), flow))
    assert isinstance(sent, DeadLetter)
    assert [(result.status, result.attempts) for result in queue.results] == [(Status.FAILED, 1)]
    await sender.mark_published(sent)
    assert isinstance(await worker.take(request(delivery_count=1), flow), AlreadyHandled)
    assert len(flow.calls) == 1


async def test_a_continuation_too_large_without_a_journal_is_abandoned(worker: Worker) -> None:
    flow, queue = ScriptedFlow(token_error=away("identity")), SmallQueue()
    set_away(worker)
    sent = await dispatcher(worker, worker.handler(flow), queue).send(await worker.take(request(), flow))
    assert isinstance(sent, Abandon)
    assert queue.results == []


# --- giving up without a call ------------------------------------------------------------------------------------


async def test_a_request_given_up_without_a_call_stays_given_up(worker: Worker) -> None:
    """The journal learns of it first, so a worker that comes later does not call the flow."""
    worker.clock.now += TOO_OLD
    outcome = await worker.take(request(delivery_count=1), ScriptedFlow(token_error=away("identity")))
    assert isinstance(outcome, DeadLetter)
    flow = ScriptedFlow(flow_answer(200))
    again = reply_of(await worker.take(request(delivery_count=2), flow)).result
    assert (again.status, again.attempts, flow.calls) == (Status.FAILED, 0, [])


async def test_an_unproven_request_that_was_given_up_is_not_called_when_its_keys_are_back(worker: Worker) -> None:
    worker.clock.now += TOO_OLD
    outcome = await worker.take(request(delivery_count=1), ScriptedFlow(), KnownSenders(instead=away("keys")))
    assert isinstance(outcome, DeadLetter)
    flow = ScriptedFlow(flow_answer(200))
    again = reply_of(await worker.take(request(delivery_count=2), flow)).result
    assert (again.status, flow.calls) == (Status.FAILED, [])
    assert (await published(worker, outcome)).status is Status.FAILED
    assert isinstance(await worker.take(request(delivery_count=3), flow), AlreadyHandled)
    # It does not occupy the message ID: a new message may have it.
    assert reply_of(await worker.take(request(sequence_number=9), flow)).result.status is Status.SUCCEEDED


# --- while the journal is away -----------------------------------------------------------------------------------


async def test_a_postponement_needs_no_journal(worker: Worker) -> None:
    set_away(worker)
    outcome = await worker.take(request(delivery_count=1), ScriptedFlow(token_error=away("identity")))
    assert isinstance(outcome, Continue)
    assert outcome.continuation.code == "identity_unavailable"


async def test_the_first_delivery_is_given_up_without_a_journal(worker: Worker) -> None:
    set_away(worker)
    worker.clock.now += TOO_OLD
    outcome = await worker.take(request(), ScriptedFlow(token_error=away("identity")))
    assert isinstance(outcome, DeadLetter)
    assert (await published(worker, outcome)).status is Status.FAILED


@pytest.mark.parametrize("cause", ["token", "journal alone"])
async def test_any_other_delivery_waits_for_the_journal_for_a_bounded_time(worker: Worker, cause: str) -> None:
    flow = ScriptedFlow(flow_answer(200), token_error=away("identity") if cause == "token" else None)
    set_away(worker)
    worker.clock.now += TOO_OLD
    waits = await worker.take(request(delivery_count=1), flow)
    assert isinstance(waits, Continue)
    assert waits.continuation.code == "journal_unavailable"
    worker.clock.now += MAX_OUTAGE - timedelta(seconds=120)
    waits = await worker.resume(waits, flow)
    assert isinstance(waits, Continue)
    worker.clock.now += timedelta(seconds=300)
    outcome = await worker.resume(waits, flow)
    assert isinstance(outcome, DeadLetter)
    result = await published(worker, outcome)
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.UNKNOWN, "journal_unavailable")
    assert flow.calls == []


async def test_a_request_that_waited_for_the_journal_is_called_when_it_is_back(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200))
    set_away(worker)
    worker.clock.now += TOO_OLD
    waits = await worker.take(request(delivery_count=1), flow)
    set_away(worker, is_away=False)
    assert reply_of(await worker.resume(waits, flow)).result.status is Status.SUCCEEDED


REFUSALS = [
    (request("admin"), KnownSenders(), "flow_not_allowed"),
    (request("nothing"), KnownSenders(), "flow_not_allowed"),
    (request(), KnownSenders(instead=Refused("claim_invalid", "no")), "claim_invalid"),
    (request(body=b"{"), KnownSenders(), "malformed_request"),
]


@pytest.mark.parametrize(("message", "senders", "code"), REFUSALS, ids=["no role", "no flow", "no claim", "no request"])
async def test_a_refusal_needs_no_journal(
    worker: Worker, message: ReceivedMessage, senders: KnownSenders, code: str
) -> None:
    set_away(worker)
    for age in (timedelta(0), TOO_OLD):
        worker.clock.now = NOW + age
        result = await published(worker, await worker.take(message, ScriptedFlow(), senders))
        assert result.error is not None
        assert (result.status, result.error.code) == (Status.REFUSED, code)


async def test_a_refusal_of_another_delivery_waits_for_the_journal(worker: Worker) -> None:
    """The sender may have had the right at an earlier delivery, and the flow may have been called."""
    set_away(worker)
    outcome = await worker.take(request(delivery_count=1), ScriptedFlow(), WITHOUT_A_ROLE)
    assert isinstance(outcome, Continue)
    set_away(worker, is_away=False)
    assert reply_of(await worker.resume(outcome, ScriptedFlow(), WITHOUT_A_ROLE)).result.status is Status.REFUSED


async def test_the_first_delivery_expires_without_a_journal_and_any_other_waits(worker: Worker) -> None:
    set_away(worker)
    message = request(expires_at=NOW)
    assert reply_of(await worker.take(message)).result.status is Status.EXPIRED
    assert isinstance(await worker.take(replace(message, delivery_count=1)), Continue)


# --- results without an entry of their own are published once ----------------------------------------------------


@pytest.mark.parametrize(("message", "senders", "code"), REFUSALS, ids=["no role", "no flow", "no claim", "no request"])
async def test_a_published_refusal_is_not_published_again(
    worker: Worker, message: ReceivedMessage, senders: KnownSenders, code: str
) -> None:
    await published(worker, await worker.take(message, ScriptedFlow(), senders))
    again = await worker.take(replace(message, delivery_count=1), ScriptedFlow(), senders)
    assert isinstance(again, AlreadyHandled), code


async def test_a_request_that_was_refused_is_not_called_when_its_sender_gets_the_right(worker: Worker) -> None:
    await published(worker, await worker.take(request(), ScriptedFlow(), WITHOUT_A_ROLE))
    flow = ScriptedFlow(flow_answer(200))
    assert isinstance(await worker.take(request(delivery_count=1), flow), AlreadyHandled)
    assert flow.calls == []
    # A new message with the same ID is a new request: the refused one did not occupy its message ID.
    assert reply_of(await worker.take(request(sequence_number=9), flow)).result.status is Status.SUCCEEDED


async def test_a_published_message_id_conflict_is_not_published_again(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200))
    await worker.take(request(), flow)
    other = request(input={"customer": "Fabrikam"}, sequence_number=9)
    await published(worker, await worker.take(other, flow))
    assert isinstance(await worker.take(replace(other, delivery_count=1), flow), AlreadyHandled)


@pytest.mark.parametrize("number", [0, 1])
async def test_a_result_that_the_journal_could_not_take_is_published_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flow = ScriptedFlow(flow_answer(200), answers=[flow_answer(429, run=None)] if number else [])
    message, outcome = request(), None
    if number:
        outcome = await worker.take(message, flow)
        worker = Worker(worker.journal, worker.clock)
    journal: Any = worker.journal
    with monkeypatch.context() as outage:
        outage.setattr(journal, "conclude", fail, raising=False)
        reply = await (worker.resume(outcome, flow) if outcome else worker.take(message, flow))
    assert (await published(worker, reply)).status is Status.SUCCEEDED
    worker.clock.now += timedelta(seconds=500)  # the lease is over
    message = replace(message, delivery_count=1)
    again = await (worker.resume(outcome, flow) if outcome else worker.take(message, flow))
    assert isinstance(again, AlreadyHandled)
    assert len(flow.calls) == 1 + number


async def test_a_first_delivery_reads_no_stand_in(worker: Worker) -> None:
    """The look for an earlier end costs nothing where there can be none."""
    journal: Any = worker.journal
    await worker.take(request(), ScriptedFlow(flow_answer(200)))
    assert journal.uses == ["acquire", "conclude"]


async def test_the_mark_is_kept_if_the_lane_is_interrupted_at_the_moment_of_the_acceptance(worker: Worker) -> None:
    outcome = await worker.take(request(), ScriptedFlow(flow_answer(200)))

    class Interrupting(SmallQueue):
        async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
            sending.cancel()
            await super().send(queue, message, before)

    sender = dispatcher(worker, worker.handler(ScriptedFlow()), Interrupting())
    sending = asyncio.create_task(sender.send(outcome))
    await asyncio.wait([sending])
    assert sending.cancelled()
    assert isinstance(await worker.take(request(delivery_count=1), ScriptedFlow()), AlreadyHandled)


async def test_the_mark_is_repeated_if_the_journal_fails_once(
    broken: BreakableJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(broken.journal, Clock())
    reply = reply_of(await worker.take(request(), ScriptedFlow(flow_answer(200))))
    store = broken.journal._store
    original, failures = store.write, [away("journal")]

    async def fail_once(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return await original(*arguments, **options)

    monkeypatch.setattr(store, "write", fail_once)
    await published(worker, reply)
    assert isinstance(await worker.take(request(delivery_count=1), ScriptedFlow()), AlreadyHandled)


# --- attempts ----------------------------------------------------------------------------------------------------


async def test_the_attempts_include_a_call_that_was_lost(worker: Worker) -> None:
    call = await killed_in_the_call(worker, ScriptedFlow(None), request("again"))
    worker.clock.now += timedelta(seconds=500)
    other = Worker(worker.journal, worker.clock)
    outcome = await other.take(request("again", delivery_count=1), ScriptedFlow(flow_answer(200)))
    assert reply_of(outcome).result.attempts == 2
    call.cancel()
    await asyncio.wait([call])


async def test_the_attempts_of_a_slow_answer_include_the_call_of_the_worker_that_took_over(worker: Worker) -> None:
    slow, quick = ScriptedFlow(None), ScriptedFlow(None)
    first = await killed_in_the_call(worker, slow, request("quote"))
    first.cancel()  # answers `unknown` in the end; here only the counting matters
    assert reply_of(await first).result.attempts == 1
    second = await killed_in_the_call(worker, quick, request("again", message_id="m-2"))
    worker.clock.now += timedelta(seconds=500)
    other = Worker(worker.journal, worker.clock)
    third = await killed_in_the_call(other, ScriptedFlow(None), request("again", message_id="m-2", delivery_count=1))
    for call in (second, third):
        call.cancel()
        await asyncio.wait([call])
    last = await other.take(request("again", message_id="m-2", delivery_count=2), ScriptedFlow(flow_answer(200)))
    assert reply_of(last).result.attempts == 3


async def test_the_attempts_include_a_call_that_the_worker_broke_off(worker: Worker) -> None:
    call = await killed_in_the_call(worker, ScriptedFlow(None), request("again"))
    call.cancel()
    await asyncio.wait([call])
    outcome = await worker.take(request("again", delivery_count=1), ScriptedFlow(flow_answer(200)))
    assert reply_of(outcome).result.attempts == 2


async def test_the_attempts_include_calls_that_only_the_continuation_reports(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200), answers=[flow_answer(429, run=None)])

    journal: Any = worker.journal
    journal.schedule = fail
    waits = await worker.take(request(), flow)
    # Another worker, whose limits know nothing of the 429.
    reply = reply_of(await Worker(worker.journal, worker.clock).resume(waits, flow))
    assert (reply.result.status, reply.result.attempts) == (Status.SUCCEEDED, 2)


# --- a lock that expired before the result was sent ----------------------------------------------------------------


async def test_a_refusal_is_not_published_after_its_lock_expired(worker: Worker) -> None:
    """Another worker may have the message, and call the flow: the sender may have got the right since."""
    refusal, queue = await worker.take(request("admin")), SmallQueue()
    sender = dispatcher(worker, worker.handler(ScriptedFlow()), queue)
    with pytest.raises(LockLost):
        await sender.send(refusal, lock_held=lambda: False)
    assert queue.results == []


async def test_an_answer_is_published_after_its_lock_expired_unless_another_worker_did(worker: Worker) -> None:
    answer, queue = await worker.take(request(), ScriptedFlow(flow_answer(200))), SmallQueue()
    sender = dispatcher(worker, worker.handler(ScriptedFlow()), queue)
    for _ in range(2):
        await sender.mark_published(await sender.send(answer, lock_held=lambda: False))
    assert [result.status for result in queue.results] == [Status.SUCCEEDED]
