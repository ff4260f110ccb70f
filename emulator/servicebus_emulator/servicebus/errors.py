"""The error conditions of AMQP and Service Bus, and the error that carries one to the client.

Sources: AMQP 1.0 part 2 section 2.8.15 and part 3; Microsoft Learn, "AMQP errors in Azure Service Bus".
"""

from __future__ import annotations

NOT_FOUND = "amqp:not-found"
NOT_ALLOWED = "amqp:not-allowed"
NOT_IMPLEMENTED = "amqp:not-implemented"
INTERNAL_ERROR = "amqp:internal-error"
UNAUTHORIZED = "amqp:unauthorized-access"
MESSAGE_SIZE_EXCEEDED = "amqp:link:message-size-exceeded"
RESOURCE_LIMIT_EXCEEDED = "amqp:resource-limit-exceeded"
DETACH_FORCED = "amqp:link:detach-forced"
CONNECTION_FORCED = "amqp:connection:forced"
ARGUMENT_ERROR = "com.microsoft:argument-error"
ENTITY_DISABLED = "com.microsoft:entity-disabled"
ENTITY_ALREADY_EXISTS = "com.microsoft:entity-already-exists"
MESSAGE_LOCK_LOST = "com.microsoft:message-lock-lost"
SESSION_LOCK_LOST = "com.microsoft:session-lock-lost"
SESSION_CANNOT_BE_LOCKED = "com.microsoft:session-cannot-be-locked"
MESSAGE_NOT_FOUND = "com.microsoft:message-not-found"
TIMEOUT = "com.microsoft:timeout"
SERVER_BUSY = "com.microsoft:server-busy"

STATUS = {
    NOT_FOUND: 404,
    NOT_ALLOWED: 400,
    NOT_IMPLEMENTED: 501,
    UNAUTHORIZED: 401,
    MESSAGE_SIZE_EXCEEDED: 403,
    RESOURCE_LIMIT_EXCEEDED: 403,
    ARGUMENT_ERROR: 400,
    ENTITY_DISABLED: 400,
    ENTITY_ALREADY_EXISTS: 409,
    MESSAGE_LOCK_LOST: 410,
    SESSION_LOCK_LOST: 410,
    SESSION_CANNOT_BE_LOCKED: 410,
    MESSAGE_NOT_FOUND: 404,
    TIMEOUT: 408,
    SERVER_BUSY: 503,
}
"""The status code that a response of `$cbs` or `$management` has for each condition.

Tests may inject any condition (see `faults`), so the users of this table have a default.
"""


class ServiceBusError(Exception):
    """The broker refuses an operation.

    `condition`: the AMQP error condition; SDKs map it to an exception. `description`: the text for people.
    """

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.condition = condition
        self.description = description
