"""Protocol headers and frames in a stream of bytes (part 2, sections 2.2 and 2.3)."""

import struct
from typing import NamedTuple

from servicebus_emulator.amqp.errors import FRAMING_ERROR, AmqpError

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"

AMQP_FRAME = 0
SASL_FRAME = 1

HEADER_SIZE = 8
"""Bytes of a frame's header, and of a protocol header."""

_HEADER = struct.Struct(">IBBH")
_DATA_OFFSET = 2


class ProtocolHeader(NamedTuple):
    """The eight bytes in which each end names its protocol, or fewer bytes that cannot start such a header."""

    data: bytes


class Frame(NamedTuple):
    """``kind`` is AMQP_FRAME or SASL_FRAME; an empty body is a heartbeat."""

    kind: int
    channel: int
    body: bytes


def frame_header(body_size: int, channel: int, kind: int = AMQP_FRAME) -> bytes:
    """Return the header of a frame whose body has ``body_size`` bytes."""
    return _HEADER.pack(HEADER_SIZE + body_size, _DATA_OFFSET, kind, channel)


class FrameDecoder:
    """Splits a stream of bytes, fed in pieces of any size, into protocol headers and frames.

    The decoder holds at most one partial frame beside the bytes that were fed last.
    """

    def __init__(self, max_frame_size: int) -> None:
        self._max_frame_size = max_frame_size
        self._buffer = bytearray()
        self._position = 0
        self._header_is_due = True

    def expect_header(self) -> None:
        """Read the next bytes as a protocol header instead of a frame."""
        self._header_is_due = True

    def feed(self, data: bytes) -> None:
        """Add bytes. Consumed bytes are dropped here and not in ``next``: once per read, not once per frame."""
        del self._buffer[: self._position]
        self._position = 0
        self._buffer += data

    def next(self) -> ProtocolHeader | Frame | None:
        """Return the next header or frame; None until more bytes are fed.

        Raises AmqpError (framing-error) if the bytes cannot be a frame.
        """
        return self._next_header() if self._header_is_due else self._next_frame()

    def _next_header(self) -> ProtocolHeader | None:
        # Report a wrong start before eight bytes have come. A client that speaks another protocol (TLS, HTTP) may
        # send fewer and wait for an answer.
        start = bytes(self._buffer[self._position : self._position + HEADER_SIZE])
        if len(start) < HEADER_SIZE and start.startswith(AMQP_HEADER[: min(4, len(start))]):
            return None
        self._position += len(start)
        self._header_is_due = False
        return ProtocolHeader(start)

    def _next_frame(self) -> Frame | None:
        start = self._position
        if len(self._buffer) - start < HEADER_SIZE:
            return None
        size, data_offset, kind, channel = _HEADER.unpack_from(self._buffer, start)
        self._check(size, data_offset)
        if len(self._buffer) - start < size:
            return None
        self._position = start + size
        with memoryview(self._buffer) as view:
            return Frame(kind, channel, bytes(view[start + 4 * data_offset : start + size]))

    def _check(self, size: int, data_offset: int) -> None:
        if size > self._max_frame_size:
            raise AmqpError(FRAMING_ERROR, f"a frame of {size} bytes; {self._max_frame_size} were agreed as the most")
        if not _DATA_OFFSET <= data_offset <= size // 4:
            raise AmqpError(FRAMING_ERROR, f"a frame of {size} bytes whose body starts at word {data_offset}")
