"""Any bytes become a message: bad parts are left out, the others are kept, and the work is bounded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import pytest
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus._common.tracing import get_span_link_from_message
from azure.servicebus._pyamqp._decode import decode_payload
from hypothesis import given
from hypothesis import strategies as st

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus.conversion import from_sdk
from flow_contracts.servicebus.message_decoder import MAX_BODY_VALUES, decode_message
from flow_contracts.servicebus.tolerant_transport import decoded_by_us
from servicebus_emulator.amqp import (
    Array,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Symbol,
    Timestamp,
    UInt,
    ULong,
    encode,
)
from servicebus_emulator.amqp.sections import (
    AMQP_SEQUENCE,
    AMQP_VALUE,
    APPLICATION_PROPERTIES,
    DATA,
    FOOTER,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
)
from tests.support.poison import (
    BAD_BODIES,
    BAD_PROPERTIES,
    BAD_TRACES,
    BODY,
    TRACE_PROPERTIES,
    deep,
    large,
    raw_section,
    request_payload,
    section,
)
from tests.unit.emulator.amqp.strategies import any_scalar, symbols, values

NUMBER, ENQUEUED = Symbol("x-opt-sequence-number"), Symbol("x-opt-enqueued-time")
ENQUEUED_AT = datetime(2026, 11, 14, 22, 13, 20, tzinfo=UTC)
HALF = (
    Decimal32(bytes.fromhex("3200000f")),
    Decimal64(bytes.fromhex("31a000000000000f")),
    Decimal128(bytes.fromhex("303e000000000000000000000000000f")),
)
"""1.5 in the three encodings of AMQP."""
START = section(HEADER, [True, None, UInt(60_000), None, UInt(3)]) + section(
    MESSAGE_ANNOTATIONS, {NUMBER: 2**40, ENQUEUED: Timestamp(int(ENQUEUED_AT.timestamp() * 1000))}
)


def payload(
    body: bytes = section(DATA, BODY),
    properties: object = ("id-1", None, None, None, "replies", "c-1"),
    application: Mapping[str, object] | None = None,
) -> bytes:
    return b"".join(
        (
            START,
            section(PROPERTIES, list(properties) if isinstance(properties, tuple) else properties),
            section(APPLICATION_PROPERTIES, {"contract": "flow-request/1", **(application or {})}),
            body,
        )
    )


def received(encoded: bytes) -> ReceivedMessage:
    receiver: Any = None
    return from_sdk(ServiceBusReceivedMessage(decoded_by_us(encoded), receiver=receiver))


def assert_sound(message: ReceivedMessage) -> None:
    assert (message.sequence_number, message.enqueued_at, message.delivery_count) == (2**40, ENQUEUED_AT, 3)
    assert (message.message_id, message.reply_to, message.correlation_id) == ("id-1", "replies", "c-1")
    assert message.application_properties["contract"] == "flow-request/1"


# --- the parts that cannot be decoded ------------------------------------------------------------------------------


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_body_that_cannot_be_decoded_is_left_out_whole(body: bytes) -> None:
    message = received(payload(body))
    assert (message.body, message.undecodable) == (b"", ("body",))
    assert_sound(message)


@pytest.mark.parametrize("value", BAD_PROPERTIES.values(), ids=BAD_PROPERTIES.keys())
def test_a_property_that_cannot_be_decoded_is_left_out_alone(value: bytes) -> None:
    before, after = encode("contract") + encode("flow-request/1"), encode("yes") + encode(True)
    properties = raw_section(APPLICATION_PROPERTIES, large(0xD1, 6, before + encode("mine") + value + after))
    message = received(
        START + section(PROPERTIES, ["id-1", None, None, None, "replies", "c-1"]) + properties + section(DATA, BODY)
    )
    assert (message.body, message.undecodable) == (BODY, ("application properties",))
    assert message.application_properties == {"contract": "flow-request/1", "mine": None, "yes": True}
    assert_sound(message)


@pytest.mark.parametrize("name", TRACE_PROPERTIES)
@pytest.mark.parametrize("value", BAD_TRACES.values(), ids=BAD_TRACES.keys())
def test_the_sdk_reads_no_trace_of_a_sender_when_it_settles(name: str, value: bytes) -> None:
    receiver: Any = None
    encoded = request_payload("id-1", section(DATA, BODY), name=name, bad_property=value)
    raw = ServiceBusReceivedMessage(decoded_by_us(encoded), receiver=receiver)
    link = get_span_link_from_message(raw)
    assert link is None or link.headers == {}
    assert from_sdk(raw).application_properties.keys() == {"contract", name}
    assert not raw.application_properties, "no function of the SDK can fail for what a sender wrote there"


@pytest.mark.parametrize("value", BAD_PROPERTIES.values(), ids=BAD_PROPERTIES.keys())
def test_a_field_that_cannot_be_decoded_is_left_out_alone(value: bytes) -> None:
    fields = encode("id-1") + b"\x40" * 2 + value + encode("replies") + encode("c-1")
    properties = raw_section(PROPERTIES, large(0xD0, 6, fields))
    message = received(
        START + properties + section(APPLICATION_PROPERTIES, {"contract": "flow-request/1"}) + section(DATA, BODY)
    )
    assert (message.body, message.subject, message.undecodable) == (BODY, None, ("properties",))
    assert_sound(message)


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (raw_section(PROPERTIES, large(0xD0, 2, b"\x0f\x40")), "properties"),
        (raw_section(PROPERTIES, b"\x40"), "properties"),
        (section(APPLICATION_PROPERTIES, ["no", "map"]), "application properties"),
        (raw_section(APPLICATION_PROPERTIES, large(0xD1, 2**31, encode("a") + b"\x40")), "application properties"),
        (section(APPLICATION_PROPERTIES, {str(number): None for number in range(1_500)}), "application properties"),
        (section(APPLICATION_PROPERTIES, {7: "a number is no name"}), "application properties"),
    ],
)
def test_a_broken_section_leaves_the_body(bad: bytes, part: str) -> None:
    message = received(START + bad + section(DATA, BODY))
    assert (message.body, message.undecodable) == (BODY, (part,))


@pytest.mark.parametrize(
    ("ttl", "count"), [("text", b"text"), (-1, -1), (ULong(2**63), ULong(2**63)), (True, True), (1.5, []), (2**40, {})]
)
def test_a_header_with_values_of_other_types_leaves_the_body(ttl: object, count: object) -> None:
    message = received(section(HEADER, [None, None, ttl, None, count]) + section(DATA, BODY))
    assert (message.body, message.time_to_live, message.delivery_count) == (BODY, None, 0)
    assert message.undecodable == ("header",)


@pytest.mark.parametrize("moment", [Timestamp(2**63 - 1), Timestamp(-(2**63)), "text", [], ULong(2**64 - 1)])
def test_times_that_do_not_exist_are_left_out(moment: object) -> None:
    annotations = {NUMBER: 5, ENQUEUED: moment, Symbol("x-opt-locked-until"): moment}
    message = received(section(MESSAGE_ANNOTATIONS, annotations) + section(DATA, BODY))
    assert (message.body, message.sequence_number, message.undecodable) == (BODY, 5, ("annotations",))


# --- what the broker wrote stands ----------------------------------------------------------------------------------


def test_no_later_section_replaces_one_that_the_broker_wrote() -> None:
    """A token would be judged at the enqueued time that its sender chose."""
    forged = section(MESSAGE_ANNOTATIONS, {NUMBER: 1, ENQUEUED: Timestamp(0)}) + section(HEADER, [None] * 5)
    message = received(payload(section(DATA, BODY) + forged) + section(PROPERTIES, ["id-2"]))
    assert (message.body, message.undecodable) == (BODY, ())
    assert_sound(message)


def test_no_annotation_whose_name_is_a_string_replaces_one_of_the_broker() -> None:
    both = large(0xD1, 4, encode(NUMBER) + encode(2**40) + encode(str(NUMBER)) + encode(1))
    message = received(raw_section(MESSAGE_ANNOTATIONS, both) + section(DATA, BODY))
    assert (message.sequence_number, message.body) == (2**40, BODY)


# --- right values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (section(DATA, BODY), BODY),
        (section(DATA, b"one") + section(DATA, b"two"), b"onetwo"),
        (section(AMQP_VALUE, BODY.decode()), BODY),
        (section(AMQP_VALUE, b"\xff"), b"\xff"),
        (section(AMQP_VALUE, None), b""),
        (section(AMQP_SEQUENCE, [1, "two"]), b'[[1, "two"]]'),
        (section(AMQP_SEQUENCE, [{"flow": "f", "input": [1]}]), b'{"flow": "f", "input": [1]}'),
        (section(AMQP_SEQUENCE, [BODY.decode()]), BODY),
        (section(AMQP_SEQUENCE, [BODY]), BODY),
        (section(AMQP_SEQUENCE, [{"a": 1}]) * 2, b'[[{"a": 1}], [{"a": 1}]]'),
        (section(AMQP_SEQUENCE, [{"a": 1}, {"a": 1}]), b'[[{"a": 1}, {"a": 1}]]'),
        (section(AMQP_VALUE, {"amounts": [1, 2.5, None], "yes": True}), b'{"amounts": [1, 2.5, null], "yes": true}'),
        (section(AMQP_VALUE, ["x", Char("ä"), *HALF]), '["x", "ä", "1.5", "1.5", "1.5"]'.encode()),
        (section(AMQP_VALUE, Array((1, 2))), b"[1, 2]"),
        (section(AMQP_VALUE, Described(Symbol("com.microsoft:timespan"), 7)), b"7"),
        (section(AMQP_VALUE, [Described(Symbol("a:list"), [1])]), b"[[1]]"),
        (section(AMQP_VALUE, {1: "a", UInt(2): "b"}), b'{"1": "a", "2": "b"}'),
        (encode(Described(Symbol("amqp:data:binary"), BODY)), BODY),
        (section(DATA, BODY) + section(FOOTER, {Symbol("sum"): deep()}), BODY),
        (b"", b""),
    ],
)
def test_a_body_of_any_amqp_type_arrives(body: bytes, expected: bytes) -> None:
    message = received(payload(body))
    assert (message.body, message.undecodable) == (expected, ())
    assert_sound(message)


@pytest.mark.parametrize(
    "body",
    [
        section(DATA, BODY) + section(AMQP_VALUE, BODY.decode()),
        section(AMQP_SEQUENCE, [{"a": 1}]) + section(DATA, BODY),
        section(AMQP_VALUE, 1) + section(AMQP_VALUE, 2),
    ],
)
def test_a_body_of_several_kinds_or_of_several_values_is_left_out_whole(body: bytes) -> None:
    message = received(payload(body))
    assert (message.body, message.undecodable) == (b"", ("body",))


def test_properties_of_every_simple_type_arrive() -> None:
    given_ = {"char": Char("x"), "half": HALF[2], "span": Described(Symbol("com.microsoft:timespan"), 7), "text": "ä"}
    message = received(payload(application=given_))
    assert message.application_properties == {
        "contract": "flow-request/1",
        "char": "x",
        "half": "1.5",
        "span": 7,
        "text": "ä",
    }
    assert message.undecodable == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal128(bytes.fromhex("b03e000000000000000000000000000f")), "-1.5"),
        (Decimal32(bytes.fromhex("6ca0000f")), "8388623"),  # a coefficient above 23 bits
        (Decimal32(bytes.fromhex("78000000")), "Infinity"),
        (Decimal64(bytes.fromhex("f800000000000000")), "-Infinity"),
        (Decimal32(bytes.fromhex("7c000000")), "NaN"),
    ],
)
def test_decimals_of_every_form_arrive_as_text(value: object, text: str) -> None:
    assert received(payload(application={"value": value})).application_properties["value"] == text


def test_texts_that_are_no_utf_8_arrive_escaped() -> None:
    broken = b"\xa1\x02\xff\xfe"
    properties = raw_section(PROPERTIES, large(0xD0, 2, broken + b"\x40"))
    application = raw_section(APPLICATION_PROPERTIES, large(0xD1, 2, broken + broken))
    message = received(START + properties + application + raw_section(AMQP_VALUE, large(0xD0, 1, broken)))
    assert message.message_id == "\\xff\\xfe"
    assert message.application_properties == {"\\xff\\xfe": "\\xff\\xfe"}
    assert json.loads(message.body) == ["\\xff\\xfe"]


@given(st.dictionaries(symbols, any_scalar.filter(lambda value: not isinstance(value, bytes | float)), max_size=5))
def test_simple_values_equal_those_of_the_sdks_decoder(annotations: dict[object, object]) -> None:
    known = {name: value for name, value in annotations.items() if not isinstance(value, Char)}
    encoded = section(MESSAGE_ANNOTATIONS, known) + section(PROPERTIES, list(known.values())[:13])
    ours, theirs = decode_message(encoded).message, decode_payload(memoryview(encoded))
    assert (ours.message_annotations, ours.properties) == (theirs.message_annotations, theirs.properties)


# --- any bytes -----------------------------------------------------------------------------------------------------


@given(values, values)
def test_any_values_become_a_message(body: object, value: object) -> None:
    message = received(payload(section(AMQP_VALUE, body), properties=[value] * 13, application={"mine": value}))
    assert (message.sequence_number, message.enqueued_at) == (2**40, ENQUEUED_AT)


@given(st.binary(max_size=200))
def test_any_bytes_become_a_message(noise: bytes) -> None:
    assert received(noise).sequence_number >= 0
    assert received(START + noise).sequence_number == 2**40


@given(st.data())
def test_a_message_with_some_other_bytes_becomes_a_message(data: st.DataObject) -> None:
    encoded = bytearray(payload(section(AMQP_VALUE, {"flow": "f", "input": [1, 2.5, {"a": None}]})))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        encoded[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    received(bytes(encoded))


# --- bounds --------------------------------------------------------------------------------------------------------

MEGABYTE = 1 << 20
EXPENSIVE = {
    "nulls": raw_section(AMQP_VALUE, large(0xD0, MEGABYTE, b"\x40" * MEGABYTE)),
    "short texts": raw_section(AMQP_VALUE, large(0xD0, MEGABYTE // 2, b"\xa1\x00" * (MEGABYTE // 2))),
    "small lists": raw_section(AMQP_VALUE, large(0xD0, MEGABYTE // 3, b"\xc0\x01\x00" * (MEGABYTE // 3))),
    "described values": raw_section(AMQP_VALUE, large(0xD0, MEGABYTE // 3, b"\x00\x40\x40" * (MEGABYTE // 3))),
    "towers of descriptors": raw_section(AMQP_VALUE, large(0xD0, 10_000, (b"\x00\x40" * 50 + b"\x40") * 10_000)),
    "array without bytes": raw_section(AMQP_VALUE, large(0xF0, 2**32 - 1, b"\x40")),
    "sections": section(DATA, b"") * (MEGABYTE // 5),
    "unknown sections": (b"\x00\x53\x01\x40") * (MEGABYTE // 4),
    "properties": raw_section(APPLICATION_PROPERTIES, large(0xD1, MEGABYTE // 2, b"\xa1\x01a\x40" * (MEGABYTE // 4))),
    "fields": raw_section(PROPERTIES, large(0xD0, MEGABYTE, b"\x40" * MEGABYTE)),
    "annotations": raw_section(MESSAGE_ANNOTATIONS, large(0xD1, MEGABYTE, b"\xa3\x00\x45" * (MEGABYTE // 3))),
    "texts that are no UTF-8": raw_section(AMQP_VALUE, large(0xD0, 4_000, (b"\xa1\xff" + b"\xff" * 255) * 4_000)),
    "zeros": b"\x00" * MEGABYTE,
    "decimals": section(AMQP_VALUE, [Decimal128(b"\x30\x3f" + b"\xff" * 14)] * (MAX_BODY_VALUES - 1)),
}


@pytest.mark.parametrize("encoded", EXPENSIVE.values(), ids=EXPENSIVE.keys())
def test_a_megabyte_of_small_values_costs_no_more_calls_than_the_limits_allow(encoded: bytes) -> None:
    """Calls of functions and not seconds: 200,000 calls take less than 100 ms on a machine of 2020."""
    assert calls_of(lambda: received(encoded)) < 40 * MAX_BODY_VALUES


def calls_of(work: Callable[[], object]) -> int:
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls
