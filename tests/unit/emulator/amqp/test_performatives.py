"""Composite types: fields, defaults and invalid values."""

import pytest

from servicebus_emulator.amqp import Accepted, Array, DecodeError, Described, EncodeError, Symbol, UInt, ULong, encode
from servicebus_emulator.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    Error,
    Flow,
    Open,
    Rejected,
    SaslInit,
    SaslOutcome,
    Transfer,
    decode_performative,
    decode_sasl,
    encode_frame_body,
)


def composite(code: int, *fields: object) -> bytes:
    return encode(Described(ULong(code), list(fields)))


def test_all_fields_are_encoded_even_if_the_last_ones_are_null() -> None:
    assert encode_frame_body(Detach(1)) == bytes.fromhex("00 53 16 c0 05 03 52 01 42 40")
    assert encode_frame_body(Close(Error("x"))) == bytes.fromhex("00 53 18 c0 0c 01 00 53 1d c0 06 03 a3 01 78 40 40")


def test_a_delivery_state_without_fields_is_an_empty_list() -> None:
    assert encode_frame_body(Disposition(True, 0, 0, True, Accepted())).endswith(bytes.fromhex("00 53 24 45 42"))


def test_missing_or_null_fields_have_their_defaults() -> None:
    assert decode_performative(composite(0x10, "c")) == (Open("c"), 9)
    attach, _ = decode_performative(composite(0x12, "n", UInt(0), True, None, None))
    assert attach == Attach("n", 0, True, snd_settle_mode=2, rcv_settle_mode=0)
    begin, _ = decode_performative(composite(0x11, None, UInt(0), UInt(1), UInt(2)))
    assert begin == Begin(None, 0, 1, 2, handle_max=0xFFFF_FFFF)


def test_a_descriptor_may_be_a_symbol() -> None:
    body = encode(Described(Symbol("amqp:close:list"), []))
    assert decode_performative(body) == (Close(), len(body))


def test_integers_may_have_any_width() -> None:
    flow, _ = decode_performative(composite(0x13, None, ULong(1), 2, UInt(3)))
    assert flow == Flow(None, 1, 2, 3)


@pytest.mark.parametrize("several", [Symbol("a"), Array([Symbol("a")]), [Symbol("a")], Array([])])
def test_multiple_symbols_may_be_one_symbol_an_array_or_a_list(several: object) -> None:
    opened, _ = decode_performative(composite(0x10, "c", None, None, None, None, several))
    assert isinstance(opened, Open)
    assert opened.outgoing_locales == (("a",) if several else ())


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (composite(0x14), "transfer lacks its field handle"),
        (composite(0x14, None), "transfer lacks its field handle"),
        (composite(0x14, True), "transfer.handle: expected an unsigned number of 32 bits"),
        (composite(0x14, -1), "transfer.handle: expected an unsigned number of 32 bits"),
        (composite(0x14, 2**32), "transfer.handle: expected an unsigned number of 32 bits"),
        (composite(0x14, UInt(0), UInt(0), "tag"), "transfer.delivery_tag: expected binary, got str"),
        (composite(0x16, UInt(0), UInt(1)), "detach.closed: expected a boolean, got UInt"),
        (composite(0x10, "c", *[None] * 8, {1: 2}), "open.properties: expected a map with symbols for keys"),
        (composite(0x10, "c", *[None] * 4, 5), "open.outgoing_locales: expected a symbol or an array of symbols"),
        (composite(0x18, Described(ULong(0x24), [])), "close.error: Accepted has no place here"),
        (composite(0x18, "plain"), "close.error: expected a described list, got str"),
        (composite(0x18, None, None), "close has 1 fields at most, not 2"),
        (encode(Described(ULong(0x18), {})), "close is a list, not dict"),
        (encode(Described([], [])), "the descriptor is not one of the AMQP types known here"),
        (composite(0x24), "Accepted is not a performative"),
        (composite(0x41, Symbol("PLAIN")), "SaslInit is not a performative"),
        (encode([]), "expected a described list, got list"),
    ],
)
def test_a_decode_error_names_the_composite_and_the_field(body: bytes, complaint: str) -> None:
    with pytest.raises(DecodeError) as refused:
        decode_performative(body)
    assert refused.value.description == complaint


@pytest.mark.parametrize("body", [composite(0x10, "c"), composite(0x41, Symbol("PLAIN")) + b"more"])
def test_a_sasl_frame_with_missing_or_extra_bytes_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError, match="not the whole of a SASL frame"):
        decode_sasl(body)


@pytest.mark.parametrize(
    "frame",
    [Transfer(-1), Transfer(2**32), Detach(0, error=Error("é")), Disposition(True, 0, state=Rejected(Error("\ud800")))],
)
def test_a_field_out_of_range_is_an_encode_error(frame: Transfer | Detach | Disposition) -> None:
    with pytest.raises(EncodeError):
        encode_frame_body(frame)


def test_sasl_frames_survive_encoding_and_decoding() -> None:
    for frame in (SaslInit("PLAIN", b"\0u\0p", "host"), SaslOutcome(1)):
        assert decode_sasl(encode_frame_body(frame)) == frame
