"""The frame bodies of AMQP 1.0: performatives, terminuses, delivery states, errors, SASL (parts 2, 3 and 5).

Names and order of the fields are those of the specification. Decoding accepts any integer width and fills in
defaults. Encoding writes every field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias, get_args

from servicebus_emulator.amqp.codec import DecodeError, decode
from servicebus_emulator.amqp.composite import (
    BINARY,
    BOOLEAN,
    FIELDS,
    MAP,
    STRING,
    SYMBOL,
    SYMBOLS,
    UBYTE,
    UINT,
    ULONG,
    USHORT,
    composite,
    encode_composite,
    one_of,
    read_composite,
)
from servicebus_emulator.amqp.errors import AmqpError

UINT_MAX = 0xFFFF_FFFF

SENDER, RECEIVER = False, True
"""The two values of the field ``role``."""

_Bool = Annotated[bool, BOOLEAN]
_UInt = Annotated[int, UINT]
_UByte = Annotated[int, UBYTE]
_OptUInt = Annotated[int | None, UINT]
_OptString = Annotated[str | None, STRING]
_OptBinary = Annotated[bytes | None, BINARY]
_Symbols = Annotated[tuple[str, ...], SYMBOLS]
_OptFields = Annotated[Mapping[str, object] | None, FIELDS]


@composite(0x1D, "amqp:error:list")
@dataclass(frozen=True, slots=True)
class Error:
    """The reason for a refusal, a rejection, a detach, an end or a close (part 2, section 2.8.14)."""

    condition: Annotated[str, SYMBOL]
    description: _OptString = None
    info: _OptFields = None

    @classmethod
    def of(cls, error: AmqpError) -> "Error":
        """Return the error that reports a protocol error to the peer."""
        return cls(error.condition, error.description)


_OptError = Annotated[Error | None, one_of(Error)]


@composite(0x23, "amqp:received:list")
@dataclass(frozen=True, slots=True)
class Received:
    """The progress of a delivery: the one delivery state that does not end it (part 3, section 3.4.1)."""

    section_number: _UInt
    section_offset: Annotated[int, ULONG]


@composite(0x24, "amqp:accepted:list")
@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver processed the message (part 3, section 3.4.2)."""


@composite(0x25, "amqp:rejected:list")
@dataclass(frozen=True, slots=True)
class Rejected:
    """The message is invalid and cannot be processed (part 3, section 3.4.3)."""

    error: _OptError = None


@composite(0x26, "amqp:released:list")
@dataclass(frozen=True, slots=True)
class Released:
    """The receiver did not process the message and returns it unchanged (part 3, section 3.4.4)."""


@composite(0x27, "amqp:modified:list")
@dataclass(frozen=True, slots=True)
class Modified:
    """The receiver did not process the message and returns it with changes (part 3, section 3.4.5)."""

    delivery_failed: _Bool = False
    undeliverable_here: _Bool = False
    message_annotations: Annotated[Mapping[object, object] | None, MAP] = None


Outcome: TypeAlias = Accepted | Rejected | Released | Modified | Received
_OptState = Annotated[Outcome | None, one_of(*get_args(Outcome))]


@composite(0x28, "amqp:source:list")
@dataclass(frozen=True, slots=True)
class Source:
    """The node that a link receives messages from (part 3, section 3.5.3). ``timeout`` is in seconds."""

    address: _OptString = None
    durable: _UInt = 0
    expiry_policy: Annotated[str, SYMBOL] = "session-end"
    timeout: _UInt = 0
    dynamic: _Bool = False
    dynamic_node_properties: _OptFields = None
    distribution_mode: Annotated[str | None, SYMBOL] = None
    filter: _OptFields = None
    default_outcome: _OptState = None
    outcomes: _Symbols = ()
    capabilities: _Symbols = ()


@composite(0x29, "amqp:target:list")
@dataclass(frozen=True, slots=True)
class Target:
    """The node that a link sends messages to (part 3, section 3.5.4). ``timeout`` is in seconds."""

    address: _OptString = None
    durable: _UInt = 0
    expiry_policy: Annotated[str, SYMBOL] = "session-end"
    timeout: _UInt = 0
    dynamic: _Bool = False
    dynamic_node_properties: _OptFields = None
    capabilities: _Symbols = ()


@composite(0x30, "amqp:coordinator:list")
@dataclass(frozen=True, slots=True)
class Coordinator:
    """A target that makes the link a control link of transactions (part 4, section 4.5.1)."""

    address = None
    capabilities: _Symbols = ()


@composite(0x10, "amqp:open:list")
@dataclass(frozen=True, slots=True)
class Open:
    """Parameters of a connection. ``max_frame_size`` is in bytes, ``idle_time_out`` in milliseconds."""

    container_id: Annotated[str, STRING]
    hostname: _OptString = None
    max_frame_size: _UInt = UINT_MAX
    channel_max: Annotated[int, USHORT] = 0xFFFF
    idle_time_out: _OptUInt = None
    outgoing_locales: _Symbols = ()
    incoming_locales: _Symbols = ()
    offered_capabilities: _Symbols = ()
    desired_capabilities: _Symbols = ()
    properties: _OptFields = None


@composite(0x11, "amqp:begin:list")
@dataclass(frozen=True, slots=True)
class Begin:
    """Begins a session. Only the answer has a ``remote_channel``. Windows count transfer frames."""

    remote_channel: Annotated[int | None, USHORT]
    next_outgoing_id: _UInt
    incoming_window: _UInt
    outgoing_window: _UInt
    handle_max: _UInt = UINT_MAX
    offered_capabilities: _Symbols = ()
    desired_capabilities: _Symbols = ()
    properties: _OptFields = None


