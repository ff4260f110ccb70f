"""What is to be done about a request: plain data, decided by the handler and carried out by the lane."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.request import ReplyAddress
from contracts.result import FlowResult


@dataclass(frozen=True, slots=True)
class Reply:
    """Publish `result` to `queue`, in the session of `address`; then the request is done."""

    result: FlowResult
    address: ReplyAddress
    queue: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Put the request into the dead-letter queue for a person to look at, after `reply` (if any) is published."""

    reason: str
    description: str
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """Give the request back to its queue after `delay_seconds`: nothing was run, and nothing was decided."""

    code: str
    cause: str
    delay_seconds: float


Outcome = Reply | DeadLetter | Later
