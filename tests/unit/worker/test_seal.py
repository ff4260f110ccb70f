"""The continuation queue: the worker acts on what it sealed itself or what the journal proves, and on nothing else."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flow_contracts.message import Message, PropertyValue, ReceivedMessage
from flow_contracts.result import FlowError, Status
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Entry, open_journal
from flow_worker.pipeline import decode, job
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.keys import key_of
from flow_worker.pipeline.outcome import AlreadyHandled, Continue, DeadLetter, Outcome, PassOn, Reply
from flow_worker.pipeline.seal import PASSED_ON, Seal, SealKey, SealState, digest_of
from flow_worker.settings import JournalSettings
from tests.support.pipeline import (
    ADA,
    CONTINUATIONS,
    NOW,
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

DAY = timedelta(days=1)
THROTTLED = flow_answer(429, run=None, retry_after="30")
RUNNING = flow_answer(202, location="https://flow.example/runs/1?sig=hushhush")
TOO_OFTEN = (Status.FAILED, FlowError(code="deliveries_exceeded", message="too often"))
MESSAGE = Message(
    body=b'{"origin":"flow-requests:1:then"}',
    message_id="continuation-1",
    correlation_id="c",
    subject="quote",
    application_properties={"contract": "flow-continuation/1", "fw-reply-key": "k", "Diagnostic-Id": "t"},
)


# --- the seal --------------------------------------------------------------------------------------------------------


def sealed(seal: Seal = SEAL, **properties: PropertyValue) -> ReceivedMessage:
    message = replace(MESSAGE, application_properties={**MESSAGE.application_properties, **properties})
    return delivered(seal.sealed(message, NOW), NOW)


def with_properties(message: ReceivedMessage, **properties: PropertyValue) -> ReceivedMessage:
    changed = {
        **message.application_properties,
        **{name.replace("_", "-"): value for name, value in properties.items()},
    }
    return replace(message, application_properties=changed)


def seal_of(message: Message) -> list[str]:
    return str(message.application_properties["fw-seal"]).split(";")


def with_part(number: int, value: str) -> ReceivedMessage:
    parts = seal_of(sealed())
    parts[number] = value
    return with_properties(sealed(), fw_seal=";".join(parts))


@pytest.mark.parametrize(
    "message",
    [
        sealed(),
        with_properties(sealed(), Diagnostic_Id="another", DeadLetterReason="TTLExpiredException"),
        replace(sealed(), message_id=f"{PASSED_ON}0123"),
        replace(sealed(), enqueued_at=NOW + 7 * DAY - timedelta(seconds=1)),
    ],
    ids=["as it was sealed", "with properties of the broker", "passed on", "after a long outage"],
)
def test_the_seal_of_an_unchanged_message_is_valid(message: ReceivedMessage) -> None:
    assert SEAL.check(message) is SealState.VALID


@pytest.mark.parametrize(
    "message",
    [
        replace(sealed(), body=sealed().body + b" "),
        replace(sealed(), body=b""),
        replace(sealed(), message_id="continuation-2"),
        replace(sealed(), message_id=None),
        replace(sealed(), correlation_id="d"),
        replace(sealed(), subject="again"),
        replace(sealed(), subject=None),
        with_properties(sealed(), contract="flow-continuation/2"),
        with_properties(sealed(), fw_reply_key="l"),
        with_properties(sealed(), fw_reply_key=None),
        with_properties(sealed(), fw_novelty=1),
        with_properties(sealed(), fw_novelty=None),
        with_properties(sealed(), fw_unbound=None),
        with_properties(sealed(), fw_seal=1),
        with_properties(sealed(), fw_seal=""),
        with_properties(sealed(), fw_seal=";" * 9),
        with_part(2, "99999999999"),
        with_part(2, "9" * 13),
        with_part(2, "\u0669"),
        with_part(2, "-1"),
        with_part(3, ""),
        with_part(3, "0" * 64),
        with_part(3, seal_of(sealed())[3][:-1]),
        with_part(3, seal_of(sealed())[3].upper()),
        with_part(3, "\u00e9\ud800"),
        with_part(4, "continuation-2"),
    ],
)
def test_each_change_of_a_sealed_message_breaks_its_seal(message: ReceivedMessage) -> None:
    assert SEAL.check(message) is SealState.BROKEN


def test_a_sealed_message_in_another_queue_is_broken_and_service_bus_ignores_the_case_of_names() -> None:
    key = SealKey(b"the key of the tests" * 2)
    assert Seal("other-continuations", key, valid_for=DAY).check(sealed()) is SealState.BROKEN
    assert Seal(CONTINUATIONS.upper(), key, valid_for=DAY).check(sealed()) is SealState.VALID


def test_a_copy_from_before_the_time_that_the_journal_remembers_is_too_old() -> None:
    assert SEAL.check(replace(sealed(), enqueued_at=NOW + 7 * DAY)) is SealState.OUTDATED


def test_a_previous_key_verifies_and_does_not_seal() -> None:
    old, new = SealKey(b"old" * 11), SealKey(b"new" * 11)
    before, after = Seal("q", old, valid_for=DAY), Seal("q", new, old, valid_for=DAY)
    assert after.check(sealed(before)) is SealState.VALID
    assert before.check(sealed(after)) is SealState.UNKNOWN_KEY
    assert (seal_of(sealed(before))[1], seal_of(sealed(after))[1]) == (old.id, new.id)
    assert old.id != new.id


def test_a_message_without_a_seal_is_only_accepted_if_the_settings_say_so() -> None:
    plain = delivered(MESSAGE, NOW)
    key = SealKey(b"new" * 11)
    accepting = Seal("q", key, valid_for=DAY, accept_unsealed=True)
    assert SEAL.check(plain) is SealState.MISSING
    assert accepting.check(plain) is SealState.VALID
    assert accepting.check(with_properties(plain, fw_seal="1;0;0;0;0")) is SealState.UNKNOWN_KEY


def test_no_representation_shows_the_key() -> None:
    key = SealKey(b"hushhush" * 5)
    assert "hush" not in repr(vars(key)) + repr(vars(Seal("q", key, valid_for=DAY)))
    assert "SecretBytes" in repr(vars(key))


# --- the journal's proof ---------------------------------------------------------------------------------------------


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    clock = Clock()
    async with open_journal(JournalSettings(path=tmp_path / "journal.sqlite3"), now=clock) as journal:
        yield Worker(journal, clock)


@pytest.fixture
def earlier_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker journal its steps as a version without seals does."""
    monkeypatch.setattr(job, "digest_of", lambda _: None)


