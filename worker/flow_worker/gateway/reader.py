"""Receives results and states from the gateway's reply queue, and puts them into the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.servicebus import Delivery, LockLost
from flow_worker import clock
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.replies import Reply, ResultReply, StateReply, UnreadableReply, reply_of, without_output
from flow_worker.gateway.spans import Spans
from flow_worker.gateway.store.port import GatewayStore, PutResult, ResultTooLarge
from flow_worker.gateway.unknown_results import REQUEST_UNKNOWN
from flow_worker.gateway.waiters import Waiters
from flow_worker.runtime.message_lock import kept_locked, set_within
from flow_worker.runtime.ports import Bus, QueueReceiver
from flow_worker.runtime.reconnection import GATEWAY_RECEIVERS, Reconnection
from flow_worker.telemetry.health import LaneHealth
from flow_worker.telemetry.logs import Field, log
from flow_worker.telemetry.metrics import Metrics
from flow_worker.telemetry.outage_log import OutageLog
from flow_worker.telemetry.seldom import Seldom

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_STORE_RETRY_FIRST_SECONDS = 0.1
_STORE_RETRY_MAX_SECONDS = 2.0
_LARGE_BYTES = 128 * 1024
"""Reading a result of this size takes a millisecond. A thread reads larger ones."""
UNKNOWN_DELIVERIES = 8
"""The gateway dead-letters an unknown result at this delivery, and gives it back before.

