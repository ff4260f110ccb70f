"""Replaying and discarding dead letters: what is done with each, one after the other."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from pydantic import JsonValue

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus import (
    DeadLetterQueue,
    Delivery,
    LockLost,
    MessageTooLarge,
    ServiceBus,
    ServiceBusFailure,
)
from flow_worker import clock
from flow_worker.cli.dead_letter_view import Letter, Unreadable, obstacle_of, read
from flow_worker.pipeline.decode import Reader
from flow_worker.pipeline.job import Job

_REPLAYS = uuid.UUID("5b0d3f5e-8a53-4f0e-9c33-6a0f1f0c7d11")
"""Namespace of the message IDs of replays."""

_UNDECODABLE = (
    "The worker's AMQP library cannot decode it, so it cannot be taken out: use another tool, as the portal's."
)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one dead letter."""

    letter: Letter
    new_message_id: str | None = None
    """Of the request that a replay made."""
    left: str | None = None
    """Why it still lies there; None if it does not."""

    def as_json(self) -> dict[str, JsonValue]:
        """For programs."""
        return (
            self.letter.as_json()
            | {"done": self.left is None, "left": self.left}
            | ({"new_message_id": self.new_message_id} if self.new_message_id else {})
        )


class Left(Exception):
    """The message stays where it is; says why."""


Act = Callable[[Letter, ReceivedMessage], Awaitable[str | None]]
"""Does what is to be done before a dead letter is deleted; the new message ID, if there is one.

Raises `Left`, `ServiceBusFailure`.
"""


def replay(bus: ServiceBus, continuations: str, readers: Mapping[str, Reader]) -> Act:
    """Make a new request of the old one, in the continuation queue. `readers`: of the queues it may lie in."""

    async def act(letter: Letter, message: ReceivedMessage) -> str:
        try:
            job = read(message, readers[letter.queue])
        except Unreadable as error:
            raise Left(str(error)) from None
        if (obstacle := obstacle_of(job)) is not None:
            raise Left(obstacle)
        again = anew(job, letter.queue, letter.sequence_number, clock.now())
        try:
            await bus.send(continuations, again.to_message())
        except MessageTooLarge:
            raise Left(f"'{continuations}' does not take a message of this size.") from None
        return again.message_id

    return act


async def discard(letter: Letter, message: ReceivedMessage) -> None:
    """Nothing is to be done before it is deleted."""


def anew(job: Job, queue: str, sequence_number: int, replayed: datetime) -> Job:
    """The same request as a new one: from the beginning, with a message ID of its own, answered to the same address.

    The ID follows from the dead letter, so that a replay that broke off before the dead letter was deleted and is
    repeated makes no second request. `accepted` stays: a claim is judged as of then.
    """
    message_id = str(uuid.uuid5(_REPLAYS, json.dumps([queue, sequence_number, job.message_id])))
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
        traceparent=job.traceparent,
        accepted=job.accepted,
        replay_of=job.replay_of or job.message_id,
        replayed=replayed,
    )


async def settle(bus: ServiceBus, letters: Iterable[Letter], act: Act, say: Callable[[Settled], None]) -> None:
    """Do it with each of them, and say at once what became of it. What cannot be done now is left, and said so."""
    for queue, some in groupby(letters, key=lambda letter: letter.queue):
        missing = {letter.sequence_number: letter for letter in some}
        undecodable: set[int] = set()
        why = "It is not there any more, or another receiver has it just now."
        try:
            async with bus.dead_letter_queue(queue) as dead:
                async for delivery in dead.take(missing):
                    number = delivery.message.sequence_number
                    say(await _settled(dead, missing[number], delivery, act))
                    del missing[number]
                undecodable = dead.undecodable
        except ServiceBusFailure as trouble:
            why = f"Service Bus: {trouble}"
        for letter in missing.values():
            say(Settled(letter, left=_UNDECODABLE if letter.sequence_number in undecodable else why))


async def _settled(dead: DeadLetterQueue, letter: Letter, delivery: Delivery, act: Act) -> Settled:
    try:
        new_message_id = await act(letter, delivery.message)
        await dead.complete(delivery)
    except Left as why:
        return Settled(letter, left=str(why))
    except LockLost:
        return Settled(letter, left="Its lock ran out before it could be deleted; the same command again is safe.")
    return Settled(letter, new_message_id)
