"""The requests to `$management` and `$cbs`, and their responses."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from servicebus_emulator.amqp import Array, Described, Int, Long, Symbol, Timestamp, UByte, UInt, ULong, decode, encode
from servicebus_emulator.amqp.sections import (
    APPLICATION_PROPERTIES,
    DATA,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    split,
)
from servicebus_emulator.servicebus.access import UNCHECKED, ConnectionRights
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import NOT_FOUND, ServiceBusError
from servicebus_emulator.servicebus.links import addresses, cbs, management, request_response
from servicebus_emulator.servicebus.links.addresses import Address, Node
from servicebus_emulator.servicebus.links.request_response import Request, Response
from tests.unit.emulator.servicebus.client import sections
from tests.unit.emulator.servicebus.rig import START, Rig, body, section, token


def ask(rig: Rig, operation: str, body: object) -> Response:
    return management.respond(rig.queue, Request("m-1", None, {"operation": f"com.microsoft:{operation}"}, body))


def status_of(response: Response) -> tuple[object, object]:
    return response.properties["statusCode"], response.properties.get("errorCondition")


def content(response: Response) -> dict[str, Any]:  # Any: AMQP values of every type
    assert isinstance(response.body, dict)
    return response.body


def to_schedule(at: float | None) -> dict[str, object]:
    when = {} if at is None else {Symbol("x-opt-scheduled-enqueue-time"): Timestamp(int(at * 1000))}
    return {"message-id": "m", "message": section(MESSAGE_ANNOTATIONS, when) + section(DATA, b"later")}


# --- $management -------------------------------------------------------------------------------------------------


def test_a_success_has_status_200_and_a_map() -> None:
    rig = Rig(lock_seconds=30.0)
    rig.send("a")
    lock = token(rig.receiver(1).last)
    rig.passes(10)
    answer = ask(rig, "renew-lock", {"lock-tokens": Array([lock])})
    assert status_of(answer) == (200, None)
    assert content(answer)["expirations"] == Array([Timestamp(int((START + 40) * 1000))])
    assert isinstance(answer.properties["statusCode"], Int)


@pytest.mark.parametrize(
    ("operation", "body", "status", "condition"),
    [
        ("fly", {}, 501, "amqp:not-implemented"),
        ("renew-lock", {"lock-tokens": [uuid.uuid4()]}, 410, "com.microsoft:message-lock-lost"),
        ("renew-session-lock", {"session-id": "s"}, 410, "com.microsoft:session-lock-lost"),
        ("get-session-state", {"session-id": "s"}, 410, "com.microsoft:session-lock-lost"),
        ("set-session-state", {"session-id": "s", "session-state": b""}, 410, "com.microsoft:session-lock-lost"),
        ("receive-by-sequence-number", {"sequence-numbers": [1]}, 404, "com.microsoft:message-not-found"),
        ("cancel-scheduled-message", {"sequence-numbers": [1]}, 404, "com.microsoft:message-not-found"),
        ("peek-message", {"from-sequence-number": 1, "message-count": 5}, 204, None),
        ("get-message-sessions", {"skip": 0, "top": 5}, 400, "amqp:not-allowed"),
    ],
)
def test_an_error_is_a_response_with_the_services_status(
    operation: str, body: object, status: int, condition: str | None
) -> None:
    assert status_of(ask(Rig(), operation, body)) == (status, condition)


@pytest.mark.parametrize(
    ("operation", "body", "reason"),
    [
        ("peek-message", None, "the body must be a map"),
        ("peek-message", {"message-count": 5}, "'from-sequence-number' must be a whole number"),
        ("peek-message", {"from-sequence-number": True, "message-count": 5}, "'from-sequence-number' must be"),
        ("renew-lock", {"lock-tokens": ["not a uuid"]}, "'lock-tokens' must be a list of UUID"),
        ("cancel-scheduled-message", {"sequence-numbers": 5}, "'sequence-numbers' must be a list of int"),
        ("set-session-state", {"session-id": "s", "session-state": "text"}, "'session-state' must be a bytes"),
        ("batch-delete-messages", {"message-count": 0, "enqueued-time-utc": 1}, "'message-count' must be 1 or more"),
        ("schedule-message", {"messages": [{"message-id": "m"}]}, "must hold a 'message' of bytes"),
        ("schedule-message", {"messages": [to_schedule(None)]}, "no time to schedule it at"),
        ("update-disposition", {"disposition-status": "eaten", "lock-tokens": []}, "'disposition-status' must be one"),
    ],
)
def test_an_invalid_request_gets_an_error_that_names_the_argument(operation: str, body: object, reason: str) -> None:
    answer = ask(Rig(), operation, body)
    assert status_of(answer) == (400, "com.microsoft:argument-error")
    assert reason in str(answer.properties["statusDescription"])


@pytest.mark.parametrize("width", [int, UByte, UInt, ULong, Int, Long])
def test_integers_of_every_width_are_accepted(width: type[int]) -> None:
    rig = Rig()
    rig.send("a", "b")
    answer = ask(rig, "peek-message", {"from-sequence-number": width(2), "message-count": width(9)})
    assert status_of(answer) == (200, None)
    assert len(content(answer)["messages"]) == 1


def test_a_message_is_scheduled_and_cancelled_by_its_sequence_number() -> None:
    rig = Rig()
    answer = ask(rig, "schedule-message", {"messages": [to_schedule(START + 60)]})
    numbers = content(answer)["sequence-numbers"]
    assert numbers == Array([Long(1)])
    assert ask(rig, "cancel-scheduled-message", {"sequence-numbers": numbers}).body == {}
    assert rig.queue.counts()["scheduled"] == 0


@pytest.mark.parametrize(
    ("status", "left"),
    [
        ("completed", {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 0}),
        ("abandoned", {"active": 1, "deferred": 0, "scheduled": 0, "dead_lettered": 0}),
        ("defered", {"active": 0, "deferred": 1, "scheduled": 0, "dead_lettered": 0}),
        ("suspended", {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 1}),
    ],
)
def test_every_settlement_can_be_requested(status: str, left: object) -> None:
    rig = Rig()
    rig.send("a")
    lock = token(rig.receiver(1).last)
    assert status_of(ask(rig, "update-disposition", {"disposition-status": status, "lock-tokens": [lock]})) == (
        200,
        None,
    )
    assert rig.queue.counts() == left


def test_a_deferred_message_has_a_lock_token_except_in_receive_and_delete() -> None:
    rig = Rig()
    rig.send("a", "b")
    for one in rig.receiver(2).received:
        rig.queue.defer(token(one), {})
    kept, deleted = (
        content(ask(rig, "receive-by-sequence-number", {"sequence-numbers": [n], "receiver-settle-mode": UInt(mode)}))
        for n, mode in ((1, 1), (2, 0))
    )
    [with_lock], [without] = kept["messages"], deleted["messages"]
    assert isinstance(with_lock["lock-token"], uuid.UUID)
    assert set(without) == {"message"}


def test_sessions_are_listed_under_the_services_misspelled_key() -> None:
    rig = Rig(requires_session=True)
    assert status_of(ask(rig, "get-message-sessions", {"skip": 0, "top": 5})) == (204, None)
    for name in ("a", "b", "c"):
        rig.send("x", session_id=name)
    everything = Timestamp(253_402_300_800_000)
    answer = ask(rig, "get-message-sessions", {"last-updated-time": everything, "skip": Int(1), "top": Int(1)})
    assert content(answer) == {"skip": 2, "sessions-ids": ["b"]}
    late = ask(rig, "get-message-sessions", {"last-updated-time": Timestamp(0), "skip": 0, "top": 100})
    assert status_of(late) == (204, None)


def test_a_message_can_be_peeked_without_its_body() -> None:
    rig = Rig()
    rig.send("a long text")
    whole, bare = (
        content(ask(rig, "peek-message", {"from-sequence-number": 1, "message-count": 1, "omit-message-body": omit}))
        for omit in (False, True)
    )
    assert sections(whole["messages"][0]["message"])[DATA] == b"a long text"
    assert DATA not in sections(bare["messages"][0]["message"])


def test_a_batch_deletion_deletes_old_messages_except_locked_ones() -> None:
    rig = Rig()
    rig.send("held", "old", "older")
    rig.receiver(1)
    rig.passes(10)
    rig.send("new")
    cutoff = Timestamp(int((START + 5) * 1000))
    asked = {"message-count": Int(100), "enqueued-time-utc": cutoff}
    assert content(ask(rig, "batch-delete-messages", asked)) == {"message-count": 2}
    assert status_of(ask(rig, "batch-delete-messages", asked)) == (204, None)
    assert [body(one) for one in rig.queue.peek(1, 9, None)] == [b"held", b"new"]


@pytest.mark.parametrize("operation", ["add-rule", "remove-rule", "enumerate-rules"])
def test_operations_on_rules_are_refused_by_name(operation: str) -> None:
    answer = ask(Rig(), operation, {"rule-name": "r"})
    assert status_of(answer) == (501, "amqp:not-implemented")
    assert "subscriptions" in str(answer.properties["statusDescription"])


def test_session_operations_need_the_sessions_lock_and_id() -> None:
    rig = Rig(requires_session=True, lock_seconds=30.0)
    rig.send("a", "b", session_id="s")
    _, receiver = rig.session("s")
    rig.queue.defer(token(receiver.received[0]), {})
    deferred = {"sequence-numbers": [1]}
    assert status_of(ask(rig, "receive-by-sequence-number", deferred)) == (400, "amqp:not-allowed")
    assert status_of(ask(rig, "receive-by-sequence-number", deferred | {"session-id": "s"})) == (200, None)
    settled = {"disposition-status": "completed", "lock-tokens": [token(receiver.received[1])], "session-id": "s"}
    rig.passes(30, unnoticed=True)
    for operation, asked in (
        ("receive-by-sequence-number", deferred | {"session-id": "s"}),
        ("update-disposition", settled),
    ):
        assert status_of(ask(rig, operation, asked)) == (410, "com.microsoft:session-lock-lost")


def test_session_state_is_limited_to_the_size_of_a_message() -> None:
    rig = Rig(requires_session=True, max_message_bytes=1000)
    rig.session("s")
    large = {"session-id": "s", "session-state": b"x" * 1001}
    assert status_of(ask(rig, "set-session-state", large)) == (403, "amqp:link:message-size-exceeded")


# --- requests and responses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("message_id", [uuid.uuid4(), "text", ULong(7), b"bytes", None])
def test_the_correlation_id_of_a_response_keeps_value_and_type_of_the_message_id(message_id: object) -> None:
    payload = section(PROPERTIES, [message_id, None, None, None, "reply here"]) + section(
        APPLICATION_PROPERTIES, {"operation": "x"}
    )
    request = request_response.parse_request(payload)
    assert (request.reply_to, request.properties, request.body) == ("reply here", {"operation": "x"}, None)
    written = request_response.encode_response(request, Response({"statusCode": Int(200)}, {"a": 1}))
    code, start, end = split(written)[0]
    described, _ = decode(written[start:end])
    assert code == PROPERTIES
    assert isinstance(described, Described)
    assert isinstance(described.value, list)
    assert described.value[5] == message_id
    assert type(described.value[5]) is type(message_id)


@pytest.mark.parametrize("payload", [b"x", encode("text"), section(HEADER, [])[:-1]])
def test_an_invalid_request_message_is_rejected(payload: bytes) -> None:
    with pytest.raises(ServiceBusError, match="not a request"):
        request_response.parse_request(payload)


# --- $cbs --------------------------------------------------------------------------------------------------------


def put_token(token: object, **changes: object) -> object:
    properties = {"operation": "put-token", "name": "sb://host/q", "type": "jwt"} | changes
    broker = Broker([QueueSettings("q")])
    answer = cbs.respond(Request("m", None, properties, token), ConnectionRights(UNCHECKED, lambda: None), broker.find)
    return answer.properties["status-code"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("", 202),
        ("/", 202),
        ("/Q", 202),
        ("/q/$management", 202),
        ("/q/$DeadLetterQueue", 202),
        ("/topic/subscriptions/sub", 202),
        ("/nowhere", 404),
        ("/nowhere/$management", 404),
        ("/nowhere/$deadletterqueue", 404),
    ],
)
def test_a_token_for_a_missing_queue_gets_not_found(path: str, status: int) -> None:
    assert put_token("a.b.c", name=f"sb://host{path}") == status


def test_an_invalid_token_does_not_reveal_if_a_queue_exists() -> None:
    assert put_token("nonsense", name="sb://host/nowhere") == 401


def test_signatures_and_json_web_tokens_are_accepted_under_any_token_type() -> None:
    assert put_token("SharedAccessSignature sr=a&sig=b&se=1&skn=c", type="jwt") == 202
    assert put_token("head.body.signature", type="servicebus.windows.net:sastoken") == 202


@pytest.mark.parametrize("token", ["", "a.b", "a..c", "SharedAccessSignature sr=a&sig=b&se=1", None, b"a.b.c"])
def test_a_text_that_is_no_token_is_unauthorized(token: object) -> None:
    assert put_token(token) == 401


def test_a_cbs_request_without_audience_or_with_another_operation_is_a_bad_request() -> None:
    assert put_token("a.b.c", name=None) == 400
    assert put_token("a.b.c", operation="delete-token") == 400


# --- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "node", "entity"),
    [
        ("q", Node.ENTITY, "q"),
        ("/Q/", Node.ENTITY, "q"),
        ("amqps://127.0.0.1:5672/Flow-Requests", Node.ENTITY, "flow-requests"),
        ("sb://host/a/b", Node.ENTITY, "a/b"),
        ("t/Subscriptions/S/$management", Node.SUBSCRIPTION, "t/subscriptions/s/$management"),
        ("q/$DeadLetterQueue", Node.ENTITY, "q/$deadletterqueue"),
        ("q/$management", Node.MANAGEMENT, "q"),
        ("amqps://host/q/$DeadLetterQueue/$management", Node.MANAGEMENT, "q/$deadletterqueue"),
        ("$cbs", Node.CBS, ""),
        ("", Node.ENTITY, ""),
    ],
)
def test_an_address_is_parsed_in_every_form(text: str, node: Node, entity: str) -> None:
    assert addresses.parse_address(text) == Address(node, entity)


def test_the_broker_finds_queues_and_subqueues_in_any_case() -> None:
    broker = Broker([QueueSettings("Orders")])
    assert broker.find("ORDERS").dead_letters is broker.find("orders/$DeadLetterQueue")
    with pytest.raises(ServiceBusError, match="'parcels' could not be found") as refused:
        broker.find("parcels")
    assert refused.value.condition == NOT_FOUND
