"""What can go wrong on the wire, in the vocabulary of AMQP 1.0 (part 2, section 2.8.15 onwards)."""

DECODE_ERROR = "amqp:decode-error"
FRAMING_ERROR = "amqp:connection:framing-error"
HANDLE_IN_USE = "amqp:session:handle-in-use"
ILLEGAL_STATE = "amqp:illegal-state"
INTERNAL_ERROR = "amqp:internal-error"
INVALID_FIELD = "amqp:invalid-field"
NOT_ALLOWED = "amqp:not-allowed"
NOT_IMPLEMENTED = "amqp:not-implemented"
RESOURCE_LIMIT_EXCEEDED = "amqp:resource-limit-exceeded"
UNATTACHED_HANDLE = "amqp:session:unattached-handle"
UNAUTHORIZED_ACCESS = "amqp:unauthorized-access"


class AmqpError(Exception):
    """A breach of the protocol. Where the peer caused it, the connection is closed with this condition."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(f"{condition}: {description}")
        self.condition = condition
        self.description = description


class DecodeError(AmqpError):
    """Bytes that are not well-formed AMQP, or not of the type their place asks for."""

    def __init__(self, description: str) -> None:
        super().__init__(DECODE_ERROR, description)


class EncodeError(AmqpError):
    """A value of ours that no AMQP type can carry: a fault of the caller, never of the peer."""

    def __init__(self, description: str) -> None:
        super().__init__(INTERNAL_ERROR, description)


class SessionError(AmqpError):
    """A breach that costs the peer its session, but not its connection."""
