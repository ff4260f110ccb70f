"""Our codec, compared in both directions with the codec of azure-servicebus, an independent implementation."""

import dataclasses
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from azure.servicebus._pyamqp import (  # the SDK has no public codec
    _decode,
    _encode,
    endpoints,
    error,
    message,
    outcomes,
    performatives,
)
from azure.servicebus._pyamqp.types import TYPE, VALUE, AMQPTypes
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.amqp import (
    Accepted,
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Error,
    Float32,
    Int,
    Long,
    Modified,
    Received,
    Rejected,
    Released,
    Short,
    Source,
    Symbol,
    Target,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
    decode,
    encode,
)
from servicebus_emulator.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    SaslFrame,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Transfer,
    decode_performative,
    decode_sasl,
    encode_frame_body,
)
from servicebus_emulator.amqp.sections import split
from tests.unit.emulator.amqp import strategies

SDK_TYPES = {
    bool: AMQPTypes.boolean,
    UByte: AMQPTypes.ubyte,
    UShort: AMQPTypes.ushort,
    UInt: AMQPTypes.uint,
    ULong: AMQPTypes.ulong,
    Byte: AMQPTypes.byte,
    Short: AMQPTypes.short,
    Int: AMQPTypes.int,
    Long: AMQPTypes.long,
    Timestamp: AMQPTypes.timestamp,
    Float32: AMQPTypes.float,
    float: AMQPTypes.double,
    str: AMQPTypes.string,
    Symbol: AMQPTypes.symbol,
    bytes: AMQPTypes.binary,
    uuid.UUID: AMQPTypes.uuid,
}
SDK_FRAMES = {
    Open: performatives.OpenFrame,
    Begin: performatives.BeginFrame,
    Attach: performatives.AttachFrame,
    Flow: performatives.FlowFrame,
    Transfer: performatives.TransferFrame,
    Disposition: performatives.DispositionFrame,
    Detach: performatives.DetachFrame,
    End: performatives.EndFrame,
    Close: performatives.CloseFrame,
    SaslMechanisms: performatives.SASLMechanism,
    SaslInit: performatives.SASLInit,
    SaslOutcome: performatives.SASLOutcome,
    Source: endpoints.Source,
    Target: endpoints.Target,
    Error: error.AMQPError,
    Accepted: outcomes.Accepted,
    Rejected: outcomes.Rejected,
    Released: outcomes.Released,
    Modified: outcomes.Modified,
    Received: outcomes.Received,
}
DELIVERY_STATES = (Accepted, Rejected, Released, Modified, Received)

# The SDK has no char, decimal32 and decimal64. It decodes a decimal128 into a decimal.Decimal.
_shared = [kind for name, kind in strategies.scalars.items() if name not in (Char, Decimal32, Decimal64, Decimal128)]
shared_scalars = st.none() | strategies.uuids | st.one_of(*_shared)

# The SDK expects no constructor in an empty array, and encodes one before each boolean and each zero.
readable_values = strategies.nested(shared_scalars, strategies.array_of(strategies.uuids, *_shared))
_one_form = [kind for name, kind in strategies.scalars.items() if name in SDK_TYPES and name is not bool]
_not_zero = [kind.filter(lambda value: value != 0) for kind in _one_form]
writable_values = strategies.nested(shared_scalars, strategies.array_of(strategies.uuids, *_not_zero))


def sdk_decode(data: bytes) -> object:
    rest, value = _decode._DECODE_BY_CONSTRUCTOR[data[0]](memoryview(data)[1:])
    assert len(rest) == 0
    return value


def sdk_encode(value: object) -> bytes:
    out = bytearray()
    _encode.encode_value(out, value)
    return bytes(out)


def as_sdk_reads(value: object) -> object:
    """Return the value as the SDK decodes it: text as bytes, without AMQP types."""
    match value:
        case Described(descriptor, dict() as described):
            return {**map_as_sdk_reads(described), "descriptor": as_sdk_reads(descriptor)}
        case Described():
            return as_sdk_reads(value.value)
        case str():
            return value.encode()
        case list() | Array():
            return [as_sdk_reads(item) for item in value]
        case Mapping():
            return map_as_sdk_reads(value)
        case _:
            return value


def map_as_sdk_reads(value: Mapping[object, object]) -> dict[object, object]:
    return {as_sdk_reads(key): as_sdk_reads(item) for key, item in value.items()}


