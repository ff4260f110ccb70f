"""Every message that the gateway's reply queue may hold is a result, a state, or unreadable; none raises."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import JsonValue

from flow_contracts.gateway_replies import UNPROVEN_PROPERTY, RequestProgress
from flow_contracts.message import Message, PropertyValue, ReceivedMessage
from flow_contracts.result import FlowResult, Status
from flow_worker.access.gateway_message_ids import prefix_of
from flow_worker.gateway.replies import Reply, ResultReply, StateReply, UnreadableReply, reply_of, without_output
from flow_worker.gateway.store import Standing, StateName

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def received(message: Message) -> ReceivedMessage:
    return ReceivedMessage(body=message.body, application_properties=message.application_properties, enqueued_at=NOW)


def result(**changes: object) -> Message:
    values: dict[str, object] = {"status": Status.SUCCEEDED, "correlation_id": "id", "request_message_id": "id"}
    return FlowResult.model_validate(values | changes).to_message("id", timedelta(hours=1))


def read(body: bytes | JsonValue, properties: dict[str, PropertyValue] | None = None) -> Reply:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    message = Message(body=text, application_properties=properties or {"contract": "flow-result/1"})
    return reply_of(received(message))


def test_a_result_keeps_every_byte_of_its_body() -> None:
    message = received(result(output={"ä": [1.5, None]}, flow="create-quote"))
    later = replace(message, body=message.body.replace(b'{"status"', b'{ "added_later": 1, "status"'))
    for each in (message, later):
        reply = reply_of(each)
        assert isinstance(reply, ResultReply)
        assert (reply.request_id, reply.standing, reply.flow) == ("id", Standing.FIRST, "create-quote")
        assert (reply.result.body, reply.result.at) == (each.body, NOW)


def test_a_replay_and_an_unproven_result_have_their_standing() -> None:
    prefixed = reply_of(received(result(request_message_id=f"{prefix_of('queue')}id")))
    assert isinstance(prefixed, ResultReply)
    assert prefixed.request_id == "id"
    replay = reply_of(received(result(request_message_id="other", replay_of=f"{prefix_of('queue')}id")))
    unproven = reply_of(received(result(replay_of="id").with_property(UNPROVEN_PROPERTY, True)))
    assert isinstance(replay, ResultReply)
    assert isinstance(unproven, ResultReply)
    assert (replay.request_id, replay.standing) == ("id", Standing.REPLAY)
    assert unproven.standing is Standing.UNPROVEN


def test_a_settling_result_has_its_standing() -> None:
    settling = reply_of(received(result(settled_by="flow_run")))
    of_replay = reply_of(received(result(settled_by="flow_run", request_message_id="other", replay_of="id")))
    assert isinstance(settling, ResultReply)
    assert isinstance(of_replay, ResultReply)
    assert (settling.standing, of_replay.standing) == (Standing.SETTLED, Standing.REPLAY)


def test_a_status_of_a_later_worker_is_passed_on() -> None:
    body = json.loads(result().body) | {"status": "postponed"}
    assert isinstance(read(body), ResultReply)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"null", b"[]", b"1", b"\xff\xfe", b'"text"', b"{}", b"NaN"),
        b'{"status":"succeeded","correlation_id":"id","request_message_id":"id","output":NaN}',
        b'{"status":"succeeded","correlation_id":"id","request_message_id":"\\ud800"}',
        b'{"status":1,"correlation_id":"id","request_message_id":"id"}',
        b'{"status":"succeeded","correlation_id":"id","request_message_id":""}',
        b'{"status":"succeeded","correlation_id":"id","request_message_id":"id","replay_of":[]}',
        b'{"status":"succeeded","correlation_id":"id","request_message_id":"id"} tail',
        b"[" * 100_000,
        b'{"output":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_a_body_that_is_no_result_is_unreadable(body: bytes) -> None:
    reply = read(body)
    assert isinstance(reply, UnreadableReply)
    assert reply.reason == "result_unreadable"
    assert len(reply.cause) < 300


@pytest.mark.parametrize(
    ("contract", "reason"),
    [
        ("flow-result/2", "result_unsupported"),
        *((other, "result_unreadable") for other in ("flow-result/x", "flow-request/1", "", None, 1)),
    ],
)
def test_another_contract_is_named_by_its_reason(contract: PropertyValue, reason: str) -> None:
    reply = read(b"{}", {"contract": contract})
    assert isinstance(reply, UnreadableReply)
    assert reply.reason == reason


def test_a_state_is_read_and_its_times_fit_every_store() -> None:
    progress = RequestProgress(request="id", state="waiting", at=NOW, until=NOW, code="flow_throttled", attempts=2)
    reply = reply_of(received(progress.to_message()))
    assert isinstance(reply, StateReply)
    assert (reply.request_id, reply.state.state, reply.state.at) == ("id", StateName.WAITING, NOW)
    for at in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        extreme: JsonValue = {"request": "id", "state": "calling", "at": at, "until": at, "attempts": 10**30}
        reply = read(extreme, {"fw-kind": "state"})
        assert isinstance(reply, StateReply)
        assert reply.state.at.tzinfo is UTC
        assert reply.state.attempts <= 1 << 31


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"request":"","state":"calling","at":1}', b"x" * 5000])
def test_a_broken_state_is_unreadable(body: bytes) -> None:
    reply = read(body, {"fw-kind": "state"})
    assert isinstance(reply, UnreadableReply)
    assert reply.reason == "reply_unreadable"


def test_parts_that_cannot_be_decoded_make_a_message_unreadable() -> None:
    reply = reply_of(replace(received(result()), undecodable=("body",)))
    assert isinstance(reply, UnreadableReply)


def test_a_result_without_its_output_says_so() -> None:
    message = received(result(output="x" * 10_000))
    reply = reply_of(message)
    assert isinstance(reply, ResultReply)
    less = json.loads(without_output(message, reply.result).body)
    assert (less["output"], less["error"]["code"], less["status"]) == (None, "output_too_large", "succeeded")


def test_a_large_result_is_read_in_milliseconds() -> None:
    message = received(result(output=[{"number": number, "text": "text" * 5} for number in range(10_000)]))
    begun = time.process_time()
    assert isinstance(reply_of(message), ResultReply)
    assert time.process_time() - begun < 0.05
