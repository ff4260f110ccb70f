"""Encoder: Python values to AMQP 1.0 bytes, each in its shortest form (part 1, section 1.6)."""

import struct
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from servicebus_emulator.amqp.errors import EncodeError
from servicebus_emulator.amqp.types import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
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
)

Writer = Callable[[bytearray, Any], None]
"""Appends one value. The type is Any because the dispatch table below matches values and writers by class."""

NULL = 0x40
_DESCRIBED = 0x00
_TRUE, _FALSE = 0x41, 0x42
_LIST0, _LIST8, _LIST32 = 0x45, 0xC0, 0xD0
_MAP8, _MAP32 = 0xC1, 0xD1
_ARRAY8, _ARRAY32 = 0xE0, 0xF0

_TAGGED_UINT = struct.Struct(">BI")
_TAGGED_ULONG = struct.Struct(">BQ")
_TAGGED_INT = struct.Struct(">Bi")
_TAGGED_LONG = struct.Struct(">Bq")
_TAGGED_COMPOUND = struct.Struct(">BII")
_SIZE32 = struct.Struct(">I")
_COMPOUND32 = struct.Struct(">II")


def encode(value: object) -> bytes:
    """Encode ``value``. Raises EncodeError if its type or its size has no AMQP form."""
    out = bytearray()
    write(out, value)
    return bytes(out)


def write(out: bytearray, value: object) -> None:
    """Append ``value`` with its constructor. Raises EncodeError; ``out`` then holds a partial value: discard it."""
    writer = _WRITERS.get(type(value)) or _WRITERS[_amqp_type(value)]
    try:
        writer(out, value)
    except (struct.error, UnicodeEncodeError) as error:
        raise EncodeError(f"{type(value).__name__} does not fit its AMQP type: {error}") from error


def _amqp_type(value: object) -> type:
    """Return the class whose writer encodes ``value``: its own class, or the nearest base that has a writer."""
    for base in type(value).__mro__:
        if base in _WRITERS:
            return base
    raise EncodeError(f"no AMQP type for a Python {type(value).__name__}")


def write_null(out: bytearray, value: None = None) -> None:
    out.append(NULL)


def write_boolean(out: bytearray, value: bool) -> None:
    out.append(_TRUE if value else _FALSE)


def write_uint(out: bytearray, value: int) -> None:
    if 0 < value <= 0xFF:
        out.append(0x52)
        out.append(value)
    elif value == 0:
        out.append(0x43)
    else:
        out += _TAGGED_UINT.pack(0x70, value)


def write_ulong(out: bytearray, value: int) -> None:
    if 0 < value <= 0xFF:
        out.append(0x53)
        out.append(value)
    elif value == 0:
        out.append(0x44)
    else:
        out += _TAGGED_ULONG.pack(0x80, value)


def _write_int(out: bytearray, value: int) -> None:
    if -0x80 <= value <= 0x7F:
        out.append(0x54)
        out.append(value & 0xFF)
    else:
        out += _TAGGED_INT.pack(0x71, value)


def _write_long(out: bytearray, value: int) -> None:
    if -0x80 <= value <= 0x7F:
        out.append(0x55)
        out.append(value & 0xFF)
    else:
        out += _TAGGED_LONG.pack(0x81, value)


def _write_variable(out: bytearray, code8: int, data: bytes) -> None:
    """Write a variable-width value. The 32-bit constructor of every such type is 0x10 above the 8-bit one."""
    if len(data) <= 0xFF:
        out.append(code8)
        out.append(len(data))
    else:
        out += _TAGGED_UINT.pack(code8 + 0x10, len(data))
    out += data


def write_binary(out: bytearray, value: bytes) -> None:
    _write_variable(out, 0xA0, value)


def write_string(out: bytearray, value: str) -> None:
    _write_variable(out, 0xA1, value.encode())


def write_symbol(out: bytearray, value: str) -> None:
    _write_variable(out, 0xA3, value.encode("ascii"))


def write_compound(out: bytearray, code8: int, count: int, body: bytearray) -> None:
    """Write a list, map or array from its encoded elements. The 32-bit constructor is 0x10 above the 8-bit one."""
    if len(body) < 0xFF and count <= 0xFF:
        out += bytes((code8, len(body) + 1, count))
    else:
        out += _TAGGED_COMPOUND.pack(code8 + 0x10, len(body) + 4, count)
    out += body


def write_list_body(out: bytearray, count: int, body: bytearray) -> None:
    """Write a list of ``count`` elements that are encoded already."""
    if count:
        write_compound(out, _LIST8, count, body)
    else:
        out.append(_LIST0)


def _write_list(out: bytearray, value: Iterable[object]) -> None:
    items = list(value)
    write_list_body(out, len(items), _elements(items))


def write_map(out: bytearray, value: Mapping[object, object]) -> None:
    write_compound(out, _MAP8, 2 * len(value), _entries(value))


def _elements(items: Iterable[object]) -> bytearray:
    body = bytearray()
    for item in items:
        write(body, item)
    return body


