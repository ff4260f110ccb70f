"""What can be read of peeked messages that azure-servicebus cannot decode.

Its decoder takes no value nested deeper than 64, and raises on some types (char, decimals out of range). A sender can
write such a value into a body, and one such message fails the whole peek. So each message is decoded by itself here,
and one that fails is decoded without its body: who sent it, and where its result goes to, stands before the body.

This asks the SDK's receiver by a method that is not public. It is used only when a public peek failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import ServiceBusError

_HEADER, _ANNOTATIONS, _PROPERTIES, _APPLICATION_PROPERTIES = 0x70, 0x72, 0x73, 0x74
_BEFORE_BODY = (_HEADER, _ANNOTATIONS, _PROPERTIES, _APPLICATION_PROPERTIES)
"""Descriptors of a message's sections (AMQP 1.0 part 3, 3.2); those of its body and footer are greater."""

_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
"""Bytes of a value by the first half of its format code (AMQP 1.0 part 1, 1.2)."""
_SIZES = {0xA: 1, 0xB: 4, 0xC: 1, 0xD: 4, 0xE: 1, 0xF: 4}
"""Bytes of the size that leads a longer value."""
_PLAIN = frozenset(bytes.fromhex("40 41 42 43 44 50 51 52 53 54 55 56 60 61 70 71 72 80 81 82 83 98 a0 a1 a3 b0 b1 b3"))
"""Format codes of the values that the decoder takes whatever they hold: no lists, maps, arrays, chars and decimals."""
_NULL = b"\x40"


@dataclass(frozen=True, slots=True)
class Peeked:
    """A peeked message; one that is not `whole` lacks its body and whatever else could not be decoded."""

    message: ServiceBusReceivedMessage
    whole: bool


async def peek(receiver: ServiceBusReceiver, count: int, from_sequence: int) -> list[Peeked]:
    """As `peek_messages` does it. Raises what that raises, for a message too of which not even the number is found."""
    asked = {"from-sequence-number": _long(receiver, max(1, from_sequence)), "message-count": count}
    payloads = await receiver._mgmt_request_response_with_retry(b"com.microsoft:peek-message", asked, _payloads)
    return [_read(receiver, payload) for payload in payloads]


def _long(receiver: ServiceBusReceiver, number: int) -> object:
    return receiver._amqp_transport.AMQP_LONG_VALUE(number)


def _payloads(status: int, response: Any, description: object, amqp_transport: object) -> list[bytes]:
    """The messages of an answer as they were sent; `response` is the SDK's own kind of message."""
    if status in (202, 204):
        return []
    if status != 200:
        raise ServiceBusError(f"Message peek failed with status {status}: {description!r}")
    return [bytes(one[b"message"]) for one in response.value[b"messages"]]


def _read(receiver: ServiceBusReceiver, payload: bytes) -> Peeked:
    with contextlib.suppress(Exception):  # the decoder raises whatever the bytes make it stumble over
        return Peeked(_decoded(receiver, payload), whole=True)
    with contextlib.suppress(Exception):
        return Peeked(_decoded(receiver, readable(payload)), whole=False)
    return Peeked(_decoded(receiver, readable(payload, (_ANNOTATIONS,))), whole=False)


def _decoded(receiver: ServiceBusReceiver, payload: bytes) -> ServiceBusReceivedMessage:
    transport: Any = receiver._amqp_transport  # without types
    messages: list[ServiceBusReceivedMessage] = transport.parse_received_message(
        SimpleNamespace(value={b"messages": [{b"message": payload}]}),
        message_type=ServiceBusReceivedMessage,
        receiver=receiver,
        is_peeked_message=True,
    )
    return messages[0]


def readable(payload: bytes, wanted: tuple[int, ...] = _BEFORE_BODY) -> bytes:
    """These sections of an encoded message, with null for each value that might not be decoded.

    Raises `ValueError` or `IndexError` if the bytes are no message.
    """
    return b"".join(
        bytes((0x00, 0x53, section)) + _flat(payload, start)
        for section, start in _sections_before_body(payload)
        if section in wanted
    )


def _sections_before_body(payload: bytes) -> Iterator[tuple[int, int]]:
    """Each section's descriptor, and where its value begins. A section is a described value."""
    at = 0
    while at < len(payload):
        if payload[at] != 0x00 or payload[at + 1] not in (0x53, 0x80):
            raise ValueError(f"no section of a message at byte {at}")
        start = _end(payload, at + 1)
        section = payload[start - 1]
        if section > max(_BEFORE_BODY):
            return
        yield section, start
        at = _end(payload, start)


def _flat(payload: bytes, start: int) -> bytes:
    """The list or map at `start`, encoded anew without what is not plain."""
    code, end = payload[start], _end(payload, start)
    at = start + 1 + 2 * _SIZES.get(code >> 4, 0)  # behind its size and count; list0 has neither
    items = []
    while at < end:
        behind = _end(payload, at)
        items.append(payload[at:behind] if payload[at] in _PLAIN else _NULL)
        at = behind
    content = len(items).to_bytes(4, "big") + b"".join(items)
    return bytes([0xD0 | code & 0x01 if code != 0x45 else 0xD0]) + len(content).to_bytes(4, "big") + content


def _end(payload: bytes, at: int) -> int:
    """Where the value that begins at `at` ends. It does not look into it, so that no depth is too much."""
    values = 1
    while values:
        code = payload[at]
        at += 1
        if code == 0x00:  # described: a descriptor and a value stand for this one
            values += 1
            continue
        values -= 1
        if (width := _WIDTHS.get(code >> 4)) is None:
            size = _SIZES.get(code >> 4)
            if size is None:
                raise ValueError(f"no AMQP value has the format code 0x{code:02x}")
            width = size + int.from_bytes(payload[at : at + size], "big")
        at += width
    return at
