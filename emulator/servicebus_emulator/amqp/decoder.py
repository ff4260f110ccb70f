"""Decoder: AMQP 1.0 bytes to Python values, within bounds on depth and count (part 1, section 1.6).

The bounds protect the process: a few bytes could otherwise ask for gigabytes, or exhaust the stack.
"""

import struct
import uuid
from collections.abc import Callable

from servicebus_emulator.amqp.errors import DecodeError
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

MAX_NESTING = 64
"""Maximum depth of nested lists, maps, arrays and descriptors. The Azure SDKs have the same limit."""

MAX_ELEMENTS = 65_536
"""Maximum number of elements of one list or array, and of keys plus values of one map."""

MAX_ZERO_WIDTH_ELEMENTS = 32
"""Maximum number of elements of an array whose elements have no bytes: the count alone would cost memory."""

Reader = Callable[[bytes, int, int], tuple[object, int]]
"""Reads the bytes behind a constructor: (data, offset, depth) to (value, next offset)."""

_SIZE32 = struct.Struct(">I")
_COMPOUND32 = struct.Struct(">II")
_DESCRIBED = 0x00
_ZERO_WIDTH = range(0x40, 0x50)


def decode(data: bytes, offset: int = 0) -> tuple[object, int]:
    """Return the value at ``offset``, and the offset after it. Raises DecodeError if the input is malformed.

    No other exception escapes for any input. The readers do not check for the end of the data themselves: one
    handler here is cheaper than a check for each value.
    """
    try:
        return _READERS[data[offset]](data, offset + 1, 0)
    except (IndexError, struct.error) as error:
        raise DecodeError("the data ends in the middle of a value") from error
    except UnicodeDecodeError as error:
        raise DecodeError(f"text is not {error.encoding}: {error.reason}") from error


def _value(data: bytes, offset: int, depth: int) -> tuple[object, int]:
    return _READERS[data[offset]](data, offset + 1, depth)


def _constant(value: object) -> Reader:
    def read_constant(data: bytes, offset: int, depth: int) -> tuple[object, int]:
        return value, offset

    return read_constant


def _read_list0(data: bytes, offset: int, depth: int) -> tuple[object, int]:
    return [], offset


def _read_boolean(data: bytes, offset: int, depth: int) -> tuple[object, int]:
    octet = data[offset]
    if octet > 1:
        raise DecodeError(f"a boolean is 0 or 1, not {octet}")
    return octet == 1, offset + 1


def _fixed(layout: str, kind: type[int] | type[float]) -> Reader:
    shape = struct.Struct(layout)
    unpack, width = shape.unpack_from, shape.size

    def read_fixed(data: bytes, offset: int, depth: int) -> tuple[object, int]:
        return kind(unpack(data, offset)[0]), offset + width

    return read_fixed


def _slice(data: bytes, start: int, end: int) -> bytes:
    if end > len(data):
        raise DecodeError(f"a value of {end - start} bytes has only {max(0, len(data) - start)} left")
    return data[start:end]


def _raw(width: int, kind: Callable[[bytes], object]) -> Reader:
    def read_raw(data: bytes, offset: int, depth: int) -> tuple[object, int]:
        end = offset + width
        return kind(_slice(data, offset, end)), end

    return read_raw


def _variable8(kind: Callable[[bytes], object]) -> Reader:
    def read_variable8(data: bytes, offset: int, depth: int) -> tuple[object, int]:
        end = offset + 1 + data[offset]
        return kind(_slice(data, offset + 1, end)), end

    return read_variable8


def _variable32(kind: Callable[[bytes], object]) -> Reader:
    def read_variable32(data: bytes, offset: int, depth: int) -> tuple[object, int]:
        start = offset + 4
        end = start + _SIZE32.unpack_from(data, offset)[0]
        return kind(_slice(data, start, end)), end

    return read_variable32


def _extent8(data: bytes, offset: int, depth: int) -> tuple[int, int, int]:
    """Return the number of elements of a compound, their start and their end."""
    return _checked(data, data[offset + 1], offset + 2, offset + 1 + data[offset], depth)


def _extent32(data: bytes, offset: int, depth: int) -> tuple[int, int, int]:
    size, count = _COMPOUND32.unpack_from(data, offset)
    return _checked(data, count, offset + 8, offset + 4 + size, depth)


def _checked(data: bytes, count: int, start: int, end: int, depth: int) -> tuple[int, int, int]:
    if depth > MAX_NESTING:
        raise DecodeError(f"values are nested more than {MAX_NESTING} deep")
    if count > MAX_ELEMENTS:
        raise DecodeError(f"{count} elements in one value, {MAX_ELEMENTS} at most")
    if not start <= end <= len(data):
        raise DecodeError("the size of a list, map or array does not fit the data")
    return count, start, end


Extent = Callable[[bytes, int, int], tuple[int, int, int]]


