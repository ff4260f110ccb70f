"""Peeks at messages that azure-servicebus cannot decode, and leaves out the parts that break its decoder.

The SDK's decoder takes no value nested deeper than 64 and raises on some types (char, decimals out of range). A sender
can put such a value into a body, and one such message fails the whole peek. This module decodes each message alone. If
that fails, it decodes the message without its body. The sections with the sender's IDs and the reply address precede
the body (AMQP 1.0 part 3, 3.2).

The module calls private methods of the SDK's receiver. So the adapter uses it only after a public peek failed.
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
"""Bytes of the size that precedes a longer value."""
_SAFE_CODES = frozenset(
    bytes.fromhex("40 41 42 43 44 50 51 52 53 54 55 56 60 61 70 71 72 80 81 82 83 98 a0 a1 a3 b0 b1 b3")
)
"""Format codes of the values that never break the decoder: no lists, maps, arrays, chars and decimals."""
_NULL = b"\x40"


@dataclass(frozen=True, slots=True)
class Peeked:
    """A peeked message; if not `decoded`, it lacks its body and every other value that breaks the decoder."""

    message: ServiceBusReceivedMessage
    decoded: bool


async def peek(receiver: ServiceBusReceiver, count: int, from_sequence: int) -> list[Peeked]:
    """Do the same as `peek_messages`.

    Raises the SDK's errors, also for a message whose sequence number is not readable.
    """
    arguments = {"from-sequence-number": _long(receiver, max(1, from_sequence)), "message-count": count}
    payloads = await receiver._mgmt_request_response_with_retry(b"com.microsoft:peek-message", arguments, _payloads)
    return [_decode(receiver, payload) for payload in payloads]


def _long(receiver: ServiceBusReceiver, number: int) -> object:
    return receiver._amqp_transport.AMQP_LONG_VALUE(number)


def _payloads(status: int, response: Any, description: object, amqp_transport: object) -> list[bytes]:
    """Return the encoded messages of a peek's response; `response` is the SDK's internal message type."""
    if status in (202, 204):  # no message from that sequence number on
        return []
    if status != 200:
        raise ServiceBusError(f"Message peek failed with status {status}: {description!r}")
    return [bytes(entry[b"message"]) for entry in response.value[b"messages"]]


def _decode(receiver: ServiceBusReceiver, payload: bytes) -> Peeked:
    """Decode with less and less of the message: all of it, then without the body, then the annotations alone.

    The annotations hold the sequence number, without which a caller could not peek on.
    """
    with contextlib.suppress(Exception):  # the decoder raises any built-in error, according to the bytes
        return Peeked(_parse(receiver, payload), decoded=True)
    with contextlib.suppress(Exception):
        return Peeked(_parse(receiver, decodable_sections(payload)), decoded=False)
    return Peeked(_parse(receiver, decodable_sections(payload, (_ANNOTATIONS,))), decoded=False)


def _parse(receiver: ServiceBusReceiver, payload: bytes) -> ServiceBusReceivedMessage:
    transport: Any = receiver._amqp_transport  # the SDK declares no type for it
    messages: list[ServiceBusReceivedMessage] = transport.parse_received_message(
        SimpleNamespace(value={b"messages": [{b"message": payload}]}),
        message_type=ServiceBusReceivedMessage,
        receiver=receiver,
        is_peeked_message=True,
    )
    return messages[0]


def decodable_sections(payload: bytes, sections: tuple[int, ...] = _BEFORE_BODY) -> bytes:
    """Encode these sections of an encoded message again, with null for each value that can break the decoder.

    Raises `ValueError` or `IndexError` if the bytes are no message.
    """
    return b"".join(
        bytes((0x00, 0x53, section)) + _without_nesting(payload, start)
        for section, start in _sections_before_body(payload)
        if section in sections
    )


def _sections_before_body(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the descriptor of each section and the index of its value. A section is a described value."""
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


def _without_nesting(payload: bytes, start: int) -> bytes:
    """Encode the list or map at `start` again, with null for each item that is not of `_SAFE_CODES`."""
    code, end = payload[start], _end(payload, start)
    at = start + 1 + 2 * _SIZES.get(code >> 4, 0)  # after its size and count; list0 has neither
    items = []
    while at < end:
        next_item = _end(payload, at)
        items.append(payload[at:next_item] if payload[at] in _SAFE_CODES else _NULL)
        at = next_item
    content = len(items).to_bytes(4, "big") + b"".join(items)
    # list32 is 0xD0 and map32 is 0xD1. The short forms 0xC0 and 0xC1 differ in the same bit; list0 (0x45) does not.
    return bytes([0xD0 | code & 0x01 if code != 0x45 else 0xD0]) + len(content).to_bytes(4, "big") + content


def _end(payload: bytes, at: int) -> int:
    """Return the index after the value at `at`. It skips lists and maps by their size, so that no nesting is too deep.

    Raises `IndexError` if the bytes end before the value does, and `ValueError` for an unknown format code.
    """
    values = 1  # the values still to skip; a loop instead of recursion, for descriptors of descriptors
    while values:
        code = payload[at]
        at += 1
        if code == 0x00:  # a described value: a descriptor and a value take its place
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
