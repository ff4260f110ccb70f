"""The codec, checked with encodings from the specification and with input that is not AMQP."""

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.amqp import (
    Array,
    Byte,
    Char,
    Decimal128,
    DecodeError,
    Described,
    EncodeError,
    Float32,
    Int,
    Long,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
    decode,
    encode,
)
from servicebus_emulator.amqp.decoder import MAX_ELEMENTS, MAX_NESTING
from tests.unit.emulator.amqp import strategies

SHORTEST = [
    (None, "40"),
    (True, "41"),
    (False, "42"),
    (UInt(0), "43"),
    (ULong(0), "44"),
    ([], "45"),
    (UByte(200), "50 c8"),
    (Byte(-1), "51 ff"),
    (UInt(255), "52 ff"),
    (ULong(255), "53 ff"),
    (Int(-128), "54 80"),
    (Long(127), "55 7f"),
    (UShort(0x1234), "60 1234"),
    (Short(-2), "61 fffe"),
    (UInt(256), "70 00000100"),
    (Int(128), "71 00000080"),
    (Float32(1.5), "72 3fc00000"),
    (Char("€"), "73 000020ac"),
    (ULong(256), "80 0000000000000100"),
    (Long(-129), "81 ffffffffffffff7f"),
    (1.5, "82 3ff8000000000000"),
    (Timestamp(-1), "83 ffffffffffffffff"),
    (Decimal128(bytes(range(16))), "94 000102030405060708090a0b0c0d0e0f"),
    (uuid.UUID(int=1), "98 00000000000000000000000000000001"),
    (b"\x01\x02", "a0 02 0102"),
    ("é", "a1 02 c3a9"),
    (Symbol("ab"), "a3 02 6162"),
    ([UInt(0), "x"], "c0 05 02 43 a1 01 78"),
    ({Symbol("k"): None}, "c1 05 02 a3 01 6b 40"),
    (Array([UInt(1), UInt(2)]), "e0 0a 02 70 00000001 00000002"),
    (Array([True, False]), "e0 04 02 56 01 00"),
    (Array(), "e0 02 00 40"),
    (Described(ULong(0x75), b"x"), "00 53 75 a0 01 78"),
    (Array([Described(Symbol("d"), UByte(7))] * 2), "e0 08 02 00 a3 01 64 50 07 07"),
]

OTHER_FORMS = [
    ("56 01", True),
    ("56 00", False),
    ("70 00000000", UInt(0)),
    ("80 0000000000000001", ULong(1)),
    ("71 00000001", Int(1)),
    ("81 0000000000000001", Long(1)),
    ("b0 00000001 ff", b"\xff"),
    ("b1 00000001 78", "x"),
    ("b3 00000001 78", Symbol("x")),
    ("d0 00000004 00000000", []),
    ("c0 01 00", []),
    ("d0 00000005 00000001 40", [None]),
    ("c1 01 00", {}),
    ("d1 00000006 00000002 41 42", {True: False}),
    ("f0 00000009 00000001 70 00000001", Array([UInt(1)])),
    ("e0 01 00", Array()),
    ("e0 02 03 41", Array([True, True, True])),
    ("e0 07 02 c0 02 01 40 01 00", Array([[None], []])),
]

MALFORMED = {
    "nothing at all": "",
    "an undefined constructor": "3f",
    "a fixed value cut short": "70 0000",
    "a uuid cut short": "98 0000",
    "text cut short": "a1 05 78",
    "a length cut short": "b1 0000",
    "a length beyond the data": "b0 ffffffff 00",
    "text that is not UTF-8": "a1 01 ff",
    "a symbol that is not ASCII": "a3 01 c3",
    "a surrogate as a character": "73 0000d800",
    "a number beyond Unicode as a character": "73 00110000",
    "a boolean of two": "56 02",
    "a list whose size ends before its elements": "c0 02 02 41",
    "a list whose size goes on after its elements": "c0 03 01 41 41",
    "a list longer than the data": "c0 ff 01 41",
    "a list with too small a size for its count": "c0 00 00",
    "a list of four billion elements": "d0 00000004 ffffffff",
    "a map with a key but no value": "c1 02 01 41",
    "a map with a list for a key": "c1 03 02 45 41",
    "an array without a constructor": "e0 01 01",
    "an array of four billion nulls": "f0 00000005 ffffffff 40",
    "an array of more nulls than allowed": "e0 02 ff 40",
    "an array that overruns its size": "e0 03 02 50 01 02",
    "an array that does not fill its size": "e0 04 01 50 01 02",
    "a descriptor without a value": "00 53 75",
    "descriptors of descriptors of descriptors": "00" * 10_000,
    "an array of descriptors of descriptors": "f0 00000fff 00000001" + "00" * 10_000,
    "an array of elements with a hundred descriptors each": "e0 ca 01" + "0040" * 100 + "40",
}


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def types_of(value: object) -> object:
    """Return the types in a value, so that a comparison distinguishes equal numbers of different types."""
    match value:
        case Described(descriptor, inner):
            return (Described, types_of(descriptor), types_of(inner))
        case Array() | list():
            return (type(value), [types_of(item) for item in value])
        case dict():
            return (dict, [(types_of(key), types_of(item)) for key, item in value.items()])
        case _:
            return type(value)


