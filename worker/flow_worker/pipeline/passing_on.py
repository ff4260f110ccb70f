"""Passes a continuation message on: schedules the very same message again, for a worker that can decide about it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.message import Message, ReceivedMessage
from flow_worker.pipeline.outcome import PassOn
from flow_worker.pipeline.seal import PASSED_ON

SINCE, PASSES = "unreadable_since", "unreadable_passes"
"""Application properties of a message that was passed on: the time of its first delivery, and the number of passes."""

PROVEN_PAUSES = ExponentialBackoff(first_seconds=0.5, max_seconds=15.0, growth=1.5)


def unproven_pauses(wait: timedelta) -> ExponentialBackoff:
    """Return the pauses of messages that may be a stranger's and are passed on for `wait`: some thirty passes.

    With the shorter pauses of proven messages, a stranger's messages would come back hundreds of times, before others'.
    """
    return ExponentialBackoff(first_seconds=0.5, max_seconds=max(15.0, wait.total_seconds() / 20), growth=2.0)


def pass_on(
    message: ReceivedMessage,
    cause: str,
    now: datetime,
    not_before: datetime | None = None,
    *,
    pauses: ExponentialBackoff = PROVEN_PAUSES,
) -> PassOn:
    """Return the outcome that schedules the same message again, under an ID that follows from this delivery's.

    Each pass needs another ID, because duplicate detection would drop the same one. A pass that is repeated after
    a crash gets the same ID, so that it is dropped.
    """
    passes = _passes(message)
    identity = message.message_id or f"{message.sequence_number}:{message.enqueued_at.isoformat()}"
    digest = hashlib.sha256(json.dumps([identity, passes]).encode()).hexdigest()
    marks = {SINCE: first_delivery(message).isoformat(), PASSES: passes + 1}
    fields = {field.name: getattr(message, field.name) for field in dataclasses.fields(Message)}
    fields |= {
        "message_id": f"{PASSED_ON}{digest}",
        "application_properties": {**message.application_properties, **marks},
        "scheduled_at": None,
    }
    due = now + timedelta(seconds=pauses.seconds(passes))
    return PassOn(Message(**fields), max(due, not_before or due), cause)


def first_delivery(message: ReceivedMessage) -> datetime:
    """Return the time of the first delivery to a worker that passed the message on."""
    since = message.application_properties.get(SINCE)
    try:
        first = datetime.fromisoformat(since) if isinstance(since, str) else message.enqueued_at
        return min(first.astimezone(UTC), message.enqueued_at)
    except (ValueError, OverflowError):  # a time that does not exist in UTC overflows
        return message.enqueued_at


def waited(message: ReceivedMessage) -> timedelta:
    """Return how long the message has been passed on. The broker stamps both times, so no worker's clock matters."""
    return message.enqueued_at - first_delivery(message)


def _passes(message: Message) -> int:
    passes = message.application_properties.get(PASSES)
    return passes if type(passes) is int and passes >= 0 else 0