A queue that takes its receivers in turn delivers a result to the four of this replica first, and then to those of
another gateway. The queue has ten deliveries; a lost lock may cost some of the rest.
"""
_GIVE_BACK_PAUSE_SECONDS = 0.1
_BETWEEN_PAUSES_SECONDS = 1.0
"""A reader pauses for a tenth of its time at most: after the loss of a store, thousands of results may be unknown."""


def reconnection_log(queue: str) -> OutageLog:
    """Return the log of the outages of the reply queue, for all its receivers."""
    return OutageLog(_log, queue, GATEWAY_RECEIVERS)


class _GiveBack(Exception):
    """The message goes back to its queue: the gateway stops without its store, or another gateway has the request."""


@dataclass(frozen=True, slots=True)
class _DeadLetter:
    reason: str
    cause: str


class ReplyReader:
    """One receiver of the reply queue. The receivers of all replicas compete, so that a killed one holds nothing up."""

    def __init__(
        self,
        name: str,
        queue: str,
        *,
        bus: Bus,
        store: GatewayStore,
        waiters: Waiters,
        health: LaneHealth,
        reconnect_max_seconds: float,
        outages: OutageLog | None = None,
        metrics: Metrics | None = None,
        spans: Spans | None = None,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        """`waiters` of this replica wake at once; those of others learn of a result by the store's changes.

        `outages`: of the queue, from `reconnection_log`; all readers of a replica share it. `now` returns the broker's
        time.
        """
        self.name = name
        self._queue = queue
        self._store = store
        self._waiters = waiters
        self._tally = (lambda *_: None) if metrics is None else metrics.gateway_replies.add
        self._record_delay = (lambda _: None) if metrics is None else metrics.gateway_result_delay.record
        self._spans = spans or Spans(None)
        self._now = now
        self._returned = Seldom()
        self._paused_at = float("-inf")
        self._stopping = asyncio.Event()
        self._interrupted = asyncio.Event()
        self._reconnection = Reconnection(
            self,
            queue,
            bus=bus,
            health=health,
            outages=outages or reconnection_log(queue),
            max_seconds=reconnect_max_seconds,
            stopping=self._stopping,
        )

    def stop(self) -> None:
        """Receive no further message; finish the current one."""
        self._stopping.set()

    def interrupt(self) -> None:
        """Stop waiting for the store: Service Bus delivers the current message to another replica."""
        self.stop()
        self._interrupted.set()

    async def run(self) -> None:
        """Work until stopped. Raise only for an internal error of the gateway."""
        await self._reconnection.run(self._consume)

    async def _consume(self, receiver: QueueReceiver) -> None:
        while not self._stopping.is_set():
            # Nothing cancels the receive, because that leaves the state of the link unknown. It ends by itself.
            delivery = await receiver.receive()
            if delivery is not None:
                with self._spans.processing(self._queue, delivery.message):
                    await self._process(receiver, delivery)

    async def _process(self, receiver: QueueReceiver, delivery: Delivery) -> None:
        try:
            # The lock is kept, not abandoned, while the store is away: each redelivery costs one of ten deliveries.
            async with kept_locked(receiver, delivery, self._note_renewal):
                dead_letter = await self._keep(delivery)
            if dead_letter is None:
                await receiver.complete(delivery)
            else:
                await receiver.dead_letter(delivery, dead_letter.reason, dead_letter.cause)
        except _GiveBack:
            await receiver.abandon(delivery)
        except LockLost:
            sentence = "The lock of a result expired before the gateway settled it; Service Bus delivers it again."
            self._note(logging.WARNING, "gateway.reply_lock_lost", sentence, delivery)

    async def _keep(self, delivery: Delivery) -> _DeadLetter | None:
        """Put the message into the store; return why it goes to the dead-letter queue. Raises `_GiveBack`."""
        match await self._read(delivery):
            case ResultReply() as reply:
                return await self._keep_result(reply, delivery)
            case StateReply(request_id=request_id, state=state):
                is_stored = await self._patiently(lambda: self._store.put_state(request_id, state))
                self._tally("state", "stored" if is_stored else "late")
                if is_stored:
                    self._waiters.wake([request_id])
                return None
            case UnreadableReply() as reply:
                self._tally("other", "unreadable")
                sentence = f"The gateway dead-letters a message of its reply queue that it cannot read: {reply.cause}"
                self._note(logging.WARNING, "gateway.reply_unreadable", sentence, delivery, reason=reply.reason)
                return _DeadLetter(reply.reason, reply.cause)

    async def _read(self, delivery: Delivery) -> Reply:
        is_large = len(delivery.message.body) > _LARGE_BYTES
        return await asyncio.to_thread(reply_of, delivery.message) if is_large else reply_of(delivery.message)

    async def _keep_result(self, reply: ResultReply, delivery: Delivery) -> _DeadLetter | None:
        stored = await self._patiently(lambda: self._put(reply, delivery))
        if stored is PutResult.UNKNOWN:
            return await self._refer(reply, delivery)
        self._tally("result", stored.value)
        if stored is PutResult.STORED:
            self._waiters.wake([reply.request_id])
            self._record_delay((self._now() - reply.result.at).total_seconds())
        # The waiting callers have it already. The message leaves its queue only when a power cut cannot lose it.
        await self._patiently(self._store.sync)
        return None

    async def _refer(self, reply: ResultReply, delivery: Delivery) -> _DeadLetter:
        """Leave an unknown result to another gateway with another store; return its dead letter if there is none."""
        if delivery.message.delivery_count + 1 >= UNKNOWN_DELIVERIES:
            self._tally("result", PutResult.UNKNOWN.value)
            sentence = (
                "The gateway dead-letters a result: its store has no such request. Another gateway with another store "
                "may read the same queue, or the store was lost."
            )
            self._note(logging.WARNING, "gateway.result_unknown", sentence, delivery, flow=reply.flow)
            return _DeadLetter(REQUEST_UNKNOWN, "no store of the gateways that received the result has its request")
        self._tally("result", "returned")
        if self._returned.is_due(self._queue):
            sentence = (
                "The gateway gives a result back to its queue: its store has no such request. Gateways with different "
                "stores need different reply queues. The gateway writes this line once a minute."
            )
            self._note(logging.WARNING, "gateway.result_returned", sentence, delivery, flow=reply.flow)
        if time.monotonic() - self._paused_at >= _BETWEEN_PAUSES_SECONDS:
            await set_within(self._stopping, _GIVE_BACK_PAUSE_SECONDS)
            self._paused_at = time.monotonic()
        raise _GiveBack

    async def _put(self, reply: ResultReply, delivery: Delivery) -> PutResult:
        try:
            return await self._store.put_result(reply.request_id, reply.result, standing=reply.standing)
        except ResultTooLarge:
            size = len(reply.result.body)
            sentence = "The gateway's store cannot keep a result of this size, and keeps it without its output."
            self._note(logging.WARNING, "gateway.result_too_large", sentence, delivery, bytes=size)
            less = await asyncio.to_thread(without_output, delivery.message, reply.result)
            return await self._store.put_result(reply.request_id, less, standing=reply.standing)

    async def _patiently(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat the work until the store takes it. Raises `_GiveBack`."""
        pauses = ExponentialBackoff(_STORE_RETRY_FIRST_SECONDS, _STORE_RETRY_MAX_SECONDS, jitter_from=0.5)
        for pause in pauses.pauses():
            try:
                return await work()
            except TemporarilyUnavailable:  # the store reports its outages itself
                if await set_within(self._interrupted, pause):
                    raise _GiveBack from None
        raise AssertionError("backoff is endless")

    def _note_renewal(self, level: int, _event: str, _sentence: str, delivery: Delivery) -> None:
        sentence = "The gateway could not keep the lock of a result; Service Bus delivers it again, perhaps elsewhere."
        self._note(level, "gateway.reply_lock_lost", sentence, delivery)

    def _note(self, level: int, event: str, sentence: str, delivery: Delivery, **fields: Field) -> None:
        message = delivery.message
        log(
            _log,
            level,
            event,
            sentence,
            lane=self.name,
            message_id=message.message_id,
            correlation_id=message.correlation_id,
            delivery=message.delivery_count + 1,
            **fields,
        )