def _entries(value: Mapping[object, object]) -> bytearray:
    return _elements(part for entry in value.items() for part in entry)


def write_described(out: bytearray, value: Described) -> None:
    out.append(_DESCRIBED)
    write(out, value.descriptor)
    write(out, value.value)


def write_array(out: bytearray, value: Array) -> None:
    body = bytearray()
    _write_array_elements(body, value)
    write_compound(out, _ARRAY8, len(value), body)


def _write_array_elements(body: bytearray, items: tuple[object, ...]) -> None:
    """Write one constructor, then the elements without constructors. An empty array is an array of nulls."""
    kind = _one_type(items)
    if kind is Described:
        described = [item for item in items if isinstance(item, Described)]
        if any(item.descriptor != described[0].descriptor for item in described):
            raise EncodeError("the elements of an array have one and the same descriptor")
        body.append(_DESCRIBED)
        write(body, described[0].descriptor)
        _write_array_elements(body, tuple(item.value for item in described))
        return
    constructor, write_element = _WIDE[kind]
    body.append(constructor)
    for item in items:
        write_element(body, item)


def _one_type(items: tuple[object, ...]) -> type:
    kinds = {_amqp_type(item) for item in items} or {type(None)}
    if len(kinds) > 1:
        raise EncodeError(f"an array has elements of one type, not of {sorted(kind.__name__ for kind in kinds)}")
    return kinds.pop()


def _packed(layout: str) -> Writer:
    pack = struct.Struct(layout).pack

    def write_packed(out: bytearray, value: float) -> None:
        out += pack(value)

    return write_packed


def _raw(width: int) -> Writer:
    def write_raw(out: bytearray, value: bytes) -> None:
        if len(value) != width:
            raise EncodeError(f"{type(value).__name__} has {width} bytes, not {len(value)}")
        out += value

    return write_raw


def _sized(to_bytes: Callable[[Any], bytes]) -> Writer:
    def write_sized(out: bytearray, value: object) -> None:
        data = to_bytes(value)
        out += _SIZE32.pack(len(data))
        out += data

    return write_sized


def _counted(elements: Callable[[Any], bytearray], per_item: int = 1) -> Writer:
    def write_counted(out: bytearray, value: Any) -> None:
        body = elements(value)
        out += _COMPOUND32.pack(len(body) + 4, per_item * len(value))
        out += body

    return write_counted


def _array_elements(value: Array) -> bytearray:
    body = bytearray()
    _write_array_elements(body, value)
    return body


def _tagged(kind: type) -> Writer:
    """Return the writer of a type that has one form only: its constructor, then its bytes."""
    constructor, write_element = _WIDE[kind]

    def write_tagged(out: bytearray, value: object) -> None:
        out.append(constructor)
        write_element(out, value)

    return write_tagged


_WIDE: dict[type, tuple[int, Writer]] = {
    type(None): (NULL, lambda out, value: None),
    bool: (0x56, _packed(">?")),
    UByte: (0x50, _packed(">B")),
    UShort: (0x60, _packed(">H")),
    UInt: (0x70, _packed(">I")),
    ULong: (0x80, _packed(">Q")),
    Byte: (0x51, _packed(">b")),
    Short: (0x61, _packed(">h")),
    Int: (0x71, _packed(">i")),
    Long: (0x81, _packed(">q")),
    int: (0x81, _packed(">q")),
    Float32: (0x72, _packed(">f")),
    float: (0x82, _packed(">d")),
    Decimal32: (0x74, _raw(4)),
    Decimal64: (0x84, _raw(8)),
    Decimal128: (0x94, _raw(16)),
    Char: (0x73, lambda out, value: _raw(4)(out, value.encode("utf-32-be"))),
    Timestamp: (0x83, _packed(">q")),
    uuid.UUID: (0x98, lambda out, value: out.extend(value.bytes)),
    bytes: (0xB0, _sized(bytes)),
    bytearray: (0xB0, _sized(bytes)),
    memoryview: (0xB0, _sized(bytes)),
    str: (0xB1, _sized(str.encode)),
    Symbol: (0xB3, _sized(lambda value: value.encode("ascii"))),
    list: (_LIST32, _counted(_elements)),
    tuple: (_LIST32, _counted(_elements)),
    dict: (_MAP32, _counted(_entries, per_item=2)),
    Array: (_ARRAY32, _counted(_array_elements)),
}
"""For each type, the constructor that fits every value: the elements of an array share one constructor."""

_WRITERS: dict[type, Writer] = {kind: _tagged(kind) for kind in _WIDE} | {
    type(None): write_null,
    bool: write_boolean,
    UInt: write_uint,
    ULong: write_ulong,
    Int: _write_int,
    Long: _write_long,
    int: _write_long,
    bytes: write_binary,
    str: write_string,
    Symbol: write_symbol,
    list: _write_list,
    tuple: _write_list,
    dict: write_map,
    Array: write_array,
    Described: write_described,
}
