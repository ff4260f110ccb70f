"""The decoding and encoding of messages."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.amqp import Described, Int, Long, Symbol, Timestamp, UInt, ULong, decode, encode
from servicebus_emulator.amqp.sections import (
    AMQP_SEQUENCE,
    AMQP_VALUE,
    APPLICATION_PROPERTIES,
    DATA,
    DELIVERY_ANNOTATIONS,
    FOOTER,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    split,
)
from servicebus_emulator.servicebus.entities.message import MessageState
from servicebus_emulator.servicebus.entities.message_encoding import (
    encode_delivery,
    encode_peeked,
    parse_batch,
    parse_message,
)
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, ServiceBusError
from tests.unit.emulator.servicebus.rig import START, message, section

LOCK = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


def sections(payload: bytes) -> dict[int, object]:
    """Return the values of a message's sections by code."""
    found: dict[int, object] = {}
    for code, start, end in split(payload):
        described, _ = decode(payload[start:end])
        assert isinstance(described, Described)
        found[code] = described.value
    return found


def annotated(payload: bytes) -> Mapping[object, object]:
    value = sections(payload)[MESSAGE_ANNOTATIONS]
    assert isinstance(value, dict)
    return value


def test_sections_of_the_sender_are_delivered_byte_for_byte() -> None:
    properties = section(PROPERTIES, [uuid.UUID(int=7), b"user", "to", "subject", "replies", Long(5)])
    application = section(APPLICATION_PROPERTIES, {"number": Int(1), "text": "ä"})
    body = section(DATA, b"one") + section(DATA, b"two")
    footer = section(FOOTER, {Symbol("sum"): 1})
    out = encode_delivery(parse_message(properties + application + body + footer), lock_token=None)
    assert out.endswith(properties + application + body + footer)


@pytest.mark.parametrize(
    "body", [section(AMQP_VALUE, {"a": None}), section(AMQP_SEQUENCE, [1, 2]) + section(AMQP_SEQUENCE, [])]
)
def test_every_kind_of_body_is_delivered(body: bytes) -> None:
    assert encode_delivery(parse_message(body), lock_token=None).endswith(body)


def test_sections_may_come_in_any_order_as_from_the_python_sdk() -> None:
    late = section(DELIVERY_ANNOTATIONS, {Symbol("mine"): 1})
    out = sections(encode_delivery(parse_message(section(DATA, b"x") + late), lock_token=None))
    assert (out[DELIVERY_ANNOTATIONS], out[DATA]) == ({"mine": 1}, b"x")


def test_a_delivery_has_count_enqueued_time_sequence_number_and_lock_end() -> None:
    one = message("x", ttl=5)
    one.sequence_number, one.enqueued_at, one.locked_until, one.delivery_count = 42, START, START + 30.5, 3
    out = sections(encode_delivery(one, lock_token=LOCK))
    assert out[HEADER] == [None, None, UInt(5000), None, UInt(3)]
    assert out[DELIVERY_ANNOTATIONS] == {Symbol("x-opt-lock-token"): LOCK}
    assert out[MESSAGE_ANNOTATIONS] == {
        Symbol("x-opt-sequence-number"): Long(42),
        Symbol("x-opt-enqueued-time"): Timestamp(int(START * 1000)),
        Symbol("x-opt-locked-until"): Timestamp(int(START * 1000) + 30_500),
    }


def test_the_first_delivery_has_the_delivery_count_zero() -> None:
    assert sections(encode_delivery(message("x"), lock_token=LOCK))[HEADER] == [None, None, None, None, UInt(0)]


def test_received_and_deleted_or_peeked_messages_have_no_lock_annotations() -> None:
    one = message("x")
    for payload in (encode_delivery(one, lock_token=None), encode_peeked(one)):
        assert sections(payload)[DELIVERY_ANNOTATIONS] == {}
        assert "x-opt-locked-until" not in annotated(payload)


def test_a_sender_cannot_set_the_brokers_annotations() -> None:
    forged = {
        Symbol("x-opt-sequence-number"): Long(1),
        Symbol("x-opt-locked-until"): Timestamp(1),
        Symbol("x-opt-message-state"): Int(1),
        Symbol("mine"): "stays",
    }
    lock = section(DELIVERY_ANNOTATIONS, {Symbol("x-opt-lock-token"): LOCK})
    out = encode_peeked(parse_message(lock + section(MESSAGE_ANNOTATIONS, forged) + section(DATA, b"")))
    assert set(annotated(out)) == {"x-opt-sequence-number", "x-opt-enqueued-time", "mine"}
    assert annotated(out)[Symbol("x-opt-sequence-number")] == 0
    assert sections(out)[DELIVERY_ANNOTATIONS] == {}