def as_sdk_writes(value: object) -> object:
    """Return the value as the SDK encodes it: with the name of its type beside it."""
    match value:
        case None:
            return {TYPE: AMQPTypes.null, VALUE: None}
        case Described():
            return {TYPE: AMQPTypes.described, VALUE: (as_sdk_writes(value.descriptor), as_sdk_writes(value.value))}
        case Array():
            return {TYPE: AMQPTypes.array, VALUE: [as_sdk_writes(item) for item in value]}
        case list():
            return {TYPE: AMQPTypes.list, VALUE: [as_sdk_writes(item) for item in value]}
        case dict():
            entries = [(as_sdk_writes(key), as_sdk_writes(item)) for key, item in value.items()]
            return {TYPE: AMQPTypes.map, VALUE: entries}
        case _:
            return {TYPE: SDK_TYPES[type(value)], VALUE: value}


def typed(value: object) -> object:
    """Return the value with its types, so that a comparison includes them."""
    match value:
        case Described():
            return (Described, typed(value.descriptor), typed(value.value))
        case list() | Array():
            return (type(value), [typed(item) for item in value])
        case dict():
            return (dict, [(typed(key), typed(item)) for key, item in value.items()])
        case _:
            return (type(value), value)


@given(readable_values)
@settings(deadline=None, max_examples=200)
def test_the_sdk_decodes_every_value_that_we_encode(value: object) -> None:
    assert sdk_decode(encode(value)) == as_sdk_reads(value)


@given(writable_values)
@settings(deadline=None, max_examples=200)
def test_we_decode_every_value_that_the_sdk_encodes(value: object) -> None:
    written = sdk_encode(as_sdk_writes(value))
    read, end = decode(written)
    assert typed(read) == typed(value)
    assert end == len(written)


@given(st.integers(-(10**9), 10**9), st.integers(-9, 9))
@settings(deadline=None, max_examples=50)
def test_a_decimal_encoded_by_the_sdk_passes_through_unchanged(digits: int, exponent: int) -> None:
    written = sdk_encode(Decimal(digits).scaleb(exponent))
    read, _ = decode(written)
    assert type(read) is Decimal128
    assert encode(read) == written


def frame_as_sdk_reads(value: object) -> object:
    """Return our dataclass as the list of fields that the SDK decodes; a delivery state under its name."""
    match value:
        case tuple():
            return [as_sdk_reads(item) for item in value] or None
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [frame_as_sdk_reads(getattr(value, field.name)) for field in dataclasses.fields(value)]
            return {type(value).__name__.lower(): fields} if isinstance(value, DELIVERY_STATES) else fields
        case _:
            return as_sdk_reads(value)


def with_sdk_defaults(kind: type, fields: object) -> list[object]:
    frame_type: Any = SDK_FRAMES[kind]
    definitions = [field for field in frame_type._definition if field is not None]
    assert isinstance(fields, list)
    assert len(fields) == len(definitions)
    return [field.default if item is None else item for item, field in zip(fields, definitions, strict=True)]


def as_sdk_frame(value: object, payload: bytes) -> Any:
    """Return our dataclass as the SDK's namedtuple."""
    match value:
        case tuple():
            return list(value) or None
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [as_sdk_frame(getattr(value, field.name), payload) for field in dataclasses.fields(value)]
            return SDK_FRAMES[type(value)](*fields, *([payload] if isinstance(value, Transfer) else []))
        case _:
            return value


@pytest.mark.parametrize("kind", strategies.performatives, ids=lambda kind: kind.__name__)
def test_the_sdk_decodes_all_fields_of_every_performative_that_we_encode(kind: type[Performative]) -> None:
    @given(strategies.performatives[kind], st.binary(max_size=20))
    @settings(deadline=None, max_examples=40)
    def check(performative: Performative, payload: bytes) -> None:
        body = encode_frame_body(performative)
        _, fields = _decode.decode_frame(memoryview(body + payload))
        if isinstance(performative, Transfer):
            assert bytes(fields.pop()) == payload
        assert fields == with_sdk_defaults(kind, frame_as_sdk_reads(performative))

    check()