async def waiting(worker: Worker, answer: Any = THROTTLED) -> Continue:
    outcome = await worker.take(request(sequence_number=7), ScriptedFlow(answer))
    assert isinstance(outcome, Continue)
    worker.clock.now = max(worker.clock.now, outcome.due)
    return outcome


async def deliver(worker: Worker, message: Message, flow: ScriptedFlow | None = None) -> Outcome:
    received = delivered(message, worker.clock.now)
    return await worker.handler(flow or ScriptedFlow()).handle(received, READ_CONTINUATION, CONTINUATIONS)


def require_unproven(outcome: Outcome) -> None:
    """Require a dead letter with its reason, and no answer to the address in the message."""
    assert isinstance(outcome, DeadLetter), outcome
    assert (outcome.reason, outcome.reply) == ("continuation_unproven", None)
    assert "rights to send" in outcome.description


async def entry_of(worker: Worker) -> Entry:
    entry = await worker.journal.find("m-1")
    assert entry is not None
    return entry


ANOTHER = replace(ADA, oid="eve")
_INPUT = {"customer": "Fabrikam"}
FORGERIES: dict[str, dict[str, object]] = {
    "another principal": {"principal": ANOTHER},
    "on behalf of a user": {"on_behalf_of": "eve"},
    "a principal for a user": {"principal": replace(ADA, on_behalf_of="eve")},
    "no principal": {"principal": None, "claim": SecretStr("a-claim-of-eve")},
    "another flow": {"flow": "again"},
    "another input": {"input": _INPUT},
    "another input with its hash": {"input": _INPUT, "input_hash": job._hash(json.dumps(_INPUT))},
    "a poll with the token": {"kind": "poll", "status_url": SecretStr("https://flow.example/eve")},
    "a poll without input": {"kind": "poll", "input": None, "status_url": SecretStr("https://flow.example/eve")},
    "another reply queue": {"reply_to": "other-replies"},
    "another session": {"reply_to_session_id": "eve"},
    "another correlation": {"correlation_id": "eve"},
    "another request": {"message_id": "m-2"},
    "another origin": {"origin": "flow-requests:8:" + NOW.isoformat()},
    "another request queue": {"request_queue": "flow-requests-plugins"},
    "another acceptance": {"accepted": NOW - DAY},
    "fewer calls": {"calls": 0},
    "a later step": {"number": 2},
    "the request itself": {"number": 0},
    "another reason": {"cause": "because"},
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("seal", ["none", "stripped", "kept"])
@pytest.mark.usefixtures("earlier_version")
async def test_a_forged_continuation_is_dead_lettered_and_answers_nobody(
    worker: Worker, seal: str, forgery: dict[str, object]
) -> None:
    waits = await waiting(worker)
    before = await entry_of(worker)
    message = waits.continuation.model_copy(update=forgery).to_message()
    if seal == "kept":
        genuine = SEAL.sealed(waits.continuation.to_message(), waits.due)
        message = replace(message, message_id=genuine.message_id, application_properties=genuine.application_properties)
    flow = ScriptedFlow(flow_answer(200))
    require_unproven(await deliver(worker, message, flow))
    assert (flow.calls, flow.polls) == ([], [])
    assert await entry_of(worker) == before, "the victim's entry"
    assert reply_of(await worker.resume(waits, flow)).result.status is Status.SUCCEEDED, "the victim's own continuation"


@pytest.mark.parametrize("answer", [THROTTLED, RUNNING], ids=["a call", "a poll"])
@pytest.mark.usefixtures("earlier_version")
async def test_the_journal_proves_the_continuation_of_an_earlier_version(worker: Worker, answer: Any) -> None:
    waits = await waiting(worker, answer)
    done = flow_answer(200, {"quote": 7})
    outcome = await deliver(worker, waits.continuation.to_message(), ScriptedFlow(done))
    assert reply_of(outcome).result.output == {"quote": 7}


@pytest.mark.usefixtures("earlier_version")
async def test_the_journal_proves_a_postponed_step_and_a_redelivery_after_the_result(worker: Worker) -> None:
    waits = await waiting(worker)
    again = waits.continuation.model_copy(update={"waits": 2, "code": "token_unavailable", "cause": "no token"})
    first = reply_of(await deliver(worker, again.to_message(), ScriptedFlow(flow_answer(200, "once"))))
    flow = ScriptedFlow(flow_answer(200, "twice"))
    second = reply_of(await deliver(worker, again.to_message(), flow))
    assert (first.result, flow.calls) == (second.result, [])
    await worker.mark_published(second)
    assert isinstance(await deliver(worker, again.to_message(), flow), AlreadyHandled)


@pytest.mark.usefixtures("earlier_version")
async def test_a_property_of_the_worker_needs_a_seal(worker: Worker) -> None:
    message = (await waiting(worker)).continuation.to_message()
    marked = {**message.application_properties, "fw-reply-key": "of eve"}
    require_unproven(await deliver(worker, replace(message, application_properties=marked)))


@pytest.mark.usefixtures("earlier_version")
async def test_a_copy_of_a_step_under_way_gets_no_new_seal(worker: Worker) -> None:
    waits = await waiting(worker)
    await worker.journal.acquire(key_of(waits.continuation), duration=DAY, calls=1)
    message = waits.continuation.to_message()
    outcome = await deliver(worker, message)
    assert isinstance(outcome, PassOn)
    assert outcome.message.body == message.body
    assert "fw-seal" not in outcome.message.application_properties


async def test_the_journal_proves_exactly_the_message_that_this_version_sent(worker: Worker) -> None:
    """Without the seal, for example because the key was lost. No field may differ, not even one without a journal."""
    waits = await waiting(worker)
    message = waits.continuation.to_message()
    assert (await entry_of(worker)).step == replace(waits.continuation.to_step(waits.due), digest=digest_of(message))
    for change in ({"expires_at": NOW + DAY}, {"replay_of": "x"}, {"accepted": NOW}, {"traceparent": "x"}):
        require_unproven(await deliver(worker, waits.continuation.model_copy(update=change).to_message()))
    assert isinstance(await deliver(worker, message, ScriptedFlow(flow_answer(200))), Reply)


async def test_a_sealed_step_needs_no_journal_that_could_not_take_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object) -> None:
        raise TemporarilyUnavailable("journal_unavailable", "the journal is away")

    with monkeypatch.context() as outage:
        outage.setattr(worker.journal, "schedule", unavailable)
        waits = await waiting(worker)
    assert (await entry_of(worker)).step is None
    require_unproven(await deliver(worker, waits.continuation.to_message()))
    assert reply_of(await worker.resume(waits, ScriptedFlow(flow_answer(200)))).result.attempts == 2