def test_the_state_annotation_is_set_unless_active_and_stays_scheduled_after_activation() -> None:
    one = message("x")
    assert "x-opt-message-state" not in annotated(encode_peeked(one))
    one.state = MessageState.DEFERRED
    state = annotated(encode_peeked(one))[Symbol("x-opt-message-state")]
    assert (state, type(state)) == (1, Int)
    one.state, one.was_scheduled = MessageState.ACTIVE, True
    assert annotated(encode_peeked(one))[Symbol("x-opt-message-state")] == 2


def test_ids_partition_key_schedule_and_time_to_live_are_parsed() -> None:
    one = message("x", message_id="m", session_id="s", ttl=1.5, at=START, partition_key="s")
    assert (one.message_id, one.session_id, one.partition_key) == ("m", "s", "s")
    assert (one.ttl, one.scheduled_at) == (1.5, START)


def test_the_time_to_live_may_come_from_creation_and_expiry_times() -> None:
    times = [None] * 8 + [Timestamp(10_000), Timestamp(4_000)]
    assert parse_message(section(PROPERTIES, times)).ttl == 6


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"x", "not an AMQP message"),
        (b"\x00", "not an AMQP message"),
        (encode("text"), "not an AMQP message"),
        (b"\x00\x53\x73\xd0\xff", "not an AMQP message"),
        (section(HEADER, {}), "must hold a list"),
        (section(MESSAGE_ANNOTATIONS, []), "must hold a map"),
        (section(PROPERTIES, [None] * 10 + [7]), r"group-id \(session ID\) must be a string"),
        *(
            (section(HEADER, [None, None, ttl]), "ttl must be a whole number")
            for ttl in ("soon", True, math.nan, math.inf, 1.5, Int(-1), ULong(1 << 32))
        ),
        *(
            (section(MESSAGE_ANNOTATIONS, {Symbol("x-opt-scheduled-enqueue-time"): time}), "time must be a whole num")
            for time in ("soon", math.nan, -1.0, Long(-1), Timestamp(253_402_300_800_000))
        ),
        (section(PROPERTIES, [None] * 8 + [math.nan, Timestamp(0)]), "absolute-expiry-time must be a whole number"),
        (section(PROPERTIES, [None] * 8 + [Timestamp(0), math.inf]), "creation-time must be a whole number"),
        (section(HEADER, ["yes"]), "durable of the header"),
        (section(HEADER, [None, math.nan]), "priority of the header"),
        (section(HEADER, [None, None, None, UInt(1)]), "first-acquirer of the header"),
        (section(MESSAGE_ANNOTATIONS, {Symbol("x-opt-partition-key"): 7}), "partition key must be a string"),
    ],
)
def test_an_invalid_message_is_rejected_with_the_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(ServiceBusError, match=reason) as refused:
        parse_message(payload)
    assert refused.value.condition == ARGUMENT_ERROR


@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_are_rejected(payload: bytes) -> None:
    for read in (parse_message, parse_batch):
        try:
            read(payload)
        except ServiceBusError as refused:
            assert refused.condition == ARGUMENT_ERROR  # noqa: PT017 - a refusal is one of two correct results


def test_a_batch_is_parsed_into_its_messages() -> None:
    one, two = (section(PROPERTIES, [name]) + section(DATA, name.encode()) for name in ("one", "two"))
    envelope = section(PROPERTIES, ["one"]) + section(DATA, one) + section(DATA, two)
    assert [each.message_id for each in parse_batch(envelope)] == ["one", "two"]


def test_a_batch_with_an_invalid_message_is_rejected() -> None:
    with pytest.raises(ServiceBusError, match="not an AMQP message"):
        parse_batch(section(DATA, b"nonsense"))


def test_a_partition_key_must_equal_the_session_id() -> None:
    with pytest.raises(ServiceBusError, match="must be the same as the session ID") as refused:
        message("x", session_id="s", partition_key="p")
    assert refused.value.condition == "amqp:not-allowed"


def test_a_partition_key_may_be_bytes_as_the_python_sdk_forwards_it() -> None:
    annotations = section(MESSAGE_ANNOTATIONS, {Symbol("x-opt-partition-key"): b"key"})
    message = parse_message(annotations + section(DATA, b"x"))
    assert message.partition_key == "key"
    assert message.annotations == {Symbol("x-opt-partition-key"): "key"}
