"""Error conditions of AMQP 1.0 (part 2, sections 2.8.15 to 2.8.18) and the exceptions that carry them."""

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
    """A protocol error. If the peer caused it, the connection closes with this condition."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(f"{condition}: {description}")
        self.condition = condition
        self.description = description


class DecodeError(AmqpError):
    """The bytes are not well-formed AMQP, or have an unexpected type."""

    def __init__(self, description: str) -> None:
        super().__init__(DECODE_ERROR, description)


class EncodeError(AmqpError):
    """No AMQP type can carry the value: a fault of the caller, never of the peer."""

    def __init__(self, description: str) -> None:
        super().__init__(INTERNAL_ERROR, description)


class SessionError(AmqpError):
    """A protocol error within one session. The session ends; the connection stays open (part 2, section 2.5.4)."""