@pytest.mark.parametrize("kind", strategies.performatives, ids=lambda kind: kind.__name__)
def test_we_decode_every_performative_that_the_sdk_encodes(kind: type[Performative]) -> None:
    @given(strategies.performatives[kind], st.binary(max_size=20))
    @settings(deadline=None, max_examples=40)
    def check(performative: Performative, payload: bytes) -> None:
        _, written = _encode.encode_frame(as_sdk_frame(performative, payload))
        assert written is not None
        read, offset = decode_performative(bytes(written))
        assert read == performative
        assert written[offset:] == (payload if isinstance(performative, Transfer) else b"")

    check()


@given(strategies.sasl_frames)
@settings(deadline=None, max_examples=60)
def test_the_sdk_and_we_decode_sasl_frames_alike(frame: SaslFrame) -> None:
    _, fields = _decode.decode_frame(memoryview(encode_frame_body(frame)))
    assert fields == frame_as_sdk_reads(frame)
    _, written = _encode.encode_frame(as_sdk_frame(frame, b""), b"\x01")
    assert written is not None
    assert decode_sasl(bytes(written)) == frame


def test_an_error_is_encoded_with_all_three_fields_even_if_they_are_null() -> None:
    _, fields = _decode.decode_frame(memoryview(encode_frame_body(Disposition(True, 0, 0, True, Rejected(Error("x"))))))
    assert fields[4] == {"rejected": [[b"x", None, None]]}


headers = st.builds(
    message.Header,
    st.none() | st.booleans(),
    st.none() | strategies.unsigned(8),
    st.none() | strategies.unsigned(32),
    st.none() | st.booleans(),
    strategies.unsigned(32),
)
simple = strategies.signed(32) | strategies.strings | st.booleans() | st.binary(max_size=20) | st.uuids()
annotations = st.dictionaries(strategies.ascii_text, simple, min_size=1, max_size=3)
message_ids = st.text(max_size=20) | strategies.unsigned(64).map(ULong) | st.uuids() | st.binary(max_size=20)
properties = st.builds(
    message.Properties,
    message_id=message_ids,
    user_id=st.binary(max_size=20),
    subject=strategies.strings,
    correlation_id=st.none() | message_ids,
    content_type=strategies.ascii_text,
    absolute_expiry_time=st.none() | strategies.signed(64),
    group_id=st.none() | strategies.strings,
    group_sequence=st.none() | strategies.unsigned(32),
)
messages = st.builds(
    message.Message,
    header=headers,
    delivery_annotations=annotations,
    message_annotations=annotations,
    properties=properties,
    application_properties=st.dictionaries(strategies.strings, simple, min_size=1, max_size=3),
    data=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=3),
    sequence=st.none(),
    value=st.none(),
    footer=annotations,
)
SECTION_NAMES = {
    0x70: "header",
    0x71: "delivery_annotations",
    0x72: "message_annotations",
    0x73: "properties",
    0x74: "application_properties",
    0x78: "footer",
}


@given(messages)
@settings(deadline=None, max_examples=60)
def test_we_decode_every_section_of_a_message_that_the_sdk_encodes(sent: message.Message) -> None:
    payload = bytes(_encode.encode_payload(bytearray(), sent))
    data = []
    for code, start, end in split(payload):
        section, decoded_end = decode(payload, start)
        assert isinstance(section, Described)
        assert decoded_end == end
        if code == 0x75:
            data.append(section.value)
        else:
            value = getattr(sent, SECTION_NAMES[code])
            assert section.value == (list(value) if isinstance(value, tuple) else value)
    assert data == sent.data


@given(messages)
@settings(deadline=None, max_examples=60)
def test_the_sdk_decodes_every_section_of_a_message_that_we_encode(sent: message.Message) -> None:
    sections = [
        encode(Described(ULong(code), list(value) if isinstance(value := getattr(sent, name), tuple) else value))
        for code, name in SECTION_NAMES.items()
    ]
    data = list(sent.data or [])
    sections += [encode(Described(ULong(0x75), part)) for part in data]
    read = _decode.decode_payload(memoryview(b"".join(sections)))
    assert read.header == sent.header
    assert list(read.properties or []) == as_sdk_reads(list(sent.properties or []))
    assert read.data == data
    for name in ("delivery_annotations", "message_annotations", "application_properties", "footer"):
        assert getattr(read, name) == as_sdk_reads(getattr(sent, name))
