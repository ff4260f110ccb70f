"""Trouble on demand, for tests of clients: what a broker on a bad day does."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from servicebus_emulator.servicebus.errors import ServiceBusError


class At(StrEnum):
    """What can be refused."""

    SEND = "send"
    """A transfer to a queue: it is rejected."""
    SETTLE = "settle"
    """A completion, an abandonment, a deferral or a dead-lettering on a receiver's link."""
    ATTACH = "attach"
    """A link, to send or to receive."""
    REQUEST = "request"
    """A request to a `$management` node."""
    TOKEN = "token"  # noqa: S105 - a place, no secret
    """A token that is put to `$cbs`; it is for no queue by name."""


@dataclass(slots=True)
class Refusal:
    """One thing is refused with a condition, at one queue or (None) at all, so many times or (None) until told.

    `queue` is a name in lower case; a dead-letter queue has its own.
    """

    at: At
    condition: str
    description: str = "Refused on demand."
    queue: str | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        self.queue = None if self.queue is None else self.queue.lower()
        if self.times is not None and self.times < 1:
            raise ValueError(f"times is {self.times}; it must be 1 or more, or none for every time")
        if ":" not in self.condition:
            raise ValueError(f"'{self.condition}' is no condition; write it as in 'com.microsoft:server-busy'")


@dataclass(slots=True)
class Faults:
    """Switches a test may set at any time.

    `frozen`: the broker neither reads nor answers; TCP stays up. `delay_seconds`: everything a client says is acted on
    only so much later, in its order.
    """

    frozen: bool = False
    delay_seconds: float = 0.0
    refusals: list[Refusal] = field(default_factory=list)

    def refuse(
        self,
        at: At,
        condition: str,
        *,
        queue: str | None = None,
        times: int | None = None,
        description: str = "Refused on demand.",
    ) -> Refusal:
        """Refuse from now on; see `Refusal`. Raises `ValueError`."""
        refusal = Refusal(at, condition, description, queue, times)
        self.refusals.append(refusal)
        return refusal

    def strike(self, at: At, queue: str) -> None:
        """Raises `ServiceBusError` if this is refused just now, which counts as once."""
        for refusal in self.refusals:
            if refusal.at is at and refusal.queue in (None, queue.lower()):
                self._count(refusal)
                raise ServiceBusError(refusal.condition, refusal.description)

    def _count(self, refusal: Refusal) -> None:
        if refusal.times is not None:
            refusal.times -= 1
            if refusal.times == 0:
                self.refusals.remove(refusal)
