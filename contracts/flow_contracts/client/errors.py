"""What a sender may meet, split by what can be done about it."""

from __future__ import annotations


class ServiceBusTrouble(ConnectionError):
    """Service Bus did not do what was asked; the text says what, and what to change."""


class Unreachable(ServiceBusTrouble):
    """The connection broke, or no answer came in time: the same may go well later."""


class Misconfigured(ServiceBusTrouble):
    """Service Bus refuses: a queue's name, a permission or a credential must be changed first."""


class SessionInUse(ServiceBusTrouble):
    """Another reader holds the reply session; one at a time may look into it."""


class RequestTooLarge(ValueError):
    """The request queue does not take a request of this size."""


class ResultTimeout(TimeoutError):
    """No result came in time. It may still come: wait or poll again under the same correlation ID."""

    def __init__(self, correlation_id: str, seconds: float, trouble: ServiceBusTrouble | None = None) -> None:
        because = f"; Service Bus could not be reached: {trouble}" if trouble else ""
        super().__init__(f"no result for correlation ID '{correlation_id}' within {seconds:g} s{because}")
        self.correlation_id = correlation_id
        self.seconds = seconds


class NotOutstanding(LookupError):
    """No result is to be had here under this correlation ID (any more)."""
