"""Continuations that this version cannot read: other workers get time to read them, then their senders an answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flow_contracts.message import Message, PropertyValue, ReceivedMessage
from flow_contracts.result import FlowError, Status
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import document, open_journal
from flow_worker.journal.entry import Entry, JobKey
from flow_worker.pipeline import decode
from flow_worker.pipeline.job import InvalidContinuation, Job
from flow_worker.pipeline.outcome import Abandon, AlreadyHandled, Continue, DeadLetter, Outcome, PassOn, Reply
from flow_worker.pipeline.seal import PASSED_ON
from flow_worker.settings import JournalSettings
from tests.support.pipeline import (
    READ_CONTINUATION,
    SEAL,
    UNREADABLE_SECONDS,
    Clock,
    ScriptedFlow,
    Worker,
    delivered,
    flow_answer,
    reply_of,
    request,
)

THROTTLED = flow_answer(429, run=None, retry_after="30")
LATE = timedelta(seconds=UNREADABLE_SECONDS)
EXPIRED = (Status.FAILED, FlowError(code="deliveries_exceeded", message="too often"))

Changes = dict[str, object]


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    clock = Clock()
    async with open_journal(JournalSettings(path=tmp_path / "journal.sqlite3"), now=clock) as journal:
        yield Worker(journal, clock)


async def waiting(worker: Worker) -> Continue:
    """Return the continuation of a request whose flow was called once and throttled it."""
    outcome = await worker.take(request(), ScriptedFlow(THROTTLED))
    assert isinstance(outcome, Continue)
    return outcome


def received(message: Message, at: datetime) -> ReceivedMessage:
    """Return the message as a worker sealed and the broker delivered it."""
    is_passed_on = (message.message_id or "").startswith(PASSED_ON)  # with its first seal
    return delivered(message if is_passed_on else SEAL.sealed(message, at), at, sequence_number=7)


def changed(message: Message, *, without: str = "", contract: PropertyValue = None, **body: object) -> Message:
    """Return the continuation as another version would have written it."""
    document: Changes = json.loads(message.body) | body
    document.pop(without, None)
    properties = dict(message.application_properties) | ({"contract": contract} if contract else {})
    return replace(message, body=json.dumps(document).encode(), application_properties=properties)


async def deliver(worker: Worker, message: Message, flow: ScriptedFlow | None = None) -> Outcome:
    handler = worker.handler(flow or ScriptedFlow())
    return await handler.handle(received(message, worker.clock.now), READ_CONTINUATION, "flow-continuations")


async def until_given_up(worker: Worker, message: Message) -> Outcome:
    """Deliver the message, and each message that passes it on, until another outcome comes."""
    for _ in range(1000):
        outcome = await deliver(worker, message)
        if not isinstance(outcome, PassOn):
            return outcome
        message, worker.clock.now = outcome.message, max(worker.clock.now, outcome.due)
    raise AssertionError("the message is passed on without end")


OF_ANOTHER_VERSION: list[Changes] = [
    {"contract": "flow-continuation/2"},
    {"kind": "compensate"},
    {"without": "input_hash"},
    {"principal": {"tenant": "t"}},
]


def test_unknown_fields_are_ignored_at_every_level() -> None:
    principal: Changes = {"tenant": "t", "oid": "o", "kind": "user", "roles": [], "authority": "entra"}
    sender: Changes = {"organization": "o", "oid": "", "system_user": "s"}
    known: Any = {"principal": principal, "dataverse_sender": sender, "run": {"run_id": "r"}}
    written: Any = changed(_job().to_message(), **known)
    newer = changed(
        written,
        novelty={"deep": [1]},
        principal=principal | {"novelty": 1},
        dataverse_sender=sender | {"novelty": 1},
        run={"run_id": "r", "novelty": 1},
    )
    assert Job.from_message(newer) == Job.from_message(written)


@pytest.mark.parametrize("change", OF_ANOTHER_VERSION, ids=str)
async def test_the_very_same_message_is_left_to_another_worker(worker: Worker, change: Any) -> None:
    message = changed((await waiting(worker)).continuation.to_message(), **change)
    message = replace(message, reply_to="q", reply_to_session_id="s", application_properties={
        **message.application_properties, "novelty": 1,
    })  # fmt: skip
    outcome = await deliver(worker, message)
    assert isinstance(outcome, PassOn)
    assert outcome.due > worker.clock.now
    passed = outcome.message
    properties = dict(passed.application_properties)
    assert properties.pop("unreadable_since") == worker.clock.now.isoformat()
    assert properties.pop("unreadable_passes") == 1
    assert str(properties.pop("fw-seal")).endswith(f";{message.message_id}"), "the seal of the first message"
    assert replace(passed, message_id=message.message_id, application_properties=properties) == message


async def test_a_repeated_pass_has_the_same_message_id_and_the_next_pass_has_another(worker: Worker) -> None:
    message = changed((await waiting(worker)).continuation.to_message(), kind="new")
    first, again = await deliver(worker, message), await deliver(worker, message)
    assert isinstance(first, PassOn)
    assert first == again
    second = await deliver(worker, first.message)
    assert isinstance(second, PassOn)
    assert len({message.message_id, first.message.message_id, second.message.message_id}) == 3


@pytest.mark.parametrize("change", OF_ANOTHER_VERSION, ids=str)
async def test_in_the_end_the_request_is_answered_unknown_and_never_called(worker: Worker, change: Any) -> None:
    began = worker.clock.now
    message = changed((await waiting(worker)).continuation.to_message(), **change)
    outcome = await until_given_up(worker, message)
    assert LATE <= worker.clock.now - began < LATE * 1.2
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    assert (outcome.reason, outcome.reply.queue) == ("continuation_unreadable", "flow-replies")
    result = outcome.reply.result
    assert (result.status, result.error and result.error.code) == (Status.UNKNOWN, "continuation_unreadable")
    assert (result.request_message_id, result.flow, result.attempts) == ("m-1", "quote", 1)
    worker.clock.now += timedelta(hours=3)  # any step is overdue by then
    flow = ScriptedFlow(flow_answer(200))
    assert reply_of(await worker.take(request(), flow)).result == result
    assert flow.calls == []


async def test_the_result_in_the_journal_wins(worker: Worker) -> None:
    """The worker that journalled the result was lost before it published it."""
    waits = await waiting(worker)
    done = reply_of(await worker.resume(waits, ScriptedFlow(flow_answer(200, {"quote": 7}))))
    message = changed(waits.continuation.to_message(), kind="new")
    outcome = await until_given_up(worker, message)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    assert outcome.reply.result == done.result
    await worker.mark_published(outcome.reply)
    assert isinstance(await until_given_up(worker, message), AlreadyHandled)


async def test_a_call_under_way_ends_before_its_request_is_answered(worker: Worker) -> None:
    waits = await waiting(worker)
    entry = await worker.journal.find("m-1")
    assert entry is not None
    worker.clock.now = waits.due
    job = waits.continuation
    await worker.journal.acquire(
        _key(job, entry.fingerprint), duration=timedelta(seconds=UNREADABLE_SECONDS + 60), calls=1
    )
    outcome = await until_given_up(worker, changed(job.to_message(), kind="new"))
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    assert (outcome.reply.result.status, outcome.reply.result.attempts) == (Status.UNKNOWN, 2)
    assert worker.clock.now >= waits.due + timedelta(seconds=UNREADABLE_SECONDS + 60)


async def test_an_old_continuation_leaves_the_answer_to_a_later_one_until_it_is_overdue(worker: Worker) -> None:
    first = await waiting(worker)
    running = flow_answer(202, location="https://flow.example/runs/1?sig=secret")
    third = await worker.resume(await worker.resume(first, ScriptedFlow(THROTTLED)), ScriptedFlow(running))
    assert isinstance(third, Continue)
    message = changed(first.continuation.to_message(), kind="new")
    long_ago = {"unreadable_since": (worker.clock.now - LATE).isoformat()}
    old = replace(message, application_properties={**message.application_properties, **long_ago})
    outcome = await deliver(worker, old)
    assert isinstance(outcome, PassOn), "the later one may never have been scheduled"
    assert outcome.due >= third.due
    worker.clock.now = third.due + timedelta(hours=1)
    answered = await deliver(worker, old)
    assert isinstance(answered, DeadLetter)
    assert answered.reply is not None
    assert answered.reply.result.status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("body", "properties", "answered"),
    [
        (b"no JSON", {"contract": "flow-continuation/1"}, False),
        (b"[" * 100_000, {"contract": "flow-continuation/1"}, False),
        (b"[]", {"contract": "flow-continuation/1"}, False),
        (b'{"message_id": "m", "flow": "quote"}', {}, True),
        (b'{"message_id": "m"}', {"contract": "flow-request/1"}, True),
        (b'{"message_id": "m"}', {"contract": 1}, True),
        (b'{"message_id": 1, "correlation_id": "c"}', {}, False),
        (b'{"message_id": "\\ud800"}', {}, False),
    ],
)
async def test_a_message_of_no_worker_is_dead_lettered_at_once(
    worker: Worker, body: bytes, properties: dict[str, PropertyValue], answered: bool
) -> None:
    outcome = await deliver(worker, Message(body=body, message_id="x", application_properties=properties))
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == "invalid_continuation"
    assert (outcome.reply is not None) is answered


@pytest.mark.parametrize(
    ("body", "queue", "correlation_id", "session_id"),
    [
        ({"reply_to": "other-replies"}, "other-replies", "amqp", "amqp"),
        ({"reply_to": "elsewhere"}, "flow-replies", "amqp", "amqp"),
        ({"reply_to": 1, "correlation_id": "c"}, "flow-replies", "c", "c"),
        ({"correlation_id": "x" * 129, "reply_to_session_id": "s"}, "flow-replies", "amqp", "s"),
        ({"reply_to_session_id": ["s"], "flow": "f" * 500}, "flow-replies", "amqp", "amqp"),
    ],
)
async def test_each_part_of_the_address_is_read_by_itself_and_checked(
    worker: Worker, body: Changes, queue: str, correlation_id: str, session_id: str
) -> None:
    message = Message(body=json.dumps({"message_id": "m"} | body).encode(), message_id="x", correlation_id="amqp")
    outcome = await deliver(worker, message)
    assert isinstance(outcome, DeadLetter)
    assert isinstance(outcome.reply, Reply)
    address = outcome.reply.address
    assert (outcome.reply.queue, address.correlation_id, address.session_id) == (queue, correlation_id, session_id)
    assert outcome.reply.result.flow is None


async def test_while_the_journal_is_away_the_answer_waits_and_then_comes_without_it(worker: Worker) -> None:
    message = changed((await waiting(worker)).continuation.to_message(), kind="new")
    away: Any = _Away()
    began = worker.clock.now
    outcome = await until_given_up(Worker(away, worker.clock), message)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    assert outcome.reply.result.status is Status.UNKNOWN
    assert worker.clock.now - began >= 2 * LATE


@pytest.mark.parametrize(
    "marks",
    [
        {"unreadable_since": "soon"},
        {"unreadable_since": "9999-01-01T00:00:00+00:00"},
        {"unreadable_since": "9999-12-31T23:59:59-14:00"},  # does not exist in UTC
    ],
)
async def test_faulty_marks_do_not_prolong_the_wait(worker: Worker, marks: dict[str, PropertyValue]) -> None:
    message = changed((await waiting(worker)).continuation.to_message(), kind="new")
    marked = replace(
        message, application_properties={**message.application_properties, **marks, "unreadable_passes": -1}
    )
    began = worker.clock.now
    assert isinstance(await until_given_up(worker, marked), DeadLetter)
    assert worker.clock.now - began < LATE * 1.2


async def test_an_internal_error_abandons_the_message_instead_of_stopping_the_worker(worker: Worker) -> None:
    def read(message: ReceivedMessage) -> Job:
        raise RuntimeError("a fault in the reader")

    message = received((await waiting(worker)).continuation.to_message(), worker.clock.now)
    outcome = await worker.handler(ScriptedFlow()).handle(message, read, "flow-continuations")
    assert isinstance(outcome, Abandon)


async def test_a_dead_lettered_continuation_is_left_to_other_watches_and_then_answered(worker: Worker) -> None:
    message = received(changed((await waiting(worker)).continuation.to_message(), kind="new"), worker.clock.now)
    handler = worker.handler(ScriptedFlow())
    assert isinstance(await handler.answer_dead_letter(message, READ_CONTINUATION, *EXPIRED), PassOn)
    worker.clock.now += LATE
    outcome = await handler.answer_dead_letter(message, READ_CONTINUATION, *EXPIRED)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    assert outcome.reply.result.status is Status.UNKNOWN


def test_the_error_names_the_versions() -> None:
    with pytest.raises(InvalidContinuation, match=r"'flow-continuation/2'.*reads 'flow-continuation/1'") as error:
        Job.from_message(changed(_job().to_message(), contract="flow-continuation/2"))
    assert error.value.other_version


async def test_an_entry_that_this_version_cannot_read_ends_unknown_without_another_call(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome: Outcome = await waiting(worker)

    def unreadable(_: bytes) -> Entry:
        raise document.UnreadableEntry("state")

    monkeypatch.setattr(document, "load", unreadable)
    flow = ScriptedFlow(flow_answer(200))
    while isinstance(outcome, Continue):
        outcome = await worker.resume(outcome, flow)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    assert outcome.reply.result.status is Status.UNKNOWN
    assert flow.calls == []


class _Away:
    """A journal that never answers."""

    async def find(self, message_id: str) -> None:
        raise TemporarilyUnavailable("journal_unavailable", "the journal is away")


def _job() -> Job:
    return decode.requests_of("flow-requests")(request()).model_copy(update={"claim": None})


def _key(job: Job, fingerprint: str) -> JobKey:
    return JobKey(job.message_id, fingerprint, job.origin, job.number)
