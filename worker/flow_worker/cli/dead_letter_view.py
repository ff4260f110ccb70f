"""One dead letter as people look at it: what it is, why it lies there, and nothing that is secret."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pydantic import JsonValue

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import InvalidRequest, Unanswerable
from flow_contracts.servicebus import DeadLetteredMessage
from flow_worker.cli.masking import MASK, masked
from flow_worker.pipeline.decode import Reader
from flow_worker.pipeline.job import InvalidContinuation, Job

_TOLD_ALREADY = ("DeadLetterReason", "DeadLetterErrorDescription")
"""The service keeps reason and description among the application properties."""

_NO_BODY = (
    "Its body cannot be decoded: it is nested too deep, or of a type that the worker's AMQP library does not know."
)


class Unreadable(Exception):
    """The message is neither a request nor a continuation; says why, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its body, so that very many can be held."""

    queue: str
    """Whose dead-letter queue it lies in."""
    sequence_number: int
    enqueued_at: datetime
    message_id: str | None
    correlation_id: str | None
    flow: str | None
    """None if it cannot be read."""
    reason: str
    description: str
    size: int
    """Bytes of its body."""
    obstacle: str | None
    """Why it cannot be replayed; None if it can."""

    @classmethod
    def of(cls, queue: str, dead: DeadLetteredMessage, reader: Reader) -> Self:
        """What lies in the dead-letter queue of `queue`, whose messages `reader` reads."""
        message = dead.message
        flow, obstacle = _flow_and_obstacle(message, reader) if dead.decoded else (None, _NO_BODY)
        return cls(
            queue=queue,
            sequence_number=message.sequence_number,
            enqueued_at=message.enqueued_at,
            message_id=message.message_id,
            correlation_id=message.correlation_id or message.message_id,
            flow=flow,
            reason=masked(dead.reason),
            description=masked(dead.description),
            size=len(message.body),
            obstacle=obstacle,
        )

    def as_json(self) -> dict[str, JsonValue]:
        """For programs."""
        return {
            "queue": self.queue,
            "sequence_number": self.sequence_number,
            "enqueued_at": self.enqueued_at.isoformat(),
            "message_id": self.message_id,
            "correlation_id": self.correlation_id,
            "flow": self.flow,
            "reason": self.reason,
            "description": self.description,
            "body_bytes": self.size,
            "not_replayable": self.obstacle,
        }


def read(message: ReceivedMessage, reader: Reader) -> Job:
    """The request that the message is or carries on. Raises `Unreadable`."""
    try:
        return reader(message)
    except (InvalidRequest, Unanswerable, InvalidContinuation) as error:
        raise Unreadable(str(error)) from None


def _flow_and_obstacle(message: ReceivedMessage, reader: Reader) -> tuple[str | None, str | None]:
    try:
        job = read(message, reader)
    except Unreadable as error:
        return None, masked(str(error))
    return job.flow, obstacle_of(job)


def obstacle_of(job: Job) -> str | None:
    """Why this request cannot be replayed, although it can be read; None if it can."""
    if job.kind == "poll":
        return "It was looking for the outcome of a run and has no input any more: look at the run, or ask anew."
    return None


def whole(letter: Letter, message: ReceivedMessage, reader: Reader, *, with_input: bool) -> dict[str, JsonValue]:
    """Everything of one dead letter, secrets masked; its input only if asked for."""
    return letter.as_json() | {
        "delivery_count": message.delivery_count,
        "expires_at": message.expires_at.isoformat() if message.expires_at else None,
        "content_type": message.content_type,
        "subject": message.subject,
        "reply_to": message.reply_to,
        "reply_to_session_id": message.reply_to_session_id,
        "application_properties": {
            name: masked(value) if isinstance(value, str) else value
            for name, value in message.application_properties.items()
            if name not in _TOLD_ALREADY
        },
        "request": _request(message, reader, with_input=with_input),
    }


def _request(message: ReceivedMessage, reader: Reader, *, with_input: bool) -> JsonValue:
    try:
        job = read(message, reader)
    except Unreadable:
        return None
    shown: dict[str, JsonValue] = job.model_dump(
        mode="json", exclude={"claim", "status_url", "input", "input_hash"}, exclude_defaults=True
    )
    shown |= {name: MASK for name in ("claim", "status_url") if getattr(job, name) is not None}
    return shown | ({"input": job.input} if with_input else {})