async def test_without_a_journal_an_unsealed_continuation_waits_for_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object) -> None:
        raise TemporarilyUnavailable("journal_unavailable", "the journal is away")

    message = (await waiting(worker)).continuation.to_message()
    with monkeypatch.context() as outage:
        outage.setattr(worker.journal, "find", unavailable)
        outcome = await deliver(worker, message)
    assert isinstance(outcome, PassOn)
    assert "fw-seal" not in outcome.message.application_properties, "the worker does not vouch for it"
    assert isinstance(await deliver(worker, outcome.message, ScriptedFlow(flow_answer(200))), Reply)


# --- messages that another worker may be able to prove ---------------------------------------------------------------


def unjournalled() -> Job:
    """Return a request that its flow's limits held back: no journal knows of it."""
    first = decode.requests_of("flow-requests")(request(sequence_number=7))
    return first.model_copy(update={"principal": ADA, "claim": None, "waits": 1, "code": "flow_busy", "cause": "busy"})


async def test_a_postponement_of_an_earlier_version_is_left_to_its_workers_and_never_acted_on(worker: Worker) -> None:
    flow, message = ScriptedFlow(flow_answer(200)), unjournalled().to_message()
    outcome, passes = await deliver(worker, message, flow), 0
    while isinstance(outcome, PassOn):
        passes += 1
        worker.clock.now = max(worker.clock.now, outcome.due)
        outcome = await deliver(worker, outcome.message, flow)
    require_unproven(outcome)
    assert (flow.calls, passes < 40) == ([], True), "a stranger's message must not come back hundreds of times"
    assert timedelta(seconds=UNREADABLE_SECONDS) <= worker.clock.now - NOW < timedelta(seconds=1.2 * UNREADABLE_SECONDS)