@composite(0x12, "amqp:attach:list")
@dataclass(frozen=True, slots=True)
class Attach:
    """Attaches a link. Settle modes are the specification's numbers; ``max_message_size`` is in bytes."""

    name: Annotated[str, STRING]
    handle: _UInt
    role: _Bool
    snd_settle_mode: _UByte = 2
    rcv_settle_mode: _UByte = 0
    source: Annotated[Source | None, one_of(Source)] = None
    target: Annotated[Target | Coordinator | None, one_of(Target, Coordinator)] = None
    unsettled: Annotated[Mapping[object, object] | None, MAP] = None
    incomplete_unsettled: _Bool = False
    initial_delivery_count: _OptUInt = None
    max_message_size: Annotated[int | None, ULONG] = None
    offered_capabilities: _Symbols = ()
    desired_capabilities: _Symbols = ()
    properties: _OptFields = None


@composite(0x13, "amqp:flow:list")
@dataclass(frozen=True, slots=True)
class Flow:
    """The state of a session's windows and, if ``handle`` is set, of a link's credit."""

    next_incoming_id: _OptUInt
    incoming_window: _UInt
    next_outgoing_id: _UInt
    outgoing_window: _UInt
    handle: _OptUInt = None
    delivery_count: _OptUInt = None
    link_credit: _OptUInt = None
    available: _OptUInt = None
    drain: _Bool = False
    echo: _Bool = False
    properties: _OptFields = None


@composite(0x14, "amqp:transfer:list")
@dataclass(frozen=True, slots=True)
class Transfer:
    """A message or a part of one; the payload follows in the frame."""

    handle: _UInt
    delivery_id: _OptUInt = None
    delivery_tag: _OptBinary = None
    message_format: _OptUInt = None
    settled: Annotated[bool | None, BOOLEAN] = None
    more: _Bool = False
    rcv_settle_mode: Annotated[int | None, UBYTE] = None
    state: _OptState = None
    resume: _Bool = False
    aborted: _Bool = False
    batchable: _Bool = False


@composite(0x15, "amqp:disposition:list")
@dataclass(frozen=True, slots=True)
class Disposition:
    """The state of the deliveries ``first`` to ``last``, as the end with this role reports it."""

    role: _Bool
    first: _UInt
    last: _OptUInt = None
    settled: _Bool = False
    state: _OptState = None
    batchable: _Bool = False


@composite(0x16, "amqp:detach:list")
@dataclass(frozen=True, slots=True)
class Detach:
    """Detaches a link, or closes it if ``closed`` is true (part 2, section 2.6.6)."""

    handle: _UInt
    closed: _Bool = False
    error: _OptError = None


@composite(0x17, "amqp:end:list")
@dataclass(frozen=True, slots=True)
class End:
    """Ends a session."""

    error: _OptError = None


@composite(0x18, "amqp:close:list")
@dataclass(frozen=True, slots=True)
class Close:
    """Closes a connection."""

    error: _OptError = None


@composite(0x40, "amqp:sasl-mechanisms:list")
@dataclass(frozen=True, slots=True)
class SaslMechanisms:
    """The mechanisms that the server offers."""

    sasl_server_mechanisms: _Symbols


@composite(0x41, "amqp:sasl-init:list")
@dataclass(frozen=True, slots=True)
class SaslInit:
    """The mechanism that the client chose, with its first response."""

    mechanism: Annotated[str, SYMBOL]
    initial_response: _OptBinary = None
    hostname: _OptString = None


@composite(0x42, "amqp:sasl-challenge:list")
@dataclass(frozen=True, slots=True)
class SaslChallenge:
    """A challenge of the mechanism."""

    challenge: Annotated[bytes, BINARY]


@composite(0x43, "amqp:sasl-response:list")
@dataclass(frozen=True, slots=True)
class SaslResponse:
    """The client's response to a challenge."""

    response: Annotated[bytes, BINARY]


@composite(0x44, "amqp:sasl-outcome:list")
@dataclass(frozen=True, slots=True)
class SaslOutcome:
    """The result: 0 authenticated, 1 refused, 2 to 4 system errors (part 5, section 5.3.3.6)."""

    code: _UByte
    additional_data: _OptBinary = None


SessionFrame: TypeAlias = Attach | Flow | Transfer | Disposition | Detach
"""The performatives that a session handles itself."""
Performative: TypeAlias = Open | Begin | SessionFrame | End | Close
SaslFrame: TypeAlias = SaslMechanisms | SaslInit | SaslChallenge | SaslResponse | SaslOutcome


def encode_frame_body(value: Performative | SaslFrame) -> bytes:
    """Encode a frame body without its payload. Raises EncodeError if a field is out of range."""
    return encode_composite(value)


def decode_performative(body: bytes) -> tuple[Performative, int]:
    """Return the performative of an AMQP frame's body, and the offset of the payload behind it.

    Raises DecodeError if the body does not start with a performative.
    """
    described, offset = decode(body)
    value = read_composite(described)
    if isinstance(value, Performative):
        return value, offset
    raise DecodeError(f"{type(value).__name__} is not a performative")


def decode_sasl(body: bytes) -> SaslFrame:
    """Decode the body of a SASL frame. Raises DecodeError if it is malformed."""
    described, offset = decode(body)
    value = read_composite(described)
    if isinstance(value, SaslFrame) and offset == len(body):
        return value
    raise DecodeError(f"{type(value).__name__} is not the whole of a SASL frame")
