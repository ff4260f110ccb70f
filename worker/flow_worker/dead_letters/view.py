"""A dead letter as the commands show it: identity, reason and content, with all secrets masked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pydantic import JsonValue

from flow_contracts.message import PropertyValue, ReceivedMessage
from flow_contracts.reply_key import KEY_PROPERTY
from flow_contracts.request import InvalidRequest, Unanswerable
from flow_contracts.servicebus import DeadLetteredMessage
from flow_worker.masking import MASK, masked
from flow_worker.pipeline.decode import Reader
from flow_worker.pipeline.job import InvalidContinuation, Job, UnprovenContinuation

_SHOWN_SEPARATELY = ("DeadLetterReason", "DeadLetterErrorDescription")
"""Service Bus stores reason and description as application properties."""


class Unreadable(Exception):
    """The message is neither a request nor a continuation. The message of the error quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class RunNote:
    """What the record of the flow run says."""

    sentence: str
    has_run: bool = False
    """The flow ran for the request, or runs for it."""


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """A dead letter without its body, so that a command can hold very many."""

    queue: str
    """The queue whose dead-letter queue contains it."""
    sequence_number: int
    enqueued_at: datetime
    message_id: str | None
    correlation_id: str | None
    flow: str | None
    """None if the message is unreadable."""
    reason: str
    description: str
    body_bytes: int
    not_replayable: str | None
    """The reason why it cannot be replayed; None if it can."""
    request_message_id: str | None = None
    """The message ID that the sender gave the request; None if the message is unreadable.

    A continuation message has an ID of its own, which nobody but the broker knows.
    """
    accepted: datetime | None = None
    """The time when the broker enqueued the request; None if the message is unreadable."""
    run: RunNote | None = None
    """None unless the command has read the records of runs."""

    @classmethod
    def of(cls, queue: str, dead: DeadLetteredMessage, reader: Reader) -> Self:
        """Return the view of a message in the dead-letter queue of `queue`. `reader` decodes that queue's messages."""
        message = dead.message
        job, not_replayable = _job_and_obstacle(message, reader)
        return cls(
            queue=queue,
            sequence_number=message.sequence_number,
            enqueued_at=message.enqueued_at,
            message_id=message.message_id,
            correlation_id=message.correlation_id or message.message_id,
            flow=None if job is None else job.flow,
            reason=masked(dead.reason),
            description=masked(dead.description),
            body_bytes=len(message.body),
            not_replayable=not_replayable,
            request_message_id=None if job is None else job.replay_of or job.message_id,
            accepted=None if job is None else job.accepted,
        )

    def as_json(self) -> dict[str, JsonValue]:
        """Return the view as JSON."""
        document: dict[str, JsonValue] = {
            "queue": self.queue,
            "sequence_number": self.sequence_number,
            "enqueued_at": self.enqueued_at.isoformat(),
            "message_id": self.message_id,
            "request_message_id": self.request_message_id,
            "correlation_id": self.correlation_id,
            "flow": self.flow,
            "reason": self.reason,
            "description": self.description,
            "body_bytes": self.body_bytes,
            "not_replayable": self.not_replayable,
        }
        return document if self.run is None else document | {"run_record": self.run.sentence}


def decode_job(message: ReceivedMessage, reader: Reader) -> Job:
    """Return the job of a request or continuation message. Raise `Unreadable` for any other message."""
    try:
        return reader(message)
    except (InvalidRequest, Unanswerable, InvalidContinuation, UnprovenContinuation) as error:
        raise Unreadable(str(error)) from None


def _job_and_obstacle(message: ReceivedMessage, reader: Reader) -> tuple[Job | None, str | None]:
    try:
        job = decode_job(message, reader)
    except Unreadable as error:
        return None, masked(str(error))
    return job, replay_obstacle(job)


def replay_obstacle(job: Job) -> str | None:
    """Return the reason why a readable job cannot be replayed; None if it can."""
    if job.kind == "poll":
        return (
            "It is a status poll of a flow run and contains no input any more. "
            "Inspect the run, or let the sender send again."
        )
    return None


def view_details(
    view: DeadLetterView, message: ReceivedMessage, reader: Reader, *, with_input: bool
) -> dict[str, JsonValue]:
    """Return the whole dead letter as JSON, secrets masked, with the flow's input only if `with_input` is set."""
    return view.as_json() | {
        "delivery_count": message.delivery_count,
        "expires_at": message.expires_at.isoformat() if message.expires_at else None,
        "content_type": message.content_type,
        "subject": message.subject,
        "reply_to": message.reply_to,
        "reply_to_session_id": message.reply_to_session_id,
        "application_properties": {
            name: _masked_property(name, value)
            for name, value in message.application_properties.items()
            if name not in _SHOWN_SEPARATELY
        },
        "request": _request(message, reader, with_input=with_input),
    }


def _masked_property(name: str, value: PropertyValue) -> JsonValue:
    # Also a continuation's property, and another spelling: a sender may have missed the exact name of its secret.
    if name.lower().replace("-", "_").endswith(KEY_PROPERTY):
        return MASK
    return masked(value) if isinstance(value, str) else value


def _request(message: ReceivedMessage, reader: Reader, *, with_input: bool) -> JsonValue:
    try:
        job = decode_job(message, reader)
    except Unreadable:
        return None
    request: dict[str, JsonValue] = job.model_dump(
        mode="json", exclude={"claim", "status_url", "input", "input_hash"}, exclude_defaults=True
    )
    request |= {name: MASK for name in ("claim", "status_url") if getattr(job, name) is not None}
    return request | ({"input": job.input} if with_input else {})
