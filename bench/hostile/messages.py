"""The worst messages of a sender, encoded by hand: some cannot be sent with an SDK."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence

from pydantic import JsonValue

from servicebus_emulator.amqp import Described, ULong, encode
from servicebus_emulator.amqp.sections import AMQP_VALUE, APPLICATION_PROPERTIES, DATA, PROPERTIES

MAX_BODY_BYTES = 1_000_000
PATTERN_FLOW, ONE_OF_FLOW, UNIQUE_FLOW = "pattern", "one-of", "unique"
_DEPTH = 100
_WITHOUT_END = 2**32 - 1

_WIDE: JsonValue = {"type": "object", "properties": {"a": {"$ref": "#/$defs/node"}}, "required": ["a"]}
_NODE: JsonValue = {"oneOf": [{"properties": {"a": {"$ref": "#/$defs/node"}}}, {"$ref": "#/$defs/wide"}]}

SCHEMAS: Mapping[str, JsonValue] = {
    PATTERN_FLOW: {"type": "object", "properties": {"name": {"type": "string", "pattern": "^(a|aa)+$"}}},
    ONE_OF_FLOW: {"$defs": {"node": _NODE, "wide": _WIDE}, "$ref": "#/$defs/node"},
    UNIQUE_FLOW: {"type": "object", "properties": {"rows": {"type": "array", "uniqueItems": True}}},
}
"""Input schemas that look harmless, by flow."""


def request(flow: str, value: JsonValue, claim: str | None) -> bytes:
    """Return a request, encoded as a message."""
    return message(json.dumps({"flow": flow, "input": value} | ({"claim": claim} if claim else {})).encode())


def with_input(flow: str, text: str, claim: str | None) -> bytes:
    """Return a request whose input is this JSON text."""
    proof = f', "claim": "{claim}"' if claim else ""
    return message(f'{{"flow": "{flow}"{proof}, "input": {text}}}'.encode())


def message(body: bytes, *, value: bytes | None = None, mine: bytes = b"\x40") -> bytes:
    """Return a request message: `value` replaces the body, and `mine` is the value of an application property."""
    properties = [str(uuid.uuid4()), None, None, None, None, str(uuid.uuid4()), "application/json"]
    entries = encode("contract") + encode("flow-request/1") + encode("mine") + mine
    return (
        _section(PROPERTIES, encode(properties))
        + _section(APPLICATION_PROPERTIES, _compound(0xD1, 4, entries))
        + (_section(DATA, encode(body)) if value is None else _section(AMQP_VALUE, value))
    )


def _section(code: int, value: bytes) -> bytes:
    return encode(Described(ULong(code), None))[:-1] + value


def _compound(code: int, count: int, content: bytes) -> bytes:
    """Return a list, map or array; its count need not be true."""
    return bytes([code]) + struct.pack(">II", len(content) + 4, count) + content


def _deep(levels: int) -> bytes:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return encode(value)


Build = Callable[[str], Sequence[bytes]]
"""Returns the messages of an attack, for a claim that opens every flow."""

_FILL = MAX_BODY_BYTES - 8_000  # room for the claim

MESSAGES: Mapping[str, Build] = {
    "996 KB of [], without a claim": lambda _: [with_input("good", f"[{'[],' * (_FILL // 3)}0]", None)] * 3,
    "the same with a claim": lambda claim: [with_input("good", f"[{'[],' * (_FILL // 3)}0]", claim)] * 3,
    "996 KB of [": lambda claim: [with_input("good", "[" * _FILL, claim)] * 3,
    "996 KB of digits": lambda claim: [with_input("good", "1" * _FILL, claim)] * 3,
    "90,000 fields": lambda claim: (
        [with_input("good", "{" + ",".join(f'"{n}":0' for n in range(90_000)) + "}", claim)] * 3
    ),
    "49,000 fields": lambda claim: (
        [with_input("good", "{" + ",".join(f'"key-{n:010}":0' for n in range(49_000)) + "}", claim)] * 3
    ),
    "24,000 objects, without a claim": lambda _: [with_input("good", f"[{'{},' * 24_000}0]", None)] * 20,
    "a pattern, 40 characters": lambda claim: [request(PATTERN_FLOW, {"name": "a" * 40 + "!"}, claim)] * 3,
    "oneOf, 30 levels": lambda claim: [with_input(ONE_OF_FLOW, '{"a":' * 30 + "{}" + "}" * 30, claim)] * 3,
    "uniqueItems, 60,000 rows": lambda claim: (
        [with_input(UNIQUE_FLOW, '{"rows": [' + ",".join(f'{{"n":{n}}}' for n in range(60_000)) + "]}", claim)] * 3
    ),
    "junk claims, 64 KB each": lambda _: [request("good", None, "eyJ" + "." * 65_000)] * 50,
    "300 requests without a claim": lambda _: [request("good", None, None) for _ in range(300)],
    "3,000 requests, unproven": lambda _: [request("good", None, (None, "junk")[n % 2]) for n in range(3_000)],
    "50 deep AMQP values": lambda _: [message(b"", value=_deep(_DEPTH)) for _ in range(50)],
    "50 undecodable properties": lambda claim: [
        message(json.dumps({"flow": "good", "claim": claim}).encode(), mine=_deep(_DEPTH)) for _ in range(50)
    ],
    "AMQP arrays without end": lambda _: [message(b"", value=_compound(0xF0, _WITHOUT_END, b"\x40"))] * 5,
    "AMQP list of 900,000 nulls": lambda _: [message(b"", value=_compound(0xD0, 900_000, b"\x40" * 900_000))] * 5,
}
