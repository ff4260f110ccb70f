"""Notices bursts of unproven requests, and answers such a burst in batches.

Anyone who may send to a request queue can fill it with requests whose sender nobody can prove. The requests behind them
wait until a lane has received each one. A lane that sorts takes many at once and leaves their answers for later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from flow_contracts.servicebus import Delivery
from flow_worker.pipeline.outcome import Continue, Outcome, Reply, is_of_nobody
from flow_worker.runtime.ports import QueueReceiver

BATCH = 32
"""The messages of one receive, and of one batch: the loop stands still while the SDK encodes it, some 10 ms."""

_PART = 4
"""One in four lanes of a queue may sort."""
_WEIGHT = 1 / 16
_SHARE = 0.75
"""A burst begins when so many of the latest requests are unproven: a sender has to outnumber all the others."""
_FADE_SECONDS = 2.0
"""A burst ends when no unproven request came for so long."""
_PAUSE_SECONDS = 30.0
"""No lane sorts for this long after a queue did not accept a batch: the messages lost their locks."""
_DRAINING_SECONDS = 1.0
"""For so long the other lanes leave the queue to a lane that sorts: it receives faster without them."""
_DRAINING_COUNT = 8
_WAIT_SECONDS = 0.2
_MAX_BYTES = 4 << 20
"""Bodies of the messages that wait for their answer, and of one receive."""
_MAX_WAITING = 4096
_MAX_WAIT_SECONDS = 15.0
_LOCK_PART = 1 / 4
"""Messages wait for their answer for this part of their locks: their answers take about as long as their receipt."""


class Burst:
    """Knows if most of the latest requests of one queue are unproven, and which lanes sort them."""

    def __init__(self, lanes: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`lanes` is the number of lanes of the queue; 0 for a queue whose lanes never sort."""
        self._places = max(1, lanes // _PART) if lanes else 0
        self._monotonic = monotonic
        self._share = 0.0
        self._seen_at = self._draining_until = self._paused_until = float("-inf")
        self.max_waiting = BATCH
        """The number of messages that may wait for their answer. It grows while the queues accept the answers."""

    def saw(self, outcome: Outcome) -> None:
        """Take note of the outcome of one message."""
        unproven = is_of_nobody(outcome)
        self._share += (unproven - self._share) * _WEIGHT
        if unproven:
            self._seen_at = self._monotonic()

    @property
    def is_on(self) -> bool:
        """Whether the queue has a burst of unproven requests."""
        now = self._monotonic()
        return self._share > _SHARE and now < self._seen_at + _FADE_SECONDS and now >= self._paused_until

    @property
    def is_draining(self) -> bool:
        """Whether a lane that sorts receives many messages now, so that the other lanes leave the queue to it."""
        return self._monotonic() < self._draining_until

    def enter(self) -> bool:
        """Take a place among the lanes that sort, if there is a burst and a free place; `leave` returns it."""
        if not self.is_on or not self._places:
            return False
        self._places -= 1
        return True

    def leave(self) -> None:
        """Return the place of a lane that sorted."""
        self._places += 1

    def received(self, count: int) -> None:
        """Take note of a receive; 0 as soon as the lane does something else."""
        many = count >= _DRAINING_COUNT
        self._draining_until = self._monotonic() + _DRAINING_SECONDS if many else float("-inf")

    def answered(self) -> None:
        """Take note that the queues accepted a batch."""
        self.max_waiting = min(_MAX_WAITING, 4 * self.max_waiting)

    def failed(self) -> None:
        """Take note that a queue did not accept a batch."""
        self.max_waiting = BATCH
        self._paused_until = self._monotonic() + _PAUSE_SECONDS


class SortingLane(Protocol):
    """What the sorting needs of its lane. All methods raise `ServiceBusFailure`."""

    @property
    def is_stopping(self) -> bool:
        """Whether the lane must receive no more messages."""
        ...

    async def sort(self, delivery: Delivery) -> Outcome:
        """Return the outcome of a delivery, without a call of its flow."""
        ...

    async def finish(self, receiver: QueueReceiver, delivery: Delivery, outcome: Outcome) -> None:
        """Send the outcome's message and settle the delivery."""
        ...

    async def finish_together(self, receiver: QueueReceiver, outcomes: list[tuple[Delivery, Reply | Continue]]) -> bool:
        """Do the same with a batch. Return False if a queue did not accept it: nothing is settled then."""
        ...


@dataclass(slots=True)
class _Waiting:
    """The refusals that wait for their answer."""

    refusals: list[tuple[Delivery, Reply | Continue]] = field(default_factory=list)
    bytes: int = 0
    until: float = float("inf")
    """The time at which the lane answers them, because of their locks."""

    def add(self, delivery: Delivery, reply: Reply) -> None:
        self.refusals.append((delivery, reply))
        self.bytes += len(delivery.message.body)
        seconds = min(_MAX_WAIT_SECONDS, delivery.lock_seconds_left * _LOCK_PART)
        self.until = min(self.until, time.monotonic() + seconds)

    def is_due(self, max_count: int) -> bool:
        return len(self.refusals) >= max_count or self.bytes >= _MAX_BYTES or time.monotonic() >= self.until


class Sorting:
    """Receives the messages of a burst in batches, and answers the refused ones when the rest has gone on.

    Proven requests go to the continuation queue at once: their flows may take long, and the locks of the others expire
    meanwhile. A worker that is killed loses nothing, because nothing is settled before its answer is sent.
    """

    def __init__(self, burst: Burst, lane: SortingLane, receiver: QueueReceiver) -> None:
        self._burst = burst
        self._lane = lane
        self._receiver = receiver
        self._waiting = _Waiting()
        self._max_messages = BATCH
        self._is_refused = False
        """A queue did not accept a batch: it may be partitioned, and take one session at a time."""

    async def run(self) -> None:
        """Sort until the burst ends or the lane stops. Raises `ServiceBusFailure`."""
        while self._burst.is_on and not self._lane.is_stopping:
            deliveries = await self._receiver.receive_many(self._max_messages, _WAIT_SECONDS)
            self._burst.received(len(deliveries))
            await self._sort(deliveries)
            if not deliveries or self._waiting.is_due(self._burst.max_waiting):
                await self._answer()
        await self._answer()

    async def _sort(self, deliveries: list[Delivery]) -> None:
        continuations: list[tuple[Delivery, Reply | Continue]] = []
        for delivery in deliveries:
            outcome = await self._lane.sort(delivery)
            match outcome:
                case Reply():
                    self._waiting.add(delivery, outcome)
                case Continue():
                    continuations.append((delivery, outcome))
                case _:
                    await self._lane.finish(self._receiver, delivery, outcome)
            await asyncio.sleep(0)  # the decisions wait for nothing, and the other lanes need the loop
        self._limit_bytes(deliveries)
        await self._finish(continuations)

    def _limit_bytes(self, deliveries: list[Delivery]) -> None:
        """Receive fewer messages at once if they are large."""
        largest = max((len(delivery.message.body) for delivery in deliveries), default=0)
        self._max_messages = max(1, min(BATCH, 2 * self._max_messages, _MAX_BYTES // max(1, largest)))

    async def _answer(self) -> None:
        self._burst.received(0)
        waiting, self._waiting = self._waiting.refusals, _Waiting()
        for start in range(0, len(waiting), BATCH):
            await self._finish(waiting[start : start + BATCH])

    async def _finish(self, outcomes: list[tuple[Delivery, Reply | Continue]]) -> None:
        if not outcomes:
            return
        if not self._is_refused and await self._lane.finish_together(self._receiver, outcomes):
            self._burst.answered()
            return
        self._is_refused = True
        self._burst.failed()
        for delivery, outcome in outcomes:
            await self._lane.finish(self._receiver, delivery, outcome)
