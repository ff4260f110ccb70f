"""AMQP 1.0, server side, sans-IO: bytes in, events out; calls in, bytes out. Knows no Service Bus.

``Connection`` answers all that the protocol itself can answer (headers, SASL, open, begin, windows, echo, end,
close); links are accepted or refused, and messages settled, by whoever listens to its events.

``Connection.sessions`` and ``Session.links`` are tuples of sessions and links.
"""

from emulator.amqp.codec import (
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
    decode,
    encode,
)
from emulator.amqp.connection import Connection
from emulator.amqp.errors import AmqpError, DecodeError, EncodeError
from emulator.amqp.events import (
    ConnectionClosed,
    ConnectionOpened,
    DispositionReceived,
    Event,
    FlowReceived,
    LinkAttaching,
    LinkDetached,
    MessageReceived,
    SessionBegun,
    SessionEnded,
)
from emulator.amqp.limits import Limits
from emulator.amqp.link import Link
from emulator.amqp.performatives import (
    Accepted,
    Attach,
    Error,
    Modified,
    Open,
    Outcome,
    Received,
    Rejected,
    Released,
    Source,
    Target,
)
from emulator.amqp.session import Session

__all__ = [
    "Accepted",
    "AmqpError",
    "Array",
    "Attach",
    "Byte",
    "Char",
    "Connection",
    "ConnectionClosed",
    "ConnectionOpened",
    "Decimal32",
    "Decimal64",
    "Decimal128",
    "DecodeError",
    "Described",
    "DispositionReceived",
    "EncodeError",
    "Error",
    "Event",
    "Float32",
    "FlowReceived",
    "Int",
    "Limits",
    "Link",
    "LinkAttaching",
    "LinkDetached",
    "Long",
    "MessageReceived",
    "Modified",
    "Open",
    "Outcome",
    "Received",
    "Rejected",
    "Released",
    "Session",
    "SessionBegun",
    "SessionEnded",
    "Short",
    "Source",
    "Symbol",
    "Target",
    "Timestamp",
    "UByte",
    "UInt",
    "ULong",
    "UShort",
    "decode",
    "encode",
]
