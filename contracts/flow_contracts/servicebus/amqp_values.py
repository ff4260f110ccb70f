"""Decodes AMQP values that a stranger encoded (AMQP 1.0 part 1), within bounds for their number and their nesting.

The SDK's decoder fails the whole message, and with it the link, for one value that it does not know. It also takes a
second or more for a megabyte of small values. This decoder raises one error, `BadValue`, and the caller leaves out the
part that caused it.

Texts and symbols stay bytes, as the SDK's decoder leaves them.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from decimal import Decimal

MAX_DEPTH = 64
"""The levels of nesting of one value, as in the SDKs of Azure."""

_DESCRIBED = 0x00
_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
"""Bytes of a value by the first half of its format code (AMQP 1.0 part 1, 1.2)."""
_SIZES = {0xA: 1, 0xB: 4, 0xC: 1, 0xD: 4, 0xE: 1, 0xF: 4}
"""Bytes of the size that precedes a longer value."""
_WIDTH_OF = [_WIDTHS.get(code >> 4, -_SIZES.get(code >> 4, 0) or None) for code in range(256)]
"""For each format code the bytes of its value, or the negative number of bytes of its size; None for no format code."""
_EMPTY_LIST, _LISTS, _MAPS, _ARRAYS = 0x45, (0xC0, 0xD0), (0xC1, 0xD1), (0xE0, 0xF0)
_MAX_CONSTRUCTORS = 9
"""The constructors of one value: four descriptors at most. Types of Service Bus have one, for example the TimeSpan."""
_MAX_SIMPLE = 4
"""The values of a described property."""
_CUT_OFF = 0x3F
"""No format code, in the place of one that is missing."""
TEXT_CODES = frozenset((0xA1, 0xB1, 0xA3, 0xB3))
"""Format codes of strings and symbols."""
SYMBOL_CODES = frozenset((0xA3, 0xB3))


class BadValue(Exception):
    """The bytes are no AMQP value, or one that this decoder does not take; the text says why."""


class ValueDecoder:
    """Decodes values of one message, up to `max_values` of them."""

    def __init__(self, data: bytes, max_values: int) -> None:
        self._data = data
        self._left = max_values

    def value(self, at: int, end: int, depth: int = 0) -> tuple[object, int]:
        """Return the value at `at` and the index after it; a described value loses its descriptor.

        The value must end at `end` or before. Raises `BadValue`.
        """
        if at >= end:
            raise BadValue("the value is cut off")
        code = self._data[at]
        if code != _DESCRIBED:
            return self._content(code, at + 1, end, depth)
        self._count_one()
        if depth >= MAX_DEPTH:
            raise BadValue("the value is nested too deeply")
        return self.value(end_of(self._data, at + 1, end), end, depth + 1)

    def _count_one(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BadValue("the message has too many values")

    def _content(self, code: int, at: int, end: int, depth: int) -> tuple[object, int]:
        """Return the value of this format code whose size, or content, begins at `at`."""
        self._count_one()
        start, stop = _extent(self._data, code, at, end)
        scalar = _SCALARS.get(code)
        if scalar is not None:
            return scalar(self._data[start:stop]), stop
        if depth >= MAX_DEPTH:
            raise BadValue("the value is nested too deeply")
        return self._compound(code, start, stop, depth + 1), stop

    def _compound(self, code: int, start: int, stop: int, depth: int) -> object:
        if code == _EMPTY_LIST:
            return []
        if code in _LISTS:
            return self._list(*_count(self._data, code, start, stop), stop, depth)
        if code in _MAPS:
            return self._map(*_count(self._data, code, start, stop), stop, depth)
        if code in _ARRAYS:
            return self._array(*_count(self._data, code, start, stop), stop, depth)
        raise BadValue(f"no AMQP value has the format code 0x{code:02x}")

    def _list(self, count: int, at: int, stop: int, depth: int) -> list[object]:
        items = []
        for _ in range(count):
            item, at = self.value(at, stop, depth)
            items.append(item)
        return items

    def _map(self, count: int, at: int, stop: int, depth: int) -> dict[bytes, object]:
        """Return a map with bytes as keys: Python salts their hashes, so no sender can choose keys that collide."""
        if count % 2:
            raise BadValue("a map has a key without a value")
        items = {}
        for _ in range(count // 2):
            key, at = self.value(at, stop, depth)
            item, at = self.value(at, stop, depth)
            if isinstance(key, list | dict):
                raise BadValue("a key of a map is a list, a map or an array")
            items[key if isinstance(key, bytes) else str(key).encode()] = item
        return items

    def _array(self, count: int, at: int, stop: int, depth: int) -> list[object]:
        """Return the elements of an array, which share one constructor. Elements may have no bytes at all."""
        if not count:
            return []
        if at < stop and self._data[at] == _DESCRIBED:
            at = end_of(self._data, at + 1, stop)
        if at >= stop:
            raise BadValue("an array has no constructor")
        code, at = self._data[at], at + 1
        if code == _DESCRIBED:
            raise BadValue("an array has a constructor with two descriptors")
        items = []
        for _ in range(count):
            item, at = self._content(code, at, stop, depth)
            items.append(item)
        return items


def end_of(data: bytes, at: int, end: int) -> int:
    """Return the index after the value at `at`; lists and maps are skipped by their size. Raises `BadValue`."""
    values = 1  # a loop instead of recursion, for descriptors of descriptors
    for _ in range(_MAX_CONSTRUCTORS):
        if at >= end:
            break
        code = data[at]
        at += 1
        if code == _DESCRIBED:  # a descriptor and a value take its place
            values += 1
            continue
        _, at = _extent(data, code, at, end)
        values -= 1
        if not values:
            return at
    raise BadValue("the value is cut off, or described too often")


def _extent(data: bytes, code: int, at: int, end: int) -> tuple[int, int]:
    """Return where the content of a value begins and ends; at `at` its size or its content begins."""
    width = _WIDTH_OF[code]
    if width is None:
        raise BadValue(f"no AMQP value has the format code 0x{code:02x}")
    if width == -1:
        if at >= end:
            raise BadValue("the value is cut off")
        width = data[at]
        at += 1
    elif width < 0:
        start = at - width
        at, width = start, int.from_bytes(data[at:start], "big")
    if at + width > end:
        raise BadValue("the value is cut off")
    return at, at + width


def _count(data: bytes, code: int, start: int, stop: int) -> tuple[int, int]:
    """Return the number of items of a list, map or array, and the index of the first item. Raises `BadValue`."""
    if code == _EMPTY_LIST:
        return 0, start
    width = _SIZES[code >> 4]
    if start + width > stop:
        raise BadValue("the value is cut off")
    return int.from_bytes(data[start : start + width], "big"), start + width


def simple_items(
    data: bytes, at: int, end: int, codes: tuple[int, ...], most: int
) -> tuple[list[tuple[int, object]], bool]:
    """Return the format code and the value of each item of the list or map at `at`, and whether that is all of it.

    A bad item, a list, a map or an array is None, and then that is not all. The items end at the first `most`, and
    where nothing says where the next item begins. There are no items if the value at `at` has none of `codes`.

    Every message takes this way four times, so it decodes the frequent types in place.
    """
    items: list[tuple[int, object]] = []
    code = data[at]
    if code not in codes:
        return items, False
    try:
        at, end = _extent(data, code, at + 1, end)
        count, at = _count(data, code, at, end)
        is_all = count <= most
        for _ in range(min(count, most)):
            code = data[at] if at < end else _CUT_OFF
            scalar = _SCALARS.get(code)
            if scalar is None or scalar is _character:  # the one scalar with bad values
                start, at = at, end_of(data, at, end)
                value, is_simple = _simple(data, start, at)
                is_all = is_all and is_simple
                items.append((code, value))
            else:
                start, at = _extent(data, code, at + 1, end)
                items.append((code, scalar(data[start:at])))
    except BadValue:
        return items, False
    return items, is_all


def _simple(data: bytes, at: int, end: int) -> tuple[object, bool]:
    """Return the value at `at` and True; None and False if it is bad, or a list, a map or an array."""
    try:
        value, _ = ValueDecoder(data, _MAX_SIMPLE).value(at, end)
    except BadValue:
        return None, False
    is_simple = not isinstance(value, list | dict)
    return value if is_simple else None, is_simple


# --- scalars -------------------------------------------------------------------------------------------------------


def _unsigned(content: bytes) -> int:
    return int.from_bytes(content, "big")


def _signed(content: bytes) -> int:
    return int.from_bytes(content, "big", signed=True)


def _character(content: bytes) -> str:
    try:
        return content.decode("utf-32-be")
    except UnicodeDecodeError:
        raise BadValue("a char is no Unicode character") from None


def _decimal(content: bytes) -> Decimal:
    """Return an IEEE 754 decimal in the binary encoding (AMQP 1.0 part 1, 1.6.13 to 1.6.15)."""
    bits = 8 * len(content)
    exponent_bits, bias = {32: (8, 101), 64: (10, 398), 128: (14, 6176)}[bits]
    number = int.from_bytes(content, "big")
    sign = number >> (bits - 1)
    combination = number >> (bits - 6) & 0b11111
    if combination >= 0b11110:
        return Decimal("NaN") if combination == 0b11111 else Decimal("-Infinity" if sign else "Infinity")
    coefficient_bits = bits - 1 - exponent_bits
    coefficient = number & (1 << coefficient_bits) - 1
    if combination >= 0b11000:  # the exponent stands two bits further, and the coefficient has an implicit 0b100
        coefficient_bits -= 2
        coefficient = 0b100 << coefficient_bits | number & (1 << coefficient_bits) - 1
    exponent = (number >> coefficient_bits & (1 << exponent_bits) - 1) - bias
    return Decimal(f"{'-' if sign else ''}{coefficient}E{exponent}")


_SCALARS: dict[int, Callable[[bytes], object]] = {
    0x40: lambda _: None,
    0x41: lambda _: True,
    0x42: lambda _: False,
    0x43: lambda _: 0,
    0x44: lambda _: 0,
    0x50: _unsigned,
    0x51: _signed,
    0x52: _unsigned,
    0x53: _unsigned,
    0x54: _signed,
    0x55: _signed,
    0x56: lambda content: content == b"\x01",
    0x60: _unsigned,
    0x61: _signed,
    0x70: _unsigned,
    0x71: _signed,
    0x72: lambda content: struct.unpack(">f", content)[0],
    0x73: _character,
    0x74: _decimal,
    0x80: _unsigned,
    0x81: _signed,
    0x82: lambda content: struct.unpack(">d", content)[0],
    0x83: _signed,
    0x84: _decimal,
    0x94: _decimal,
    0x98: lambda content: uuid.UUID(bytes=content),
    **dict.fromkeys((160, 161, 163, 176, 177, 179), bytes),
}
