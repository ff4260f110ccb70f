"""The outcomes of a request: plain data that the handler decides and the dispatcher carries out."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never

from flow_contracts.message import Message
from flow_contracts.request import ReplyAddress
from flow_contracts.result import FlowResult
from flow_worker.journal import JobKey
from flow_worker.pipeline.job import Job


@dataclass(frozen=True, slots=True)
class JournalledResult:
    """The journal's key of a result, so that the journal can record the message for which the worker published it."""

    message_id: str
    origin: str
    """The broker's identity of the message whose delivery publishes the result; see `Job.origin`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Publish `result` to `queue` in the session of `address`, then complete the message."""

    result: FlowResult
    address: ReplyAddress
    queue: str
    journalled: JournalledResult | None = None
    """None if the journal does not hold this result."""
    variant: str = ""
    """Distinguishes a result that does not belong to the owner of the message ID: any sender can name any ID.

    Without it, the result would have the message ID of the owner's result, and duplicate detection would drop that one.
    """
    stand_in: JobKey | None = None
    """The key under which the journal records the publication of a result that it does not hold, or may not hold."""
    is_unproven: bool = False
    """Nobody has proven to be the sender of the request, and nobody can: the journal keeps as little as possible."""
    of_stranger: bool = False
    """The message proves nothing, also not by an entry of the journal. A gateway must prefer every other result."""
    job: Job | None = field(default=None, repr=False, compare=False)
    """The request, for the sinks beside the reply queue; None if the worker could not read it."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Publish `reply`, if there is one, then move the message to the dead-letter queue for a person to inspect."""

    reason: str
    description: str
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """Schedule `continuation` for `due`, then complete the message; the continuation message replaces it."""

    continuation: Job
    due: datetime


@dataclass(frozen=True, slots=True)
class AlreadyHandled:
    """Complete the message: another message continues its request, or its result was published before."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class PassOn:
    """Schedule `message` for `due` in the continuation queue, then complete the message that it copies.

    Unlike `Abandon` this costs none of the message's deliveries, and leaves time for a worker of another version.
    """

    message: Message
    due: datetime
    cause: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """Abandon the message, so that Service Bus delivers it again: the worker decided nothing about it."""

    code: str
    cause: str


Outcome = Reply | DeadLetter | Continue | AlreadyHandled | PassOn | Abandon


def is_of_nobody(outcome: Outcome) -> bool:
    """Return whether nobody has proven to be the sender of the message."""
    match outcome:
        case Reply():
            return outcome.is_unproven
        case DeadLetter(reply=reply):
            return reply is None or reply.is_unproven
        case Continue(continuation=continuation):
            return continuation.principal is None
        case AlreadyHandled() | PassOn() | Abandon():
            return False
        case _:
            assert_never(outcome)


def reply_of(outcome: Outcome) -> Reply | None:
    """Return the result that an outcome publishes, if there is one."""
    match outcome:
        case Reply():
            return outcome
        case DeadLetter(reply=reply):
            return reply
        case Continue() | AlreadyHandled() | PassOn() | Abandon():
            return None
        case _:
            assert_never(outcome)
