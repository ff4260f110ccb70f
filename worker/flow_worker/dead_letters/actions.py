"""Replays and discards dead letters, one after the other."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from pydantic import JsonValue

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.servicebus import (
    DeadLetterQueue,
    Delivery,
    LockLost,
    MessageTooLarge,
    ServiceBus,
    ServiceBusFailure,
)
from flow_contracts.trace_context import TRACEPARENT, read_traceparent
from flow_worker import clock
from flow_worker.dead_letters.view import DeadLetterView, Unreadable, decode_job, replay_obstacle
from flow_worker.pipeline.decode import Reader
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.seal import Seal

_REPLAYS = uuid.UUID("5b0d3f5e-8a53-4f0e-9c33-6a0f1f0c7d11")
"""The namespace of the message IDs of replays (RFC 9562, section 5.5)."""

_MAX_FAILURES = 3
"""The failures of Service Bus in a row after which the command leaves the rest of a queue."""
_NOT_RECEIVED = "It is no longer there, or another receiver has locked it."
_REPLACED = "Another message has its sequence number now: the queue was created again. List the dead letters again."
_LOCK_LOST = "Its lock expired before the command could delete it. Repeat the command; that is safe."


@dataclass(frozen=True, slots=True)
class DeadLetterOutcome:
    """The outcome of an action on one dead letter."""

    view: DeadLetterView
    new_message_id: str | None = None
    """The message ID of the request that a replay created."""
    left: str | None = None
    """The reason why the dead letter remains; None if it is gone."""

    def as_json(self) -> dict[str, JsonValue]:
        """Return the outcome as JSON."""
        return (
            self.view.as_json()
            | {"done": self.left is None, "left": self.left}
            | ({"new_message_id": self.new_message_id} if self.new_message_id else {})
        )


class DeadLetterLeft(Exception):
    """The action cannot apply to this dead letter, which remains; the message says why."""


DeadLetterAction = Callable[[DeadLetterView, ReceivedMessage], Awaitable[str | None]]
"""Prepares the deletion of a dead letter; returns the ID of the message it created, if any.

Raises `DeadLetterLeft`, `ServiceBusFailure`.
"""


def replay_with(bus: ServiceBus, continuations: str, readers: Mapping[str, Reader], seal: Seal) -> DeadLetterAction:
    """Return the action that sends a dead letter's request to the continuation queue as a new job.

    `readers` decode the messages of the queues, and prove the continuations among them: with the seal of a replay the
    worker would otherwise do what a stranger wrote.
    """

    async def replay(view: DeadLetterView, message: ReceivedMessage) -> str:
        try:
            job = decode_job(message, readers[view.queue])
        except Unreadable as error:
            raise DeadLetterLeft(str(error)) from None
        if (obstacle := replay_obstacle(job)) is not None:
            raise DeadLetterLeft(obstacle)
        replayed = replay_job(job, view.queue, view.sequence_number, clock.now())
        try:
            await bus.send(continuations, _in_trace_of(message, seal.sealed(replayed.to_message(), clock.now())))
        except MessageTooLarge:
            raise DeadLetterLeft(f"The queue '{continuations}' does not accept a message of this size.") from None
        return replayed.message_id

    return replay


def _in_trace_of(message: ReceivedMessage, replay: Message) -> Message:
    """Return the replay's message with the trace context of the dead letter. The seal does not cover it."""
    traceparent = read_traceparent(message)
    if traceparent is None:
        return replay
    return replay.with_property(TRACEPARENT, traceparent)


async def discard(view: DeadLetterView, message: ReceivedMessage) -> None:
    """Do nothing before the deletion: this action only deletes."""


def replay_job(job: Job, queue: str, sequence_number: int, replayed: datetime) -> Job:
    """Return the job of the same request, from the beginning, with a new message ID and the same reply address.

    The message ID is derived from the dead letter. So an interrupted replay that is repeated creates no second job.
    `accepted` stays: the worker judges the claim at the time of the original request.
    """
    # With the origin, because a queue that was created again assigns its sequence numbers once more.
    place = [queue, sequence_number, job.origin, job.message_id]
    message_id = str(uuid.uuid5(_REPLAYS, json.dumps(place)))
    return Job(
        origin=f"replay:{queue}:{sequence_number}:{message_id}",
        number=0,
        request_queue=job.request_queue,
        flow=job.flow,
        input=job.input,
        input_hash=job.input_hash,
        claim=job.claim,
        dataverse_sender=job.dataverse_sender,
        on_behalf_of=job.on_behalf_of,
        principal=job.principal,
        message_id=message_id,
        correlation_id=job.correlation_id,
        reply_to=job.reply_to,
        reply_to_session_id=job.reply_to_session_id,
        reply_key=job.reply_key,
        traceparent=job.traceparent,
        accepted=job.accepted,
        replay_of=job.replay_of or job.message_id,
        replayed=replayed,
    )


async def settle_all(
    bus: ServiceBus,
    views: Iterable[DeadLetterView],
    action: DeadLetterAction,
    report: Callable[[DeadLetterOutcome], None],
) -> None:
    """Apply the action to each dead letter, delete it, and report its outcome at once.

    One failure of Service Bus may concern one dead letter. Several in a row leave the rest of the queue; their outcomes
    say so.
    """
    for queue, group in groupby(views, key=lambda view: view.queue):
        open_ = {view.sequence_number: view for view in group}
        reason, failures = _NOT_RECEIVED, 0
        try:
            async with bus.dead_letter_queue(queue) as dead_letter_queue:
                async for delivery in dead_letter_queue.take(open_):
                    number = delivery.message.sequence_number
                    outcome, failure = await _settle(dead_letter_queue, open_[number], delivery, action)
                    report(outcome)
                    del open_[number]
                    failures = failures + 1 if failure else 0
                    if failure and failures >= _MAX_FAILURES:
                        raise failure
        except ServiceBusFailure as error:
            reason = f"Service Bus: {error}"
        for view in open_.values():
            report(DeadLetterOutcome(view, left=reason))


async def _settle(
    dead_letter_queue: DeadLetterQueue, view: DeadLetterView, delivery: Delivery, action: DeadLetterAction
) -> tuple[DeadLetterOutcome, ServiceBusFailure | None]:
    """Return the outcome, and the failure of Service Bus that caused it, if any."""
    if (delivery.message.message_id, delivery.message.enqueued_at) != (view.message_id, view.enqueued_at):
        return DeadLetterOutcome(view, left=_REPLACED), None
    try:
        # The action comes before the deletion: a crash in between leaves a duplicate, which the message ID reveals.
        # The other order could lose the request.
        new_message_id = await action(view, delivery.message)
        await dead_letter_queue.complete(delivery)
    except DeadLetterLeft as reason:
        return DeadLetterOutcome(view, left=str(reason)), None
    except LockLost:
        return DeadLetterOutcome(view, left=_LOCK_LOST), None
    except ServiceBusFailure as failure:
        return DeadLetterOutcome(view, left=f"Service Bus: {failure}"), failure
    return DeadLetterOutcome(view, new_message_id), None
