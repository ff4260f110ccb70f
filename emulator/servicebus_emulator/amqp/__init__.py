"""An AMQP 1.0 server protocol engine, sans-IO: bytes in, events out; calls in, bytes out.

``Connection`` answers whatever the protocol alone decides: headers, SASL, open, begin, windows, echo, end, close.
The caller handles the events: it accepts or refuses links, and settles messages. The package knows no Service Bus.
"""

from servicebus_emulator.amqp.codec import (
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
from servicebus_emulator.amqp.connection import Connection
from servicebus_emulator.amqp.errors import AmqpError, DecodeError, EncodeError
from servicebus_emulator.amqp.events import ConnectionClosed, ConnectionOpened, Event
from servicebus_emulator.amqp.limits import Limits
from servicebus_emulator.amqp.link import FlowReceived, Link, LinkAttaching, LinkDetached, LinkSession, MessageReceived
from servicebus_emulator.amqp.performatives import (
    Accepted,
    Attach,
    Coordinator,
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
from servicebus_emulator.amqp.session import DispositionReceived, Session, SessionBegun, SessionEnded

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
    "Coordinator",
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
    "LinkSession",
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