@pytest.mark.parametrize("kind", ["call", "of a later version"])
async def test_a_message_under_another_key_is_left_to_the_workers_that_have_it(worker: Worker, kind: str) -> None:
    foreign = Seal(CONTINUATIONS, SealKey(b"another" * 5), valid_for=DAY)
    message = unjournalled().to_message()
    if kind != "call":
        message = replace(message, body=message.body.replace(b'"kind":"call"', b'"kind":"call with care"'))
    outcome = await deliver(worker, foreign.sealed(message, NOW))
    assert isinstance(outcome, PassOn)
    assert foreign.check(delivered(outcome.message, outcome.due)) is SealState.VALID
    late = {**outcome.message.application_properties, "unreadable_since": (NOW - DAY).isoformat()}
    require_unproven(await deliver(worker, replace(outcome.message, application_properties=late)))


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"[]",
        b'{"message_id": "m-1", "correlation_id": "c", "flow": "quote"}',
        b'{"message_id": "m-1", "kind": "compensate"}',
    ],
)
@pytest.mark.parametrize("contract", ["flow-continuation/1", "flow-continuation/2", None])
async def test_an_unreadable_message_without_a_seal_answers_nobody(
    worker: Worker, body: bytes, contract: PropertyValue
) -> None:
    await waiting(worker)
    before = await entry_of(worker)
    message = Message(body=body, message_id="x", application_properties={"contract": contract})
    require_unproven(await deliver(worker, message))
    received = delivered(message, worker.clock.now)
    watched = await worker.handler(ScriptedFlow()).answer_dead_letter(received, READ_CONTINUATION, *TOO_OFTEN)
    require_unproven(watched)
    assert await entry_of(worker) == before


async def test_an_unsealed_message_of_too_many_values_is_not_parsed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "from_message", lambda _: pytest.fail("the message was parsed"))
    body = b'{"input": [' + b"[]," * 60_000 + b"0]}"
    message = Message(body=body, message_id="x", application_properties={"contract": "flow-continuation/1"})
    require_unproven(await deliver(worker, message))


# --- dead letters ----------------------------------------------------------------------------------------------------


async def test_the_watch_answers_no_forged_continuation(worker: Worker) -> None:
    """A sender can have a message dead-lettered by Service Bus: with a time to live of a millisecond."""
    handler = worker.handler(ScriptedFlow())
    genuine = SEAL.sealed(unjournalled().to_message(), NOW)
    forged = unjournalled().model_copy(update={"principal": ANOTHER}).to_message()
    kept = replace(forged, application_properties=genuine.application_properties)
    for message in (forged, kept):
        received = delivered(message, worker.clock.now)
        require_unproven(await handler.answer_dead_letter(received, READ_CONTINUATION, *TOO_OFTEN))
    answered = await handler.answer_dead_letter(delivered(genuine, worker.clock.now), READ_CONTINUATION, *TOO_OFTEN)
    assert reply_of(answered).result.error == TOO_OFTEN[1]


# --- logs ------------------------------------------------------------------------------------------------------------


async def test_no_line_shows_a_status_url_a_claim_or_a_seal(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    waits = await waiting(worker, RUNNING)
    sent = SEAL.sealed(waits.continuation.to_message(), waits.due)
    assert b"hushhush" in sent.body
    forged = waits.continuation.model_copy(update={"principal": ANOTHER, "claim": SecretStr("a-claim-of-eve")})
    for outcome in (
        await deliver(worker, forged.to_message()),
        await deliver(worker, replace(sent, subject="x")),
        await worker.resume(waits, ScriptedFlow(flow_answer(500, run=None))),
    ):
        assert "hushhush" not in repr(outcome)
    text = caplog.text + repr([vars(record) for record in caplog.records])
    assert "continuation.unproven" in text
    for secret in ("hushhush", "a-claim-of-eve", str(sent.application_properties["fw-seal"])):
        assert secret not in text
