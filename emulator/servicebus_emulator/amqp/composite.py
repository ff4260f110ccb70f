"""Composite types: described lists whose fields have names, wire types and defaults (part 1, section 1.4).

A composite is a frozen dataclass whose fields are annotated with their wire type. A field is mandatory if it has no
default and cannot be None. The encoder writes all fields, although the specification lets it omit trailing nulls:
some SDKs read trailing fields by index without a check.
"""

import dataclasses
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, get_args, get_type_hints

from servicebus_emulator.amqp import encoder
from servicebus_emulator.amqp.encoder import Writer
from servicebus_emulator.amqp.errors import DecodeError, EncodeError
from servicebus_emulator.amqp.types import Array, Described, Symbol, UByte, ULong, UShort


class Wire(NamedTuple):
    """The reader and the writer of a field type."""

    read: Callable[[object], object]
    write: Writer


class _Field(NamedTuple):
    name: str
    wire: Wire
    default: object
    mandatory: bool


class _Schema(NamedTuple):
    name: str
    build: Callable[..., object]
    head: bytes
    fields: tuple[_Field, ...]


_BY_CLASS: dict[type, _Schema] = {}
_BY_DESCRIPTOR: dict[int | str, _Schema] = {}

C = TypeVar("C", bound=type)


def composite(code: int, symbol: str) -> Callable[[C], C]:
    """Return a decorator that registers a frozen dataclass as the composite type with this descriptor."""

    def register(cls: C) -> C:
        hints = get_type_hints(cls, include_extras=True)
        fields = tuple(_field(field, hints[field.name]) for field in dataclasses.fields(cls))
        schema = _Schema(symbol.split(":")[1], cls, b"\0" + encoder.encode(ULong(code)), fields)
        _BY_CLASS[cls] = _BY_DESCRIPTOR[code] = _BY_DESCRIPTOR[symbol] = schema
        return cls

    return register


def _field(field: "dataclasses.Field[object]", hint: object) -> _Field:
    annotated, wire = get_args(hint)
    has_default = field.default is not dataclasses.MISSING
    mandatory = not has_default and type(None) not in get_args(annotated)
    return _Field(field.name, wire, field.default if has_default else None, mandatory)


def encode_composite(value: object) -> bytes:
    """Encode an instance of a registered class as a described list. Raises EncodeError if a field is out of range."""
    out = bytearray()
    write_composite(out, value)
    return bytes(out)


def write_composite(out: bytearray, value: object) -> None:
    schema = _BY_CLASS[type(value)]
    body = bytearray()
    try:
        for field in schema.fields:
            item = getattr(value, field.name)
            if item is None:
                body.append(encoder.NULL)
            else:
                field.wire.write(body, item)
    except (struct.error, UnicodeEncodeError) as error:
        raise EncodeError(f"{schema.name} has a field out of range: {error}") from error
    out += schema.head
    encoder.write_list_body(out, len(schema.fields), body)


def read_composite(value: object) -> object:
    """Return the composite of a decoded described list. Raises DecodeError if the list is no known composite."""
    if not isinstance(value, Described):
        raise DecodeError(f"expected a described list, got {type(value).__name__}")
    descriptor = value.descriptor
    schema = _BY_DESCRIPTOR.get(descriptor) if isinstance(descriptor, int | str) else None
    if schema is None:
        raise DecodeError("the descriptor is not one of the AMQP types known here")
    if not isinstance(value.value, list):
        raise DecodeError(f"{schema.name} is a list, not {type(value.value).__name__}")
    return schema.build(*_read_fields(schema, value.value))


def _read_fields(schema: _Schema, items: list[object]) -> list[object]:
    if len(items) > len(schema.fields):
        raise DecodeError(f"{schema.name} has {len(schema.fields)} fields at most, not {len(items)}")
    padded = items + [None] * (len(schema.fields) - len(items))
    return [
        _read_field(schema, field, item) if item is not None or field.mandatory else field.default
        for field, item in zip(schema.fields, padded, strict=True)
    ]


def _read_field(schema: _Schema, field: _Field, item: object) -> object:
    if item is None:
        raise DecodeError(f"{schema.name} lacks its field {field.name}")
    try:
        return field.wire.read(item)
    except DecodeError as error:
        raise DecodeError(f"{schema.name}.{field.name}: {error.description}") from error


def _unsigned(bits: int, write: Writer) -> Wire:
    ceiling = (1 << bits) - 1

    def read(value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= ceiling:
            return value
        raise DecodeError(f"expected an unsigned number of {bits} bits")

    return Wire(read, write)


def _instance_of(kind: type, what: str, write: Writer) -> Wire:
    def read(value: object) -> object:
        if isinstance(value, kind):
            return value
        raise DecodeError(f"expected {what}, got {type(value).__name__}")

    return Wire(read, write)


def one_of(*classes: type) -> Wire:
    """Return the wire type of a field that holds one of these composites."""

    def read(value: object) -> object:
        item = read_composite(value)
        if isinstance(item, classes):
            return item
        raise DecodeError(f"{type(item).__name__} has no place here")

    return Wire(read, write_composite)


def _read_fields_map(value: object) -> object:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    raise DecodeError("expected a map with symbols for keys")


def _write_fields_map(out: bytearray, value: Mapping[str, object]) -> None:
    encoder.write_map(out, {Symbol(key): item for key, item in value.items()})


def _read_symbols(value: object) -> object:
    items = value if isinstance(value, Array | list) else (value,)
    if all(isinstance(item, str) for item in items):
        return tuple(items)
    raise DecodeError("expected a symbol or an array of symbols")


def _write_symbols(out: bytearray, value: tuple[str, ...]) -> None:
    if value:
        encoder.write_array(out, Array(Symbol(item) for item in value))
    else:
        encoder.write_null(out)


UBYTE = _unsigned(8, lambda out, value: encoder.write(out, UByte(value)))
USHORT = _unsigned(16, lambda out, value: encoder.write(out, UShort(value)))
UINT = _unsigned(32, encoder.write_uint)
ULONG = _unsigned(64, encoder.write_ulong)
BOOLEAN = _instance_of(bool, "a boolean", encoder.write_boolean)
STRING = _instance_of(str, "a string", encoder.write_string)
SYMBOL = _instance_of(str, "a symbol", encoder.write_symbol)
BINARY = _instance_of(bytes, "binary", encoder.write_binary)
MAP = _instance_of(dict, "a map", encoder.write_map)
FIELDS = Wire(_read_fields_map, _write_fields_map)
"""A map with symbols as keys. Plain strings are encoded as symbols; incoming strings are accepted as they are."""
SYMBOLS = Wire(_read_symbols, _write_symbols)
"""Any number of symbols: on the wire null, one symbol, or an array (field attribute ``multiple``, section 1.4)."""
