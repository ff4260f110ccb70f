"""The positions of the sections in a message."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.amqp import DecodeError, Described, Symbol, UInt, ULong, decode, encode
from servicebus_emulator.amqp.sections import AMQP_VALUE, APPLICATION_PROPERTIES, DATA, HEADER, split
from tests.unit.emulator.amqp import strategies


def section(code: int, value: object) -> bytes:
    return encode(Described(ULong(code), value))


def test_sections_are_returned_in_their_order() -> None:
    parts = [section(HEADER, [True]), section(DATA, b"one"), section(DATA, b"x" * 300), section(0x71, {})]
    payload = b"".join(parts)
    found = split(payload)
    assert [code for code, _, _ in found] == [HEADER, DATA, DATA, 0x71]
    assert [payload[start:end] for _, start, end in found] == parts


def test_a_section_descriptor_may_be_a_symbol_or_a_wide_ulong() -> None:
    symbolic = encode(Described(Symbol("amqp:data:binary"), b"x"))
    wide = b"\x00\x80" + (0x74).to_bytes(8, "big") + encode({"k": UInt(1)})
    assert [code for code, _, _ in split(symbolic + wide)] == [DATA, APPLICATION_PROPERTIES]


def test_an_empty_payload_has_no_sections() -> None:
    assert split(b"") == []


@pytest.mark.parametrize(
    "payload",
    [
        b"plain text",
        encode("no section"),
        section(0x6F, []),
        section(0x79, []),
        encode(Described(Symbol("amqp:unknown:list"), [])),
        section(DATA, b"whole")[:-1],
        b"\x00",
        b"\x00\x53",
        b"\x00\x53\x75",
        b"\x00\x53\x75\xb0\xff\xff",
        b"\x00\x53\x75\xb0\xff\xff\xff\xff",
        b"\x00\x53\x75\x30",
        b"\x00\x53\x77" + b"\x00" * 10_000,
    ],
)
def test_a_payload_that_is_no_sequence_of_sections_is_a_decode_error(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        split(payload)


@given(st.lists(strategies.values, max_size=4))
@settings(deadline=None, max_examples=100)
def test_a_section_ends_where_its_value_ends(bodies: list[object]) -> None:
    payload = b"".join(section(AMQP_VALUE, body) for body in bodies)
    found = split(payload)
    assert [decode(payload, start) for _, start, _ in found] == [
        (Described(ULong(AMQP_VALUE), body), end) for body, (_, _, end) in zip(bodies, found, strict=True)
    ]


@given(st.binary(max_size=100))
@settings(deadline=None, max_examples=300)
def test_arbitrary_bytes_are_contiguous_sections_or_a_decode_error(data: bytes) -> None:
    try:
        found = split(data)
    except DecodeError:
        return
    assert [start for _, start, _ in found] == [0, *(end for _, _, end in found)][: len(found)]
