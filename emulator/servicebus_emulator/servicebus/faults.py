"""Fault injection: the failures of Service Bus that a test can cause on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from servicebus_emulator.servicebus.errors import ServiceBusError

_DESCRIPTION = "Refused on demand."


class FaultPoint(StrEnum):
    """An operation that a test can have refused."""

    SEND = "send"
    """A transfer to a queue. The broker rejects it."""
    SETTLE = "settle"
    """A completion, an abandonment, a deferral or a dead-lettering on a receiver's link."""
    ATTACH = "attach"
    """The attach of a sender's or receiver's link."""
    REQUEST = "request"
    """A request to a `$management` node."""
    TOKEN = "token"  # noqa: S105 - the name of an operation, not a secret
    """A put-token request to `$cbs`. It belongs to no queue."""


@dataclass(slots=True)
class InjectedRefusal:
    """The broker refuses an operation with an AMQP error condition.

    `queue`: a queue name in any case; None means all queues. A dead-letter queue has a separate name.
    `times`: the number of refusals; None means until the test removes the refusal. Raises `ValueError` for a number
    below 1 and for a text that is no condition.
    """

    at: FaultPoint
    condition: str
    description: str = _DESCRIPTION
    queue: str | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        self.queue = None if self.queue is None else self.queue.lower()
        if self.times is not None and self.times < 1:
            raise ValueError(f"times is {self.times}; it must be 1 or more, or none for every time")
        if ":" not in self.condition:
            raise ValueError(f"'{self.condition}' is no condition; write it as in 'com.microsoft:server-busy'")


@dataclass(slots=True)
class ServiceBusFaults:
    """The faults in force. A test may change them at any time.

    `frozen`: the broker neither reads nor writes; the TCP connections stay open. `delay_seconds`: the broker handles
    every frame of a client this much later, in the order of arrival.
    """

    frozen: bool = False
    delay_seconds: float = 0.0
    refusals: list[InjectedRefusal] = field(default_factory=list)

    def refuse(
        self,
        at: FaultPoint,
        condition: str,
        *,
        queue: str | None = None,
        times: int | None = None,
        description: str = _DESCRIPTION,
    ) -> InjectedRefusal:
        """Add a refusal and return it; see `InjectedRefusal`. Raises `ValueError`."""
        refusal = InjectedRefusal(at, condition, description, queue, times)
        self.refusals.append(refusal)
        return refusal

    def check(self, point: FaultPoint, queue: str) -> None:
        """Raise `ServiceBusError` if the operation is to be refused. Each raise uses up one of the refusal's times."""
        for refusal in self.refusals:
            if refusal.at is point and refusal.queue in (None, queue.lower()):
                self._use(refusal)
                raise ServiceBusError(refusal.condition, refusal.description)

    def _use(self, refusal: InjectedRefusal) -> None:
        if refusal.times is not None:
            refusal.times -= 1
            if refusal.times == 0:
                self.refusals.remove(refusal)