def _items(data: bytes, extent: Extent, offset: int, depth: int) -> tuple[list[object], int]:
    count, offset, end = extent(data, offset, depth)
    items = []
    for _ in range(count):
        if offset >= end:
            raise DecodeError("a list or map has fewer elements than it says")
        item, offset = _READERS[data[offset]](data, offset + 1, depth)
        items.append(item)
    if offset != end:
        raise DecodeError("the elements of a list or map do not fill its size")
    return items, end


def _list(extent: Extent) -> Reader:
    def read_list(data: bytes, offset: int, depth: int) -> tuple[object, int]:
        return _items(data, extent, offset, depth + 1)

    return read_list


def _map(extent: Extent) -> Reader:
    def read_map(data: bytes, offset: int, depth: int) -> tuple[object, int]:
        items, end = _items(data, extent, offset, depth + 1)
        if len(items) % 2:
            raise DecodeError("a map has a key without a value")
        try:
            return dict(zip(items[::2], items[1::2], strict=True)), end
        except TypeError as error:
            raise DecodeError("a list or map as the key of a map is not supported") from error

    return read_map


def _array(extent: Extent) -> Reader:
    def read_array(data: bytes, offset: int, depth: int) -> tuple[object, int]:
        depth += 1
        count, offset, end = extent(data, offset, depth)
        if count == 0:
            # Some peers omit the constructor of an empty array.
            return Array(), end
        # An array of described values has the descriptor once, before the constructor of all elements
        # (part 1, section 1.2). Descriptors may nest, so this is a loop.
        descriptors: list[object] = []
        while data[offset] == _DESCRIBED:
            descriptor, offset = _value(data, offset + 1, depth + len(descriptors))
            descriptors.append(descriptor)
            if depth + len(descriptors) > MAX_NESTING:
                raise DecodeError(f"values are nested more than {MAX_NESTING} deep")
        elements, offset = _array_elements(data, offset, count, end, depth)
        if offset != end:
            raise DecodeError("the elements of an array do not fill its size")
        for descriptor in reversed(descriptors):
            elements = [Described(descriptor, element) for element in elements]
        return Array(elements), end

    return read_array


def _array_elements(data: bytes, offset: int, count: int, end: int, depth: int) -> tuple[list[object], int]:
    constructor = data[offset]
    offset += 1
    if constructor in _ZERO_WIDTH and count > MAX_ZERO_WIDTH_ELEMENTS:
        raise DecodeError(f"an array of {count} elements without bytes, {MAX_ZERO_WIDTH_ELEMENTS} at most")
    read = _READERS[constructor]
    elements = []
    for _ in range(count):
        element, offset = read(data, offset, depth)
        if offset > end:
            raise DecodeError("the elements of an array overrun its size")
        elements.append(element)
    return elements, offset


def _read_described(data: bytes, offset: int, depth: int) -> tuple[object, int]:
    depth += 1
    if depth > MAX_NESTING:
        raise DecodeError(f"values are nested more than {MAX_NESTING} deep")
    descriptor, offset = _value(data, offset, depth)
    value, offset = _value(data, offset, depth)
    return Described(descriptor, value), offset


def _unknown(data: bytes, offset: int, depth: int) -> tuple[object, int]:
    raise DecodeError("a constructor that AMQP does not define")


def _binary(data: bytes) -> bytes:
    return data


def _string(data: bytes) -> str:
    return data.decode()


def _symbol(data: bytes) -> Symbol:
    return Symbol(data.decode("ascii"))


def _char(data: bytes) -> Char:
    return Char(data.decode("utf-32-be"))


def _uuid(data: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=data)


_KNOWN: dict[int, Reader] = {
    _DESCRIBED: _read_described,
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(UInt(0)),
    0x44: _constant(ULong(0)),
    0x45: _read_list0,
    0x50: _fixed(">B", UByte),
    0x51: _fixed(">b", Byte),
    0x52: _fixed(">B", UInt),
    0x53: _fixed(">B", ULong),
    0x54: _fixed(">b", Int),
    0x55: _fixed(">b", Long),
    0x56: _read_boolean,
    0x60: _fixed(">H", UShort),
    0x61: _fixed(">h", Short),
    0x70: _fixed(">I", UInt),
    0x71: _fixed(">i", Int),
    0x72: _fixed(">f", Float32),
    0x73: _raw(4, _char),
    0x74: _raw(4, Decimal32),
    0x80: _fixed(">Q", ULong),
    0x81: _fixed(">q", Long),
    0x82: _fixed(">d", float),
    0x83: _fixed(">q", Timestamp),
    0x84: _raw(8, Decimal64),
    0x94: _raw(16, Decimal128),
    0x98: _raw(16, _uuid),
    0xA0: _variable8(_binary),
    0xA1: _variable8(_string),
    0xA3: _variable8(_symbol),
    0xB0: _variable32(_binary),
    0xB1: _variable32(_string),
    0xB3: _variable32(_symbol),
    0xC0: _list(_extent8),
    0xC1: _map(_extent8),
    0xD0: _list(_extent32),
    0xD1: _map(_extent32),
    0xE0: _array(_extent8),
    0xF0: _array(_extent32),
}

_READERS: list[Reader] = [_KNOWN.get(constructor, _unknown) for constructor in range(256)]
