"""The handler: which outcome it decides for a message, with plain data at its ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from flow_contracts.message import ReceivedMessage
from flow_contracts.result import FlowError, Status
from flow_worker.dead_letters.actions import replay_job
from flow_worker.errors import CallFailed, Refused, TemporarilyUnavailable
from flow_worker.flows.answer import TOO_LARGE
from flow_worker.journal import open_journal
from flow_worker.pipeline import decode
from flow_worker.pipeline.outcome import AlreadyHandled, Continue, DeadLetter, Outcome
from flow_worker.settings import JournalSettings
from tests.support.pipeline import (
    ADA,
    CLAIM,
    NOW,
    RETRY,
    RUN_HEADERS,
    Clock,
    KnownSenders,
    ScriptedFlow,
    Worker,
    flow_answer,
    reply_of,
    request,
)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    clock = Clock()
    async with open_journal(JournalSettings(path=tmp_path / "journal.sqlite3"), now=clock) as journal:
        yield Worker(journal, clock)


async def test_an_allowed_request_is_called_and_gets_the_flows_answer(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200, {"quote": 7}))
    message = request(correlation_id="c-1", reply_to="other-replies", reply_to_session_id="s-1")
    reply = reply_of(await worker.take(message, flow))
    assert flow.calls == [
        {"flow": "quote", "input": {"customer": "Contoso"}, "token": "bearer", "id": "c-1", "trace": None}
    ]
    result = reply.result
    assert (result.status, result.output, result.http_status, result.attempts) == (
        Status.SUCCEEDED,
        {"quote": 7},
        200,
        1,
    )
    assert (reply.queue, reply.address.session_id, result.correlation_id) == ("other-replies", "s-1", "c-1")
    assert result.run is not None
    assert (result.run.run_id, result.run.tracking) == ("08585", RUN_HEADERS)
    assert (result.times.accepted, result.times.started) == (NOW - timedelta(seconds=3), NOW)


async def test_correlation_and_session_default_to_the_message_id(worker: Worker) -> None:
    reply = reply_of(await worker.take(request(), ScriptedFlow(flow_answer(202))))
    assert (reply.result.correlation_id, reply.address.session_id, reply.queue) == ("m-1", "m-1", "flow-replies")
    assert (reply.result.status, reply.result.output) == (Status.SUCCEEDED, None)


async def test_the_claim_must_be_valid_at_the_brokers_enqueue_time(worker: Worker) -> None:
    senders = KnownSenders()
    await worker.take(request(), ScriptedFlow(flow_answer(200)), senders)
    assert senders.enqueue_times == [NOW - timedelta(seconds=3)]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (request(claim=None), "claim_invalid"),
        (request("admin"), "flow_not_allowed"),
        (request("nothing"), "flow_not_allowed"),
        (request(input={"n": 1}), "input_schema_mismatch"),
        (request(on_behalf_of="someone"), "on_behalf_of_not_allowed"),
        (request(reply_to="not-ours"), "reply_queue_not_allowed"),
        (request(body=b"{"), "malformed_request"),
        (request(application_properties={"contract": "flow-request/9"}), "unsupported_contract"),
    ],
)
async def test_each_kind_of_refusal_has_a_code_and_calls_no_flow(
    worker: Worker, message: ReceivedMessage, code: str
) -> None:
    flow = ScriptedFlow(flow_answer(200))
    reply = reply_of(await worker.take(message, flow))
    assert (reply.result.status, reply.result.error and reply.result.error.code) == (Status.REFUSED, code)
    assert reply.queue == "flow-replies"
    assert flow.calls == []
    assert reply.result.attempts == 0


async def test_the_whole_result_is_the_same_for_no_such_flow_and_not_for_you(worker: Worker) -> None:
    """Also for a dead letter, which the worker answers without checking the rights."""
    for dead in (False, True):
        documents = []
        for number, flow in enumerate(("admin", "nothing", "typed-admin", "bound-admin")):
            message = request(flow, input={"n": "no number"}, sequence_number=number, message_id=f"m-{flow}")
            handler, read = worker.handler(ScriptedFlow()), decode.requests_of("flow-requests")
            if dead:
                error = FlowError(code="request_expired", message="late")
                outcome = await handler.answer_dead_letter(message, read, Status.EXPIRED, error)
            else:
                outcome = await handler.handle(message, read, "flow-requests")
            document = reply_of(outcome).result.model_dump(mode="json")
            assert document.pop("flow") == flow
            assert document.pop("request_message_id") == document.pop("correlation_id") == f"m-{flow}"
            documents.append(document)
        assert all(document == documents[0] for document in documents)


async def test_a_schema_refusal_names_the_field_of_the_input_but_not_its_value(worker: Worker) -> None:
    message = request(input={"customer": "Contoso", "n": "sensitive"})
    reply = reply_of(await worker.take(message, ScriptedFlow()))
    text = reply.result.model_dump_json()
    assert "$.n" in text
    assert "sensitive" not in text


async def test_no_result_contains_the_claim(worker: Worker) -> None:
    for message in (request(), request("nothing"), request("admin"), request(input=5)):
        reply = reply_of(await worker.take(message, ScriptedFlow(flow_answer(500))))
        assert CLAIM not in reply.result.model_dump_json()
        assert CLAIM not in repr(reply)


async def test_an_unanswerable_message_is_dead_lettered_with_a_reason(worker: Worker) -> None:
    outcome = await worker.take(request(message_id=None), ScriptedFlow())
    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.reply) == ("message_id_missing", None)
    assert CLAIM not in outcome.description


async def test_an_expired_request_is_not_called(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200))
    reply = reply_of(await worker.take(request(expires_at=NOW), flow))
    assert reply.result.status is Status.EXPIRED
    assert flow.calls == []


async def test_a_request_expires_by_the_time_that_the_broker_has_reached(worker: Worker) -> None:
    worker.reached = Clock(NOW - timedelta(seconds=2))  # this machine's clock is two seconds ahead
    reply = reply_of(await worker.take(request(expires_at=NOW), ScriptedFlow(flow_answer(200))))
    assert reply.result.status is Status.SUCCEEDED


async def test_an_answer_that_is_too_large_is_a_success_without_output(worker: Worker) -> None:
    answer = replace(flow_answer(200), content=TOO_LARGE)
    result = reply_of(await worker.take(request(), ScriptedFlow(answer))).result
    assert result.error is not None
    assert (result.status, result.output, result.error.code) == (Status.SUCCEEDED, None, "output_too_large")


# --- retries ---------------------------------------------------------------------------------------------------------

NOT_SENT = CallFailed("flow_unreachable", "no connection", may_have_run=False)
NO_ANSWER = CallFailed("flow_no_answer", "gone", may_have_run=True)


async def test_a_call_that_never_reached_the_flow_is_retried_for_every_flow(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200, {"quote": 7}), answers=[NOT_SENT])
    waits = await worker.take(request(), flow)
    assert isinstance(waits, Continue)
    assert NOW <= waits.due <= NOW + timedelta(seconds=4)
    result = reply_of(await worker.resume(waits, flow)).result
    assert (result.status, result.output, result.attempts) == (Status.SUCCEEDED, {"quote": 7}, 2)
    assert (result.times.accepted, result.times.started) == (NOW - timedelta(seconds=3), NOW)


async def test_a_call_without_an_answer_is_retried_only_if_the_flow_is_idempotent(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200), answers=[NO_ANSWER, NO_ANSWER])
    result = reply_of(await worker.take(request("quote", message_id="m-2"), flow)).result
    assert result.error is not None
    assert (result.status, result.error.code, result.attempts) == (Status.UNKNOWN, "flow_no_answer", 1)
    waits = await worker.take(request("again"), flow)
    assert reply_of(await worker.resume(waits, flow)).result.status is Status.SUCCEEDED


async def test_a_continuation_carries_no_claim_and_needs_none(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200), answers=[NOT_SENT])
    waits = await worker.take(request(), flow)
    assert isinstance(waits, Continue)
    assert CLAIM.encode() not in waits.continuation.to_message().body
    nobody = KnownSenders(instead=Refused("claim_invalid", "asked again"))
    assert reply_of(await worker.resume(waits, flow, nobody)).result.status is Status.SUCCEEDED


async def test_after_the_last_call_a_request_fails_with_its_last_cause_and_is_dead_lettered(worker: Worker) -> None:
    flow = ScriptedFlow(NOT_SENT)
    outcome = await worker.take(request(), flow)
    for _ in range(RETRY.max_calls - 1):
        outcome = await worker.resume(outcome, flow)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    result = outcome.reply.result
    assert result.error is not None
    assert (outcome.reason, result.status, result.attempts) == ("flow_unreachable", Status.FAILED, 3)
    assert "after 3 calls" in result.error.message
    assert len(flow.calls) == RETRY.max_calls


async def test_a_request_that_would_be_too_old_fails_instead_of_being_called_again(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(429, run=None, retry_after="601"))
    outcome = await worker.take(request(), flow)
    assert isinstance(outcome, DeadLetter)
    assert "after 600 s" in outcome.description


async def test_a_replayed_request_is_retried_for_as_long_as_a_new_one(worker: Worker) -> None:
    throttled = ScriptedFlow(flow_answer(429, run=None))
    waiting = await worker.take(request(), throttled)
    assert isinstance(waiting, Continue)
    worker.clock.now += timedelta(days=3)
    again = replay_job(waiting.continuation, "flow-requests", 7, worker.clock.now)
    outcome = await worker.resume(replace(waiting, continuation=again), throttled)
    assert isinstance(outcome, Continue)
    assert outcome.continuation.calls == 1


async def test_a_call_is_not_retried_after_the_requests_time_to_live(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(429, run=None, retry_after="60"))
    outcome = await worker.take(request(expires_at=NOW + timedelta(seconds=30)), flow)
    assert isinstance(outcome, DeadLetter)
    assert "time to live" in outcome.description


async def test_a_throttled_flow_is_called_again_after_retry_after(worker: Worker) -> None:
    outcome = await worker.take(request(), ScriptedFlow(flow_answer(429, run=None, retry_after="100")))
    assert isinstance(outcome, Continue)
    assert outcome.due >= NOW + timedelta(seconds=100)


async def test_a_call_with_a_rejected_token_is_retried_once_with_a_fresh_token(worker: Worker) -> None:
    refused = flow_answer(
        401, {"error": {"code": "DirectApiInvalidAuthorizationScheme", "message": "expired"}}, run=None
    )
    flow = ScriptedFlow(refused)
    outcome = await worker.resume(await worker.take(request(), flow), flow)
    assert [call["token"] for call in flow.calls] == ["bearer", "fresh bearer"]
    assert reply_of(outcome).result.status is Status.FAILED


async def test_continuations_have_the_same_message_id_exactly_if_they_do_the_same_step(worker: Worker) -> None:
    flow = ScriptedFlow(NOT_SENT)
    first = await worker.take(request(), flow)
    again = await worker.take(request(), flow)  # delivered again: it was journalled, but was it scheduled?
    second = await worker.resume(first, flow)
    assert isinstance(first, Continue)
    assert isinstance(again, Continue)
    assert isinstance(second, Continue)
    assert first.continuation.continuation_id == again.continuation.continuation_id
    assert first.due == again.due
    assert second.continuation.continuation_id != first.continuation.continuation_id
    assert len(flow.calls) == 2


async def test_an_old_message_schedules_the_journalled_step_again(worker: Worker) -> None:
    flow = ScriptedFlow(NOT_SENT)
    second = await worker.resume(await worker.take(request(), flow), flow)
    again = await worker.take(request(), flow)  # its lock was lost after its continuation was scheduled
    assert isinstance(second, Continue)
    assert isinstance(again, Continue)
    assert again.continuation.continuation_id == second.continuation.continuation_id, "duplicate detection drops it"
    assert again.due == second.due
    assert len(flow.calls) == 2


async def test_a_message_that_took_an_overdue_step_over_and_failed_again_is_not_lost(worker: Worker) -> None:
    flow = ScriptedFlow(NOT_SENT)
    lost = await worker.take(request(), flow)  # step 1 is journalled; the worker dies before it schedules it
    assert isinstance(lost, Continue)
    worker.clock.now = lost.due + timedelta(minutes=6)  # overdue
    lost_again = await worker.take(request(), flow)  # it takes step 1 over, and step 2 meets the same fate
    delivered_again = await worker.take(request(), flow)
    assert isinstance(lost_again, Continue)
    assert isinstance(delivered_again, Continue)
    assert delivered_again.continuation == lost_again.continuation
    assert len(flow.calls) == 2
    last = await worker.resume(delivered_again, ScriptedFlow(flow_answer(200)))
    assert reply_of(last).result.status is Status.SUCCEEDED


async def test_a_copy_of_a_request_that_another_message_continues_is_completed(worker: Worker) -> None:
    flow = ScriptedFlow(NOT_SENT)
    await worker.take(request(), flow)
    superseded = await worker.take(request(sequence_number=2), flow)
    assert isinstance(superseded, AlreadyHandled)
    assert superseded.code == "superseded"
    assert len(flow.calls) == 1


# --- a flow that answers 202 -------------------------------------------------------------------------------------

STATUS_URL = "https://flow.example/runs/1?sig=secret"


async def test_an_accepted_run_is_polled_until_it_ends(worker: Worker) -> None:
    running = flow_answer(202, location=STATUS_URL)
    flow = ScriptedFlow(flow_answer(200, {"done": True}), answers=[running, running, running])
    outcome = await worker.take(request(), flow)
    for _ in range(3):
        assert isinstance(outcome, Continue)
        assert outcome.due >= worker.clock.now + timedelta(seconds=20)
        assert outcome.continuation.input is None
        assert "secret" not in repr(outcome)
        outcome = await worker.resume(outcome, flow)
    result = reply_of(outcome).result
    assert (result.status, result.output, result.attempts) == (Status.SUCCEEDED, {"done": True}, 1)
    assert (len(flow.calls), flow.polls) == (1, [STATUS_URL] * 3)


async def test_an_accepted_run_may_take_longer_than_the_retry_settings_allow_calls(worker: Worker) -> None:
    running = flow_answer(202, location=STATUS_URL)
    flow = ScriptedFlow(running)
    outcome = await worker.take(request(), flow)
    worker.clock.now += timedelta(days=20)
    flow.answers = [NO_ANSWER, running, flow_answer(200)]
    for _ in range(2):
        outcome = await worker.resume(outcome, flow)
    assert reply_of(await worker.resume(outcome, flow)).result.status is Status.SUCCEEDED


async def test_a_run_whose_polls_all_fail_is_unknown_and_names_its_run_id(worker: Worker) -> None:
    flow = ScriptedFlow(NO_ANSWER, answers=[flow_answer(202, location=STATUS_URL)])
    outcome = await worker.take(request(), flow)
    for _ in range(RETRY.max_poll_failures):
        outcome = await worker.resume(outcome, flow)
    result = reply_of(outcome).result
    assert (result.status, result.run and result.run.run_id) == (Status.UNKNOWN, "08585")


async def test_a_run_that_answers_202_for_ever_ends_unknown(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(202, location=STATUS_URL, retry_after="86400"))
    outcome = await worker.take(request(), flow)
    due = worker.clock.now
    while isinstance(outcome, Continue):
        assert due < outcome.due <= NOW + timedelta(seconds=RETRY.max_run_seconds)
        due = outcome.due
        outcome = await worker.resume(outcome, flow)
    result = reply_of(outcome).result
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.UNKNOWN, "run_too_long")
    assert result.run is not None
    assert result.run.run_id == "08585"
    assert len(flow.polls) == 30  # once a day, and at the end


async def test_a_secret_in_a_flows_error_reaches_no_continuation_dead_letter_or_result(worker: Worker) -> None:
    text = "Bearer eyJhbGciOi.eyJzdWIiOi.c2ln at https://x.logic.azure.com/workflows/1/runs/2?sig=hushhush"
    refusal = flow_answer(500, {"error": {"code": "sig=hushhush", "message": text}}, run=None)
    flow = ScriptedFlow(refusal)
    outcome = await worker.take(request("again"), flow)
    while isinstance(outcome, Continue):
        assert outcome.continuation.cause is not None
        shown = f"{outcome.continuation.code} {outcome.continuation.cause}"
        assert "***" in shown
        assert "hushhush" not in shown + outcome.continuation.to_message().body.decode()
        assert "eyJ" not in shown
        outcome = await worker.resume(outcome, flow)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    assert outcome.reply.result.error is not None
    assert "hushhush" not in f"{outcome.reason} {outcome.description} {outcome.reply.result.error}"


# --- outages and limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["keys", "token"])
async def test_during_an_outage_of_keys_or_tokens_a_request_waits_and_is_neither_run_nor_denied(
    worker: Worker, where: str
) -> None:
    outage = TemporarilyUnavailable("keys_unavailable", "the keys are unavailable")
    flow = ScriptedFlow(flow_answer(200), token_error=outage if where == "token" else None)
    senders = KnownSenders(instead=outage if where == "keys" else None)
    outcome = await worker.take(request(), flow, senders)
    assert isinstance(outcome, Continue)
    assert outcome.continuation.code == "keys_unavailable"
    assert flow.calls == []
    flow.token_error = None
    known = KnownSenders()
    assert reply_of(await worker.resume(outcome, flow, known)).result.status is Status.SUCCEEDED
    if where == "keys":  # the claim is judged then as it would have been at first
        assert known.enqueue_times == [NOW - timedelta(seconds=3)]


async def test_after_too_long_an_outage_a_request_fails_and_is_dead_lettered(worker: Worker) -> None:
    senders = KnownSenders(instead=TemporarilyUnavailable("keys_unavailable", "the keys are unavailable"))
    outcome = await worker.take(request(enqueued_at=NOW - timedelta(seconds=601)), ScriptedFlow(), senders)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    result = outcome.reply.result
    assert result.error is not None
    assert (outcome.reason, result.status, result.error.retryable) == ("keys_unavailable", Status.FAILED, True)


async def test_without_a_journal_no_flow_is_called(worker: Worker, tmp_path: Path) -> None:
    async with open_journal(JournalSettings(path=tmp_path / "closed.sqlite3")) as journal:
        pass
    flow = ScriptedFlow(flow_answer(200))
    outcome = await Worker(journal, Clock()).take(request(), flow)
    assert isinstance(outcome, Continue)
    assert (outcome.continuation.code, flow.calls) == ("journal_unavailable", [])


async def test_an_internal_error_before_the_call_postpones_the_request(worker: Worker) -> None:
    senders = KnownSenders(instead=RuntimeError("a bug"))
    outcome = await worker.take(request(), ScriptedFlow(), senders)
    assert isinstance(outcome, Continue)
    assert outcome.continuation.code == "internal_error"


async def test_an_internal_error_during_the_call_ends_the_request_unknown(worker: Worker) -> None:
    result = reply_of(await worker.take(request(), ScriptedFlow(RuntimeError("a bug")))).result
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.UNKNOWN, "internal_error")


async def test_requests_of_a_throttled_flow_wait_but_journalled_results_are_published(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200), answers=[flow_answer(200), flow_answer(429, run=None, retry_after="100")])
    done = reply_of(await worker.take(request(message_id="m-done"), flow))
    await worker.take(request(message_id="m-throttled"), flow)
    waits = await worker.take(request(message_id="m-next"), flow)
    assert isinstance(waits, Continue)
    assert (waits.continuation.code, len(flow.calls)) == ("flow_throttled", 2)
    assert waits.due >= NOW + timedelta(seconds=100)
    again = reply_of(await worker.take(request(message_id="m-done"), flow))
    assert again.result == done.result


# --- recall ------------------------------------------------------------------------------------------------------


async def test_a_redelivered_request_is_answered_from_the_journal(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200, {"quote": 7}))
    first = reply_of(await worker.take(request(), flow))
    second = reply_of(await worker.take(request(), flow))
    assert second.result == first.result
    assert len(flow.calls) == 1


async def test_a_published_result_is_not_published_again(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200))
    await worker.mark_published(reply_of(await worker.take(request(), flow)))
    outcome = await worker.take(request(), flow)
    assert isinstance(outcome, AlreadyHandled)
    assert outcome.code == "already_answered"


async def test_the_result_of_a_call_is_published_even_if_the_sender_lost_the_right_since(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200))
    first = reply_of(await worker.take(request(), flow))
    demoted = KnownSenders(principal=replace(ADA, roles=frozenset()))
    assert reply_of(await worker.take(request(), flow, demoted)).result == first.result


@pytest.mark.parametrize("code", ["request_too_old", "claim_invalid"])
async def test_the_result_of_a_call_is_published_even_if_the_claim_is_invalid_since(worker: Worker, code: str) -> None:
    """The same message is delivered again; meanwhile it became too old, or its signing key was withdrawn."""
    flow = ScriptedFlow(flow_answer(200, {"quote": 7}))
    first = reply_of(await worker.take(request(), flow))
    nobody = KnownSenders(instead=Refused(code, "no"))
    assert reply_of(await worker.take(request(), flow, nobody)).result == first.result
    other = reply_of(await worker.take(request(message_id="m-2"), flow, nobody))
    assert other.result.status is Status.REFUSED
    assert len(flow.calls) == 1


@pytest.mark.parametrize("changes", [{"input": {"customer": "Fabrikam"}}, {"flow": "again"}, {"correlation_id": "c-2"}])
async def test_another_request_under_the_same_message_id_does_not_get_the_result(
    worker: Worker, changes: dict[str, object]
) -> None:
    flow = ScriptedFlow(flow_answer(200, {"secret": 7}))
    first = reply_of(await worker.take(request(), flow))
    other = reply_of(await worker.take(request(**changes), flow))  # type: ignore[arg-type]  # the tests name real fields
    assert other.result.error is not None
    assert (other.result.status, other.result.error.code) == (Status.REFUSED, "message_id_conflict")
    assert "secret" not in other.result.model_dump_json()
    assert other.variant != first.variant
    assert len(flow.calls) == 1


async def test_another_sender_under_the_same_message_id_does_not_get_the_result(worker: Worker) -> None:
    flow = ScriptedFlow(flow_answer(200, {"secret": 7}))
    await worker.take(request(), flow)
    bob = KnownSenders(principal=replace(ADA, oid="bob"))
    other = reply_of(await worker.take(request(), flow, bob))
    assert other.result.error is not None
    assert other.result.error.code == "message_id_conflict"


async def test_a_request_whose_lease_another_worker_holds_waits(worker: Worker) -> None:
    flow, other = ScriptedFlow(None), ScriptedFlow(flow_answer(200))
    at_work = asyncio.create_task(worker.take(request(), flow))
    await flow.called.wait()
    outcome = await worker.take(request(), other)
    assert isinstance(outcome, Continue)
    assert (outcome.continuation.code, other.calls) == ("call_under_way", [])
    at_work.cancel()
    assert reply_of(await at_work).result.status is Status.UNKNOWN


async def interrupted(worker: Worker, flow_name: str) -> asyncio.Task[Outcome]:
    """Return a journey that was cancelled while its flow ran."""
    flow = ScriptedFlow(None)
    task = asyncio.create_task(worker.take(request(flow_name), flow))
    await flow.called.wait()
    task.cancel()
    await asyncio.wait([task])
    return task


async def test_an_interrupted_call_of_a_flow_that_is_not_idempotent_ends_unknown(worker: Worker) -> None:
    result = reply_of((await interrupted(worker, "quote")).result()).result
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.UNKNOWN, "interrupted")


async def test_an_interrupted_call_of_an_idempotent_flow_can_be_repeated_at_once(worker: Worker) -> None:
    assert (await interrupted(worker, "again")).cancelled()
    assert (
        reply_of(await worker.take(request("again"), ScriptedFlow(flow_answer(200)))).result.status is Status.SUCCEEDED
    )