@pytest.mark.parametrize(("value", "text"), SHORTEST, ids=lambda item: repr(item)[:30])
def test_a_value_is_encoded_in_its_shortest_form_and_decoded_with_its_type(value: object, text: str) -> None:
    assert encode(value) == raw(text)
    assert decode(raw(text)) == (value, len(raw(text)))
    assert types_of(decode(raw(text))[0]) == types_of(value)


@pytest.mark.parametrize(("text", "value"), OTHER_FORMS)
def test_the_longer_encodings_of_a_value_are_decoded(text: str, value: object) -> None:
    assert decode(raw(text)) == (value, len(raw(text)))
    assert types_of(decode(raw(text))[0]) == types_of(value)


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_input_is_a_decode_error(what: str) -> None:
    with pytest.raises(DecodeError):
        decode(raw(MALFORMED[what]))


def test_a_plain_int_is_encoded_as_a_long() -> None:
    assert types_of(decode(encode(5))[0]) is Long


def test_a_tuple_is_encoded_as_a_list_and_a_bytearray_as_binary() -> None:
    assert decode(encode((1, bytearray(b"x"))))[0] == [1, b"x"]


def test_a_subclass_is_encoded_as_its_base_type() -> None:
    class Priority(UByte):
        pass

    assert encode(Priority(3)) == raw("50 03")


@pytest.mark.parametrize(
    "value",
    [UByte(256), UInt(-1), ULong(2**64), 2**63, Symbol("é"), "\ud800", object(), Decimal128(b"short"), Char("xy")],
)
def test_a_value_without_an_amqp_type_is_an_encode_error(value: object) -> None:
    with pytest.raises(EncodeError):
        encode(value)


@pytest.mark.parametrize("items", [[UInt(1), ULong(1)], [1, "x"], [Described("a", 1), Described("b", 1)]])
def test_an_array_of_different_types_is_an_encode_error(items: list[object]) -> None:
    with pytest.raises(EncodeError):
        encode(Array(items))


def test_nesting_is_decoded_up_to_its_limit() -> None:
    value: object = None
    for _ in range(MAX_NESTING):
        value = [value]
    assert decode(encode(value))[0] == value
    with pytest.raises(DecodeError, match="nested"):
        decode(encode([value]))


def test_elements_are_decoded_up_to_their_limit() -> None:
    assert decode(encode([None] * MAX_ELEMENTS))[0] == [None] * MAX_ELEMENTS
    with pytest.raises(DecodeError, match="elements"):
        decode(encode([None] * (MAX_ELEMENTS + 1)))


def test_decoding_starts_at_the_offset_and_returns_the_offset_after_the_value() -> None:
    assert decode(b"\xff\xff" + encode("x") + b"\xff", 2) == ("x", 5)


@given(strategies.values)
@settings(deadline=None, max_examples=150)
def test_every_value_survives_encoding_and_decoding(value: object) -> None:
    decoded, end = decode(encode(value))
    assert decoded == value
    assert types_of(decoded) == types_of(value)
    assert end == len(encode(value))


@given(strategies.values, st.data())
@settings(deadline=None, max_examples=150)
def test_a_truncated_value_is_a_decode_error(value: object, data: st.DataObject) -> None:
    encoded = encode(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DecodeError):
        decode(encoded[:cut])


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_arbitrary_bytes_decode_to_a_value_or_a_decode_error(data: bytes) -> None:
    try:
        _, end = decode(data)
    except DecodeError:
        return
    assert 0 < end <= len(data)
