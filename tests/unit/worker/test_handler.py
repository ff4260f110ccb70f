"""The journey, with plain data: what is asked, what is decided."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import JsonValue, SecretStr

from contracts.message import ReceivedMessage
from contracts.request import CONTRACT
from contracts.result import Status
from worker.access.principal import Principal
from worker.errors import CallFailed, NotKnownYet, Refused
from worker.flows.invoker import Answer
from worker.flows.registry import Flow, Registry
from worker.handler import Handler
from worker.outcome import DeadLetter, Later, Outcome, Reply
from worker.settings import FlowSettings

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CLAIM = "a-claim-that-must-not-be-seen"
ADA = Principal(tenant="t", oid="ada", kind="user", roles=frozenset({"Quotes.Create"}), authority="entra")
SCHEMA: dict[str, JsonValue] = {"type": "object", "required": ["customer"], "properties": {"n": {"type": "number"}}}
RUN_HEADERS = {"x-ms-workflow-run-id": "08585", "x-ms-request-id": "eu:1"}


@dataclass
class KnownSenders:
    """An authority that knows one claim, or has a fixed answer for any."""

    instead: Exception | None = None
    asked_at: list[datetime] = field(default_factory=list)

    async def authenticate(self, claim: SecretStr | None, enqueued_at: datetime) -> Principal:
        self.asked_at.append(enqueued_at)
        if self.instead:
            raise self.instead
        if claim is None or claim.get_secret_value() != CLAIM:
            raise Refused("claim_invalid", "no")
        return ADA


@dataclass
class ScriptedFlow:
    """A caller whose flow answers as told; it remembers how it was called."""

    answer: Answer | Exception | None = None
    token_trouble: Exception | None = None
    calls: list[Mapping[str, object]] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def token(self) -> str:
        if self.token_trouble:
            raise self.token_trouble
        return "bearer"

    async def invoke(
        self, flow: Flow, input_: JsonValue, *, token: str, correlation_id: str, traceparent: str | None
    ) -> Answer:
        self.calls.append(
            {"flow": flow.name, "input": input_, "token": token, "id": correlation_id, "trace": traceparent}
        )
        self.called.set()
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return self.answer


def answered(status: int, body: object = None, content_type: str | None = "application/json") -> Answer:
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, content_type, raw, RUN_HEADERS.get("x-ms-workflow-run-id"), RUN_HEADERS)


def flow_settings(*, idempotent: bool = False, schema: dict[str, JsonValue] | None = None) -> FlowSettings:
    return FlowSettings(
        url=SecretStr("https://flow.example/secret"), role="Quotes.Create", idempotent=idempotent, input_schema=schema
    )


def handler(flow: ScriptedFlow, senders: KnownSenders | None = None, *, max_deliveries: int = 8) -> Handler:
    registry = Registry(
        {
            "quote": flow_settings(schema=SCHEMA),
            "again": flow_settings(idempotent=True),
            "admin": FlowSettings(url=SecretStr("https://flow.example/x"), role="Admin.All"),
        }
    )
    return Handler(
        authority=senders or KnownSenders(),
        registry=registry,
        caller=flow,
        reply_queues=("flow-replies", "other-replies"),
        default_reply_queue="flow-replies",
        retry_pause_seconds=5,
        max_deliveries=max_deliveries,
        now=lambda: NOW,
    )


def request(flow: str = "quote", **changes: object) -> ReceivedMessage:
    body: dict[str, object] = {"flow": flow, "input": {"customer": "Contoso"}, "claim": CLAIM}
    body |= {name: changes.pop(name) for name in ("input", "claim", "on_behalf_of") if name in changes}
    message = ReceivedMessage(
        body=json.dumps({name: value for name, value in body.items() if value is not None}).encode(),
        content_type="application/json",
        message_id="m-1",
        application_properties={"contract": CONTRACT},
        enqueued_at=NOW - timedelta(seconds=3),
    )
    return replace(message, **changes)  # type: ignore[arg-type]  # the tests name real fields


def reply_of(outcome: Outcome) -> Reply:
    assert isinstance(outcome, Reply), outcome
    return outcome


async def test_a_request_that_may_and_fits_is_called_and_answered() -> None:
    flow = ScriptedFlow(answered(200, {"quote": 7}))
    message = request(correlation_id="c-1", reply_to="other-replies", reply_to_session_id="s-1")
    reply = reply_of(await handler(flow).handle(message))
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


async def test_correlation_and_session_default_to_the_message_id() -> None:
    reply = reply_of(await handler(ScriptedFlow(answered(202))).handle(request()))
    assert (reply.result.correlation_id, reply.address.session_id, reply.queue) == ("m-1", "m-1", "flow-replies")
    assert (reply.result.status, reply.result.output) == (Status.SUCCEEDED, None)


async def test_the_claim_is_judged_at_the_time_the_broker_enqueued_it() -> None:
    senders = KnownSenders()
    await handler(ScriptedFlow(answered(200)), senders).handle(request())
    assert senders.asked_at == [NOW - timedelta(seconds=3)]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (request(claim=None), "claim_invalid"),
        (request("admin"), "role_missing"),
        (request("nothing"), "unknown_flow"),
        (request(input={"n": 1}), "input_schema_mismatch"),
        (request(on_behalf_of="someone"), "on_behalf_of_not_allowed"),
        (request(reply_to="not-ours"), "reply_queue_not_allowed"),
        (request(body=b"{"), "malformed_request"),
        (request(application_properties={"contract": "flow-request/9"}), "unsupported_contract"),
    ],
)
async def test_what_may_not_be_is_refused_with_its_own_code_and_not_called(message: ReceivedMessage, code: str) -> None:
    flow = ScriptedFlow(answered(200))
    reply = reply_of(await handler(flow).handle(message))
    assert (reply.result.status, reply.result.error and reply.result.error.code) == (Status.REFUSED, code)
    assert reply.queue == "flow-replies"
    assert flow.calls == []
    assert reply.result.attempts == 0


async def test_a_refusal_names_the_place_in_the_input_but_not_its_value() -> None:
    message = request(input={"customer": "Contoso", "n": "sensitive"})
    reply = reply_of(await handler(ScriptedFlow()).handle(message))
    text = reply.result.model_dump_json()
    assert "$.n" in text
    assert "sensitive" not in text


async def test_no_result_ever_holds_the_claim() -> None:
    for message in (request(), request("nothing"), request("admin"), request(input=5)):
        reply = reply_of(await handler(ScriptedFlow(answered(500))).handle(message))
        assert CLAIM not in reply.result.model_dump_json()
        assert CLAIM not in repr(reply)


async def test_what_cannot_be_answered_is_dead_lettered_with_a_reason() -> None:
    outcome = await handler(ScriptedFlow()).handle(request(message_id=None))
    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.reply) == ("message_id_missing", None)
    assert CLAIM not in outcome.description


async def test_a_request_whose_time_has_run_out_is_not_called() -> None:
    flow = ScriptedFlow(answered(200))
    reply = reply_of(await handler(flow).handle(request(expires_at=NOW)))
    assert reply.result.status is Status.EXPIRED
    assert flow.calls == []


async def test_a_flows_own_error_is_passed_on() -> None:
    body = {"error": {"code": "NoResponse", "message": "The server did not receive a response."}}
    result = reply_of(await handler(ScriptedFlow(answered(502, body))).handle(request())).result
    assert result.error is not None
    assert (result.status, result.http_status, result.error.code) == (Status.FAILED, 502, "NoResponse")
    assert result.output == body


async def test_an_error_without_a_code_is_named_by_its_status() -> None:
    answer = answered(503, b"<html>busy</html>", "text/html")
    result = reply_of(await handler(ScriptedFlow(answer)).handle(request())).result
    assert result.error is not None
    assert (result.error.code, result.output_encoding) == ("http_503", "text")


async def test_an_answer_too_large_to_read_is_a_success_without_output() -> None:
    answer = replace(answered(200), body=None)
    result = reply_of(await handler(ScriptedFlow(answer)).handle(request())).result
    assert result.error is not None
    assert (result.status, result.output, result.error.code) == (Status.SUCCEEDED, None, "output_too_large")


@pytest.mark.parametrize(
    ("flow", "may_have_run", "status", "retryable"),
    [
        ("quote", False, Status.FAILED, True),
        ("quote", True, Status.UNKNOWN, False),
        ("again", True, Status.FAILED, True),
    ],
)
async def test_a_call_without_an_answer_is_unknown_only_if_it_may_have_run_and_may_not_run_again(
    flow: str, may_have_run: bool, status: Status, retryable: bool
) -> None:
    trouble = CallFailed("flow_no_answer", "gone", may_have_run=may_have_run)
    result = reply_of(await handler(ScriptedFlow(trouble)).handle(request(flow))).result
    assert result.error is not None
    assert (result.status, result.error.retryable) == (status, retryable)


@pytest.mark.parametrize("where", ["keys", "token"])
async def test_what_is_not_known_yet_is_neither_run_nor_denied(where: str) -> None:
    trouble = NotKnownYet("keys_unavailable", "the keys cannot be had")
    flow = ScriptedFlow(answered(200), token_trouble=trouble if where == "token" else None)
    senders = KnownSenders(instead=trouble if where == "keys" else None)
    outcome = await handler(flow, senders).handle(request())
    assert outcome == Later("keys_unavailable", "the keys cannot be had", 5)
    assert flow.calls == []


async def test_what_is_not_known_for_too_long_is_answered_and_kept_for_a_person() -> None:
    senders = KnownSenders(instead=NotKnownYet("keys_unavailable", "the keys cannot be had"))
    outcome = await handler(ScriptedFlow(), senders, max_deliveries=3).handle(request(delivery_count=2))
    assert isinstance(outcome, DeadLetter)
    assert outcome.reply is not None
    result = outcome.reply.result
    assert result.error is not None
    assert (outcome.reason, result.status, result.error.retryable) == ("keys_unavailable", Status.FAILED, True)


async def test_a_fault_before_the_call_gives_the_request_back() -> None:
    senders = KnownSenders(instead=RuntimeError("a bug"))
    outcome = await handler(ScriptedFlow(), senders).handle(request())
    assert isinstance(outcome, Later)
    assert outcome.code == "internal_error"


async def test_a_fault_during_the_call_is_told_as_unknown() -> None:
    result = reply_of(await handler(ScriptedFlow(RuntimeError("a bug"))).handle(request())).result
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.UNKNOWN, "internal_error")


async def interrupted(flow_name: str) -> asyncio.Task[Outcome]:
    """A journey that is cancelled while its flow runs."""
    flow = ScriptedFlow(None)
    task = asyncio.create_task(handler(flow).handle(request(flow_name)))
    await flow.called.wait()
    task.cancel()
    await asyncio.wait([task])
    return task


async def test_an_interrupted_call_of_a_flow_that_may_not_run_twice_is_answered_unknown() -> None:
    result = reply_of((await interrupted("quote")).result()).result
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.UNKNOWN, "interrupted")


async def test_an_interrupted_call_of_an_idempotent_flow_is_left_to_be_called_again() -> None:
    assert (await interrupted("again")).cancelled()
