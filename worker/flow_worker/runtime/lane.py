"""One lane: one receiver, one request at a time, its lock kept alive, its outcome carried out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol, TypeVar

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus import Delivery, LockLost, ServiceBusFailure, ServiceBusUnavailable
from flow_worker.pipeline.handler import Reader
from flow_worker.pipeline.outcome import Abandon, AlreadyHandled, Continue, DeadLetter, Outcome, Reply
from flow_worker.runtime.dispatcher import Dispatcher
from flow_worker.runtime.message_lock import kept_locked, set_within
from flow_worker.runtime.ports import Bus, QueueReceiver
from flow_worker.telemetry.health import LaneHealth
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_TOO_LATE_SECONDS = 2.0
"""A request whose lock ends sooner than this is not begun: it is on its way to someone else."""


class Journey(Protocol):
    """Decides what is to be done about a request."""

    async def handle(self, message: ReceivedMessage, read: Reader, queue: str) -> Outcome:
        """Raises nothing but `CancelledError`, and that only if no flow was called, or it may be called again."""
        ...


class Lane:
    """Takes requests from one queue until told to stop, on a new connection whenever the old one fails."""

    def __init__(
        self,
        name: str,
        queue: str,
        *,
        bus: Bus,
        journey: Journey,
        read: Reader,
        dispatcher: Dispatcher,
        health: LaneHealth,
        reconnect_max_seconds: float,
    ) -> None:
        self.name = name
        self._queue = queue
        self._bus = bus
        self._journey = journey
        self._read = read
        self._dispatcher = dispatcher
        self._health = health
        self._reconnect_max = reconnect_max_seconds
        self._stopping = asyncio.Event()
        self._interrupted = False
        self._at_work: asyncio.Task[Any] | None = None

    def stop(self) -> None:
        """Take no more requests; finish the one at hand."""
        self._stopping.set()

    def interrupt(self) -> None:
        """Stop waiting for the flow or the reply queue: the request at hand is answered `unknown` or given back."""
        self.stop()
        self._interrupted = True
        if self._at_work is not None:
            self._at_work.cancel()
            self._at_work = None  # once: what follows from it must come to its end

    async def run(self) -> None:
        """Work until stopped. Returns then; raises only for a fault in the worker itself."""
        failures = 0
        while not self._stopping.is_set():
            try:
                async with self._bus.receiver(self._queue) as receiver:
                    failures = 0
                    self._health.mark_connected()
                    await self._consume(receiver)
            except ServiceBusFailure as trouble:
                failures += 1
                self._health.mark_disconnected(str(trouble))
                self._say_reconnecting(trouble, failures)
                await self._pause(reconnect_pause(failures, self._reconnect_max))

    async def _consume(self, receiver: QueueReceiver) -> None:
        while not self._stopping.is_set():
            delivery = await receiver.receive()
            if delivery is not None:
                await self._process(receiver, delivery)

    async def _process(self, receiver: QueueReceiver, delivery: Delivery) -> None:
        if delivery.lock_seconds_left < _TOO_LATE_SECONDS:
            self._say(logging.WARNING, "request.lock_expiring", "A request came too late to be begun.", delivery)
            return
        try:
            async with kept_locked(receiver, delivery, self._say):
                outcome = await self._send(await self._outcome(delivery))
            async with self._marking_published(outcome):
                await self._settle(receiver, delivery, outcome)
        except LockLost:
            self._say(
                logging.WARNING,
                "request.lock_lost",
                "A request's lock was lost before it was settled; it will be delivered again. Raise the queue's lock "
                "duration if flows are slow, or check the connection.",
                delivery,
            )

    async def _outcome(self, delivery: Delivery) -> Outcome:
        outcome = None
        if not self._interrupted:  # a receive that was under way may have brought a request all the same
            outcome = await self._interruptible(self._journey.handle(delivery.message, self._read, self._queue))
        return outcome or Abandon("interrupted", "the worker stopped")

    async def _send(self, outcome: Outcome) -> Outcome:
        """Send the outcome's messages; return the outcome that took effect.

        Raises `ServiceBusFailure` if the worker was interrupted before a queue accepted them.
        """
        sent = await self._interruptible(self._dispatcher.send(outcome))
        if sent is None:
            raise ServiceBusUnavailable("the worker stopped before a queue accepted the outcome's message")
        return sent

    @contextlib.asynccontextmanager
    async def _marking_published(self, outcome: Outcome) -> AsyncIterator[None]:
        """Mark the result as published in the journal while the block settles the message.

        The two run side by side because neither needs the other: a crash between them only makes a redelivery
        publish the result again, under the same message ID.
        """
        marking = asyncio.create_task(self._dispatcher.mark_published(outcome), name=f"{self.name} mark published")
        try:
            yield
        finally:
            await marking

    async def _interruptible(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """The work's result; None if `interrupt` ended it."""
        task = self._at_work = asyncio.current_task()
        try:
            return await work
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            return None
        finally:
            if self._at_work is None and task is not None:
                task.uncancel()  # `interrupt` cancelled the work, not the lane
            self._at_work = None

    async def _settle(self, receiver: QueueReceiver, delivery: Delivery, outcome: Outcome) -> None:
        match outcome:
            case Reply(result=result):
                await receiver.complete(delivery)
                code = result.error.code if result.error else None
                self._say(
                    logging.INFO,
                    "request.completed",
                    f"A request ended {result.status}.",
                    delivery,
                    flow=result.flow,
                    code=code,
                )
            case DeadLetter(reason=reason, description=description):
                await receiver.dead_letter(delivery, reason, description)
                self._say(logging.WARNING, "request.dead_lettered", description, delivery, reason=reason)
            case Continue(continuation=next_, due=due):
                await receiver.complete(delivery)
                self._say(
                    logging.INFO,
                    "request.rescheduled",
                    f"A request waits until {due:%H:%M:%S}: {next_.cause}",
                    delivery,
                    flow=next_.flow,
                    code=next_.code,
                )
            case AlreadyHandled(code=code, sentence=sentence):
                await receiver.complete(delivery)
                self._say(logging.INFO, "request.already_handled", sentence, delivery, code=code)
            case Abandon(code=code, cause=cause):
                await receiver.abandon(delivery)
                self._say(
                    logging.WARNING, "request.abandoned", f"A request is given back: {cause}.", delivery, code=code
                )

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until told to stop."""
        await set_within(self._stopping, seconds)

    def _say_reconnecting(self, trouble: ServiceBusFailure, failures: int) -> None:
        sentence = f"The connection to '{self._queue}' failed and is made anew: {trouble}"
        log(_log, logging.WARNING, "lane.reconnecting", sentence, lane=self.name, failures=failures)

    def _say(self, level: int, event: str, sentence: str, delivery: Delivery, **fields: str | None) -> None:
        message = delivery.message
        log(
            _log,
            level,
            event,
            sentence,
            lane=self.name,
            message_id=message.message_id,
            correlation_id=message.correlation_id or message.message_id,
            delivery=message.delivery_count + 1,
            **fields,
        )


def reconnect_pause(failures: int, most_seconds: float) -> float:
    """Seconds to wait after so many failures in a row: doubling from half a second, with jitter."""
    doublings = min(failures, 16)  # an outage of days must not overflow
    return min(most_seconds, 0.25 * (1 << doublings)) * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
