"""Encodes messages that break azure-servicebus' decoder, or that take it long: what a stranger may send."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable

from flow_contracts.servicebus.message_decoder import MAX_BODY_VALUES
from servicebus_emulator.amqp import Array, Described, ULong, encode
from servicebus_emulator.amqp.sections import AMQP_SEQUENCE, AMQP_VALUE, APPLICATION_PROPERTIES, DATA, PROPERTIES
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.message_encoding import parse_message
from servicebus_emulator.servicebus.errors import ServiceBusError

BODY = b'{"flow": "create-quote"}'


def section(code: int, value: object) -> bytes:
    return encode(Described(ULong(code), value))


def request_payload(
    message_id: object,
    body: bytes,
    *,
    bad_property: bytes = b"\x40",
    name: str = "mine",
    reply_session: str | None = None,
) -> bytes:
    """Return the encoded request that a sender would send, with an application property of any encoding."""
    properties = [message_id, None, None, None, None, None, "application/json"]
    properties += [None] * 5 + [reply_session] if reply_session else []
    entries = encode("contract") + encode("flow-request/1") + encode(name) + bad_property
    return section(PROPERTIES, properties) + raw_section(APPLICATION_PROPERTIES, large(0xD1, 4, entries)) + body


def forwarded(payloads: Iterable[bytes]) -> list[BrokeredMessage]:
    """Return the messages that the broker accepts."""
    messages = []
    for payload in payloads:
        with contextlib.suppress(ServiceBusError):
            messages.append(parse_message(payload))
    return messages


def raw_section(code: int, value: bytes) -> bytes:
    return bytes((0x00, 0x53, code)) + value


def large(code: int, count: int, content: bytes) -> bytes:
    """Return a list, map or array with a count that need not be true."""
    return bytes([code]) + struct.pack(">II", len(content) + 4, count) + content


def deep(levels: int = 100) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


BAD_BODIES: dict[str, bytes] = {
    "deep list": section(AMQP_VALUE, deep()),
    "deep sequence": section(AMQP_SEQUENCE, deep()),
    "deep in data of another type": section(DATA, deep()),
    "sequence of another type": section(AMQP_SEQUENCE, "text"),
    "unknown constructor": raw_section(AMQP_VALUE, b"\x5f\x00"),
    "unknown constructor in a list": raw_section(AMQP_VALUE, large(0xD0, 1, b"\x0f")),
    "surrogate char": raw_section(AMQP_VALUE, b"\x73\x00\x00\xd8\x00"),
    "char that does not exist": raw_section(AMQP_VALUE, b"\x73\x00\x11\x00\x00"),
    "list that is longer than its size": raw_section(AMQP_VALUE, large(0xD0, 2, b"\x40")),
    "map with a key alone": raw_section(AMQP_VALUE, large(0xD1, 3, b"\x40\x40\x40")),
    "map with a list as key": raw_section(AMQP_VALUE, large(0xD1, 2, b"\x45\x40")),
    "array of nothing": raw_section(AMQP_VALUE, large(0xF0, 1, b"")),
    "array of nulls without end": raw_section(AMQP_VALUE, large(0xF0, 2**32 - 1, b"\x40")),
    "array of empty lists without end": raw_section(AMQP_VALUE, large(0xF0, 2**32 - 1, b"\x45")),
    "value that is cut off": raw_section(AMQP_VALUE, b"\xb1\x00\x00\x00\x09abc"),
    "data that is cut off": raw_section(DATA, b"\xa0\x09abc"),
    "size that is cut off": raw_section(DATA, b"\xb0\x00"),
    "section without a value": raw_section(DATA, b""),
    "descriptors without end": raw_section(AMQP_VALUE, b"\x00" * 50_000),
    "described too deeply": raw_section(AMQP_VALUE, b"\xc0\x82\x01" + b"\x00\x40" * 64 + b"\x40"),
    "one bad value among good ones": section(AMQP_VALUE, {"flow": "create-quote", "input": {"amounts": [1, deep()]}}),
    "good section, then noise": section(DATA, BODY) + b"\xff",
    "good section, then a bad one": section(DATA, BODY) + section(DATA, ["no binary"]),
    "more sections than a message has": section(DATA, b"x") * 100_000,
    "one large value": section(AMQP_VALUE, [b"\xff" * (1 << 20)]),
    "more values than a body has": section(AMQP_VALUE, [None] * (MAX_BODY_VALUES + 1)),
    "more values in all sections together": section(AMQP_SEQUENCE, [None] * 600) * 9,
}
"""The sections of bodies that cannot be decoded. A broker that checks the extent of sections forwards most of them."""

BAD_PROPERTIES: dict[str, bytes] = {
    "deep list": encode(deep()),
    "list": encode(["a"]),
    "map": encode({"a": 1}),
    "array": encode(Array((1, 2))),
    "array without end": large(0xF0, 2**32 - 1, b"\x40"),
    "unknown constructor of known size": b"\x5f\x00",
    "char that does not exist": b"\x73\x00\x11\x00\x00",
    "list of what nobody knows": large(0xD0, 1, b"\x0f"),
    "described list": b"\x00\x53\x07\x45",
}
"""Encoded values that are no simple value of a property."""

TRACE_PROPERTIES = ("traceparent", "tracestate", "Diagnostic-Id")
"""The application properties that azure-servicebus reads for its tracing at each settlement."""
BAD_TRACES: dict[str, bytes] = {
    "no ASCII": encode("00-\u00e9"),
    "a surrogate": b"\xa1\x03\xed\xa0\x80",
    "no UTF-8": b"\xa0\x02\xff\xfe",
    "a symbol without ASCII": b"\xa3\x02\xc3\xa9",
    "a number": encode(7),
    "a list": encode(["a"]),
}
"""Encoded values of such a property that are no ASCII text."""
