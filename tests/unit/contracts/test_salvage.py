"""The sections before a message's body stay readable, whatever values the sender put into the message."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from azure.servicebus._pyamqp._decode import decode_payload
from hypothesis import given
from hypothesis import strategies as st

from flow_contracts.servicebus.salvage import decodable_sections
from servicebus_emulator.amqp import Char, Described, Symbol, ULong, encode
from servicebus_emulator.amqp.sections import (
    AMQP_VALUE,
    APPLICATION_PROPERTIES,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
)

NUMBER = Symbol("x-opt-sequence-number")


def deep(levels: int = 100) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


def payload(
    body: object, annotations: Mapping[Symbol, object] | None = None, application: Mapping[str, object] | None = None
) -> bytes:
    sections = {
        HEADER: [True],
        MESSAGE_ANNOTATIONS: {NUMBER: 2**40, **(annotations or {})},
        PROPERTIES: ["id-1", None, "to"],
        APPLICATION_PROPERTIES: {"contract": "flow-request/1", **(application or {})},
        AMQP_VALUE: body,
    }
    return b"".join(encode(Described(ULong(code), value)) for code, value in sections.items())


@pytest.mark.parametrize(
    "message",
    [
        payload(deep()),
        payload(Char("x")),
        payload("plain", {Symbol("mine"): deep()}),
        payload("plain", {Symbol("mine"): Char("x")}, {"mine": Char("x")}),
        payload("plain", application={"mine": deep()}),
    ],
    ids=["deep body", "body of unknown type", "deep annotation", "unknown annotation", "deep property"],
)
def test_the_sections_without_the_values_that_break_the_decoder_are_decodable(message: bytes) -> None:
    with pytest.raises((TypeError, ValueError)):
        decode_payload(memoryview(message))
    read: Any = decode_payload(memoryview(decodable_sections(message)))  # its parts may be missing
    assert read.message_annotations[b"x-opt-sequence-number"] == 2**40
    assert read.properties.message_id == b"id-1"
    assert read.application_properties[b"contract"] == b"flow-request/1"
    assert read.value is None


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_raise_nothing_but_the_documented_errors(noise: bytes) -> None:
    with contextlib.suppress(ValueError, IndexError):
        decodable_sections(b"\x00\x53\x72" + noise)
