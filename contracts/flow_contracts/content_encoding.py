"""Decompresses a body from outside piece by piece: bounded in size, and complete or refused."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from enum import Enum

_PIECE_BYTES = 64 * 1024
_MAX_MEMBERS = 1000
"""gzip members of one body. An empty one takes 20 bytes, and more time than bytes of a long member."""
GZIP_MAGIC = b"\x1f\x8b"
_WORD = re.compile(r"[\w-]+")
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Encoding(Enum):
    """The encodings that the worker decodes; it asks flows for them."""

    IDENTITY = "identity"
    GZIP = "gzip"
    DEFLATE = "deflate"


ACCEPT_ENCODING = f"{Encoding.GZIP.value}, {Encoding.DEFLATE.value}"


_REGISTERED = frozenset(
    {
        *("aes128gcm", "br", "brotli", "bzip2", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "lz4", "lzma"),
        *("pack200-gzip", "sdch", "snappy", "x-bzip2", "x-compress", "x-gzip", "xz", "zstd"),
    }
)
"""The codings of the IANA registry and those in use beside it. Any other name is a mistake for a plain body."""


class UnsupportedEncoding(Exception):
    """The body has another coding, or more than one. Each further one multiplies what a few bytes can become."""


class IncompleteBody(Exception):
    """The compressed body is cut off or damaged: half a body."""


class BodyTooLarge(Exception):
    """The decompressed body is larger than the worker reads."""


def encoding_of(content_encodings: Iterable[str], transfer_encodings: Iterable[str] = ()) -> Encoding:
    """Return the one encoding that the headers name, each in any number of lines. Raises `UnsupportedEncoding`.

    Flows also send names that are no coding, such as `utf-8`, `none` or `binary`: their bodies are plain.
    """
    names = [*_names(content_encodings), *_names(transfer_encodings)]
    applied = [name for name in names if _REGISTERED.intersection(_WORD.findall(name))]
    match applied:
        case []:
            return Encoding.IDENTITY
        case ["gzip" | "x-gzip"]:
            return Encoding.GZIP
        case ["deflate"]:
            return Encoding.DEFLATE
        case _:
            raise UnsupportedEncoding


def _names(headers: Iterable[str]) -> list[str]:
    return [name.strip().lower() for header in headers for name in header.split(",")]


def decompress(data: bytes, encoding: Encoding, max_bytes: int) -> bytes:
    """Return the decompressed body. Raises `IncompleteBody` and `BodyTooLarge`."""
    match encoding:
        case Encoding.IDENTITY:
            return data
        case Encoding.GZIP:
            return _gzip(data, max_bytes)
        case Encoding.DEFLATE:
            return _deflate(data, max_bytes)


def _gzip(data: bytes, max_bytes: int) -> bytes:
    """Decompress all members (RFC 1952, 2.2). Zeros may follow the last one, and nothing else may."""
    members: list[bytes] = []
    end, left = 0, max_bytes
    for _ in range(_MAX_MEMBERS):
        member, end = _member(data, end, _GZIP, left)
        members.append(member)
        left -= len(member)
        if not data.startswith(GZIP_MAGIC, end):
            break
    if data[end:].strip(b"\0"):
        raise IncompleteBody
    return b"".join(members)


def _deflate(data: bytes, max_bytes: int) -> bytes:
    """Decompress the zlib format (RFC 9110, 8.4.1.2), or the bare deflate data that some servers send instead."""
    try:
        body, end = _member(data, 0, _ZLIB, max_bytes)
    except _Damaged:
        body, end = _member(data, 0, _RAW, max_bytes)
    if end != len(data):
        raise IncompleteBody
    return body


class _Damaged(IncompleteBody):
    """The data does not have the format, while a body that is cut off may have it."""


def _member(data: bytes, start: int, window_bits: int, max_bytes: int) -> tuple[bytes, int]:
    """Return the content of the compressed member that begins at `start`, and the place of its end."""
    stream = zlib.decompressobj(window_bits)
    pieces: list[bytes] = []
    size = 0
    for begin in range(start, len(data), _PIECE_BYTES):
        # In pieces, because zlib copies the data that a step leaves over.
        pending = data[begin : begin + _PIECE_BYTES]
        end = begin + len(pending)
        piece = b""
        # A full piece may leave output in zlib's buffer although no input is left.
        while (pending or len(piece) == _PIECE_BYTES) and not stream.eof:
            try:
                piece = stream.decompress(pending, _PIECE_BYTES)
            except zlib.error:
                raise _Damaged from None
            pending = stream.unconsumed_tail
            size += len(piece)
            if size > max_bytes:
                raise BodyTooLarge
            pieces.append(piece)
        if stream.eof:
            return b"".join(pieces), end - len(stream.unused_data)
    raise IncompleteBody
