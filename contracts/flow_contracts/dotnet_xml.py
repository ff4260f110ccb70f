"""Reads .NET's binary XML of one string or one array of bytes ([MC-NBFX]), as `new BrokeredMessage(text)` writes it.

The body of `new BrokeredMessage("{}")` is the element `string` with the namespace below, and a record of text.
"""

from __future__ import annotations

import re
from typing import Final

_NAMESPACE: Final = b"http://schemas.microsoft.com/2003/10/Serialization/"
_END = 0x01
_STARTS: Final = tuple(
    b"\x40" + bytes([len(name)]) + name + b"\x08" + bytes([len(_NAMESPACE)]) + _NAMESPACE
    for name in (b"string", b"base64Binary")
)
"""The element with its length and name, and the declaration of the namespace."""
_WRONG_LENGTH = re.compile(rb"@.{0,3}(?:string|base64Binary)\x08.{0,3}" + re.escape(_NAMESPACE[:-2]), re.DOTALL)
_EMPTY = 0xA8
_SIZES: Final = {0x98: 1, 0x9A: 2, 0x9C: 4, 0x9E: 1, 0xA0: 2, 0xA2: 4, 0xB6: 1, 0xB8: 2, 0xBA: 4}
"""The bytes of the length, by the record of text: UTF-8, bytes, and UTF-16."""
_UTF_16 = 0xB6
_MAX_RECORDS = 1_000


class NotText(ValueError):
    """The data is the binary XML of something else."""


class DamagedText(NotText):
    """The data is the binary XML of a string or of bytes, but cut off, or with a wrong length."""


def text_of(data: bytes) -> bytes:
    """Return the string in UTF-8, or the bytes. Raises `DamagedText` and `NotText`."""
    for start in _STARTS:
        if data.startswith(start):
            return _content(data, len(start))
        if start.startswith(data):
            raise DamagedText
    raise DamagedText if _WRONG_LENGTH.match(data) else NotText


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
    raise DamagedText


def _piece(data: bytes, record: int, at: int) -> tuple[bytes, int]:
    if record == _EMPTY:
        return b"", at
    width = _SIZES.get(record)
    if width is None:
        raise DamagedText
    start = at + width
    end = start + int.from_bytes(data[at:start], "little")
    if start > len(data) or end > len(data):
        raise DamagedText
    piece = data[start:end]
    if record < _UTF_16:
        return piece, end
    try:
        return piece.decode("utf-16-le").encode(), end
    except UnicodeError:
        raise DamagedText from None
