"""Reads .NET's binary XML of one string or one array of bytes ([MC-NBFX]), as `new BrokeredMessage(text)` writes it.

The body of `new BrokeredMessage("{}")` is the element `string` with the namespace below, and a record of text.
"""

from __future__ import annotations

from typing import Final

_NAMESPACE: Final = b"http://schemas.microsoft.com/2003/10/Serialization/"
_ELEMENT, _XMLNS, _END = 0x40, 0x08, 0x01
_NAMES: Final = frozenset({b"string", b"base64Binary"})
_EMPTY = 0xA8
_SIZES: Final = {0x98: 1, 0x9A: 2, 0x9C: 4, 0x9E: 1, 0xA0: 2, 0xA2: 4, 0xB6: 1, 0xB8: 2, 0xBA: 4}
"""The bytes of the length, by the record of text: UTF-8, bytes, and UTF-16."""
_UTF_16 = 0xB6
_MAX_RECORDS = 1_000


class NotText(ValueError):
    """The data is the binary XML of something else, or damaged."""


def text_of(data: bytes) -> bytes:
    """Return the string in UTF-8, or the bytes. Raises `NotText`."""
    if data[:1] != bytes([_ELEMENT]):
        raise NotText
    name, at = _counted(data, 1)
    if name not in _NAMES or data[at : at + 1] != bytes([_XMLNS]):
        raise NotText
    namespace, at = _counted(data, at + 1)
    if namespace != _NAMESPACE:
        raise NotText
    return _content(data, at)


def _content(data: bytes, at: int) -> bytes:
    """Return the content of all records of text up to the end of the element, which is the end of the data."""
    pieces: list[bytes] = []
    for _ in range(_MAX_RECORDS):
        if at >= len(data):
            break
        record, at = data[at], at + 1
        ends = record == _END or record & 1 == 1
        if record != _END:
            piece, at = _piece(data, record & ~1, at)
            pieces.append(piece)
        if ends:
            if at != len(data):
                break
            return b"".join(pieces)
    raise NotText


def _piece(data: bytes, record: int, at: int) -> tuple[bytes, int]:
    if record == _EMPTY:
        return b"", at
    width = _SIZES.get(record)
    if width is None:
        raise NotText
    start = at + width
    end = start + int.from_bytes(data[at:start], "little")
    if start > len(data) or end > len(data):
        raise NotText
    piece = data[start:end]
    if record < _UTF_16:
        return piece, end
    try:
        return piece.decode("utf-16-le").encode(), end
    except UnicodeError:
        raise NotText from None


def _counted(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the text whose length precedes it in groups of seven bits, and the index after it."""
    length = 0
    for shift in (0, 7, 14):
        if at >= len(data):
            break
        length |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            if at + length > len(data):
                break
            return data[at : at + length], at + length
    raise NotText
