"""What is to be done about a request: plain data, decided by the handler and carried out by the lane."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from flow_contracts.request import ReplyAddress
from flow_contracts.result import FlowResult
from flow_worker.pipeline.job import Job


@dataclass(frozen=True, slots=True)
class Entered:
    """Where the journal has a result: once it is told, the journal wants to know for which origin."""

    message_id: str
    origin: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Publish `result` to `queue`, in the session of `address`; then the request is done."""

    result: FlowResult
    address: ReplyAddress
    queue: str
    entered: Entered | None = None
    variant: str = ""
    """Tells results apart that share an address and a message ID: of a conflict, which is another request."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Put the request into the dead-letter queue for a person to look at, after `reply` (if any) is published."""

    reason: str
    description: str
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """Schedule `continuation` for `due`; then this message is done. `otherwise` if the queue does not take its size."""

    continuation: Job
    due: datetime
    otherwise: DeadLetter


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to be done for this message: another carries its request on, or its result was told."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Give the message back to its queue: nothing was decided."""

    code: str
    cause: str


Outcome = Reply | DeadLetter | Continue | Done | GiveBack
