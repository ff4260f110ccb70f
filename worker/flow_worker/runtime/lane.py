"""A lane: one receiver that handles one request at a time, keeps its lock and settles it by the outcome."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar, assert_never

from flow_contracts.message import ReceivedMessage
from flow_contracts.result import FlowResult
from flow_contracts.servicebus import Delivery, LockLost, ServiceBusUnavailable
from flow_worker.flows.known_codes import logged_code
from flow_worker.pipeline.decode import Reader
from flow_worker.pipeline.outcome import Abandon, AlreadyHandled, Continue, DeadLetter, Outcome, PassOn, Reply
from flow_worker.runtime.burst import Burst, Sorting
from flow_worker.runtime.message_lock import kept_locked, set_within
from flow_worker.runtime.ports import Bus, OutcomeSender, QueueReceiver
from flow_worker.runtime.reconnection import LANES, Reconnection
from flow_worker.telemetry.health import LaneHealth
from flow_worker.telemetry.logs import Field, log
from flow_worker.telemetry.outage_log import OutageLog

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_MIN_LOCK_SECONDS = 2.0
"""A lane does not begin a request whose lock seems to expire sooner: Service Bus may be about to deliver it again."""
_DRAINING_PAUSE_SECONDS = 0.05
_STOPPED = "the worker stopped before a queue accepted the outcome's message"


def reconnection_log(queue: str) -> OutageLog:
    """Return the log of the outages of one queue, for all its lanes."""
    return OutageLog(_log, queue, LANES)


class Decide(Protocol):
    """Decides the outcome of a message. Raises only `CancelledError`."""

    def __call__(
        self, message: ReceivedMessage, read: Reader, queue: str, *, lock_held: Callable[[], bool]
    ) -> Coroutine[Any, Any, Outcome]:
        """Return the outcome."""
        ...


class Journey(Protocol):
    """Decides the outcome of a message."""

    async def handle(
        self, message: ReceivedMessage, read: Reader, queue: str, *, lock_held: Callable[[], bool]
    ) -> Outcome:
        """Raise only `CancelledError`, and only if no flow was called or the flow is idempotent."""
        ...

    async def sort(
        self, message: ReceivedMessage, read: Reader, queue: str, *, lock_held: Callable[[], bool]
    ) -> Outcome:
        """Decide without a wait and without a call. Raise only `CancelledError`."""
        ...


class Lane:
    """Handles the requests of one queue until it is stopped, and reconnects whenever the connection fails."""

    def __init__(
        self,
        name: str,
        queue: str,
        *,
        bus: Bus,
        journey: Journey,
        read: Reader,
        dispatcher: OutcomeSender,
        health: LaneHealth,
        outages: OutageLog,
        burst: Burst,
        reconnect_max_seconds: float,
        is_halted: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_halted`: whether the worker must take no more requests, although it runs on for the operator."""
        self.name = name
        self._queue = queue
        self._journey = journey
        self._read = read
        self._dispatcher = dispatcher
        self._health = health
        self._burst = burst
        self._is_halted = is_halted
        self._stopping = asyncio.Event()
        self._reconnection = Reconnection(
            self,
            queue,
            bus=bus,
            health=health,
            outages=outages,
            max_seconds=reconnect_max_seconds,
            stopping=self._stopping,
        )
        self._interrupted = False
        self._interruptible_task: asyncio.Task[Any] | None = None

    def stop(self) -> None:
        """Receive no more requests; finish the current one."""
        self._stopping.set()

    def interrupt(self) -> None:
        """Stop waiting for the flow or for a queue; the current request ends `unknown` or is abandoned."""
        self.stop()
        self._interrupted = True
        if self._interruptible_task is not None:
            self._interruptible_task.cancel()
            # Interrupt once: the interrupted work still has to publish and settle, and must not be cancelled again.
            self._interruptible_task = None

    async def run(self) -> None:
        """Work until stopped. Raise only for an internal error of the worker."""
        await self._reconnection.run(self._consume, self._halted)

    def _halted(self) -> str | None:
        return "the lane is halted: the journal was replaced" if self._is_halted() else None

    async def _consume(self, receiver: QueueReceiver) -> None:
        while not self.is_stopping:
            if self._burst.enter():
                try:
                    await Sorting(self._burst, self, receiver).run()
                finally:
                    self._burst.leave()
                continue
            if self._burst.is_draining:
                await set_within(self._stopping, _DRAINING_PAUSE_SECONDS)
                continue
            # Neither `stop` nor `interrupt` cancels this receive, because that leaves the state of the link unknown.
            # The receive ends by itself after `servicebus.receive_wait_seconds`.
            delivery = await receiver.receive()
            if delivery is not None:
                await self._process(receiver, delivery)

    @property
    def is_stopping(self) -> bool:
        """Whether the lane must receive no more messages."""
        return self._stopping.is_set() or self._is_halted()

    async def _process(self, receiver: QueueReceiver, delivery: Delivery) -> None:
        await self._finish(receiver, delivery, lambda: self._outcome(delivery, self._journey.handle))

    async def sort(self, delivery: Delivery) -> Outcome:
        """Return the outcome of a delivery, without a call of its flow."""
        return await self._outcome(delivery, self._journey.sort)

    async def finish(self, receiver: QueueReceiver, delivery: Delivery, outcome: Outcome) -> None:
        """Send the message of an outcome that `sort` returned, and settle the delivery."""

        async def decided() -> Outcome:
            return outcome

        await self._finish(receiver, delivery, decided)

    async def finish_together(self, receiver: QueueReceiver, outcomes: list[tuple[Delivery, Reply | Continue]]) -> bool:
        """Do the same with a batch. Return False if a queue did not accept it: nothing is settled then."""
        held = [(outcome, _lock_held(delivery)) for delivery, outcome in outcomes]
        sent = await self._interruptible(self._dispatcher.send_together(held))
        if sent is None:
            raise ServiceBusUnavailable(_STOPPED)
        if not sent:
            return False
        async with self._marking_published() as mark_published:
            for _, outcome in outcomes:
                mark_published(outcome)
            lost = await receiver.complete_all([delivery for delivery, _ in outcomes])
        for delivery, outcome in outcomes:
            if any(delivery is each for each in lost):
                self._log_lost(delivery)
            else:
                self._note_settled(delivery, outcome)
            await asyncio.sleep(0)  # the other lanes need the loop between the log lines of a batch
        return True

    async def _finish(
        self, receiver: QueueReceiver, delivery: Delivery, decide: Callable[[], Awaitable[Outcome]]
    ) -> None:
        if delivery.lock_seconds_left < _MIN_LOCK_SECONDS and not await self._renewed(receiver, delivery):
            return
        try:
            async with self._marking_published() as mark_published:
                # Renew the lock until a queue has the outcome's message. The renewal ends before the settlement,
                # because a receiver serves one task at a time.
                async with kept_locked(receiver, delivery, self._log):
                    outcome = await self._send(await decide(), delivery)
                    # At once: the end of a renewal may take until its deadline.
                    mark_published(outcome)
                await self._settle(receiver, delivery, outcome)
                self._note_settled(delivery, outcome)
        except LockLost:
            self._log_lost(delivery)

    async def _renewed(self, receiver: QueueReceiver, delivery: Delivery) -> bool:
        """Return whether the broker renewed a lock that seems to expire. With a wrong clock, every lock does.

        Raises `ServiceBusFailure`.
        """
        try:
            await receiver.renew(delivery)
        except LockLost:
            sentence = "The lane skips a request whose lock has expired; Service Bus delivers the request again."
            self._log(logging.WARNING, "request.lock_expiring", sentence, delivery)
            return False
        return True

    async def _outcome(self, delivery: Delivery, decide: Decide) -> Outcome:
        outcome = None
        if parts := delivery.message.undecodable:
            sentence = "Parts of a message cannot be decoded; the lane handles it without them."
            self._log(logging.WARNING, "request.undecodable", sentence, delivery, parts=", ".join(parts))
        if not self._interrupted:  # the receive that was pending when the interrupt came may still deliver a request
            deciding = decide(delivery.message, self._read, self._queue, lock_held=_lock_held(delivery))
            outcome = await self._interruptible(deciding)
        outcome = outcome or Abandon("interrupted", "the worker stopped")
        self._burst.saw(outcome)
        return outcome

    async def _send(self, outcome: Outcome, delivery: Delivery) -> Outcome:
        """Send the outcome's messages; return the outcome that took effect. Raises `LockLost`.

        Raises `ServiceBusUnavailable` if the worker was interrupted before a queue accepted them. The lane then does
        not settle the message: Service Bus delivers it again, and the journal holds the decision.
        """
        sent = await self._interruptible(self._dispatcher.send(outcome, lock_held=_lock_held(delivery)))
        if sent is None:
            raise ServiceBusUnavailable(_STOPPED)
        return sent

    @contextlib.asynccontextmanager
    async def _marking_published(self) -> AsyncIterator[Callable[[Outcome], None]]:
        """Let the block begin to mark its result as published in the journal, and wait for the mark at the end.

        The mark and the settlement run concurrently because neither needs the other. After a crash between them, a
        redelivery publishes the result again under the same message ID, and duplicate detection drops it.
        """
        marks: list[asyncio.Task[None]] = []

        def begin(outcome: Outcome) -> None:
            work = self._dispatcher.mark_published(outcome)
            marks.append(asyncio.create_task(work, name=f"{self.name} mark published"))

        try:
            yield begin
        finally:
            for mark in marks:
                await mark

    async def _interruptible(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """Return the result of the work, None if `interrupt` ended it."""
        task = self._interruptible_task = asyncio.current_task()
        try:
            return await work
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            return None
        finally:
            if self._interruptible_task is None and task is not None:
                # `interrupt` cancelled the work, not the lane. A task that stays marked as cancelled would confuse
                # `asyncio.timeout` and `asyncio.TaskGroup`, which count cancellations.
                task.uncancel()
            self._interruptible_task = None

    async def _settle(self, receiver: QueueReceiver, delivery: Delivery, outcome: Outcome) -> None:
        match outcome:
            case Reply() | Continue() | AlreadyHandled() | PassOn():
                await receiver.complete(delivery)
            case DeadLetter(reason=reason, description=description):
                await receiver.dead_letter(delivery, reason, description)
            case Abandon():
                await receiver.abandon(delivery)
            case _:
                assert_never(outcome)

    def _note_settled(self, delivery: Delivery, outcome: Outcome) -> None:
        match outcome:
            case Reply(result=result):
                self._health.mark_result(result)
                sentence = f"{result.flow or 'An unreadable request'}: {result.status}."
                self._log(logging.INFO, "request.completed", sentence, delivery, **_summary(result))
            case DeadLetter(reason=reason, reply=reply):
                # The code only: the description may quote a flow or a sender.
                sentence = "A request is dead-lettered; the dead letter has the description."
                summary = {} if reply is None else _summary(reply.result)
                if reply is not None:
                    self._health.mark_result(reply.result)
                shown = logged_code(reason) if reply is not None else reason
                self._log(logging.WARNING, "request.dead_lettered", sentence, delivery, reason=shown, **summary)
            case Continue(continuation=following, due=due):
                sentence = f"{following.flow or 'An unreadable request'}: waits until {due:%H:%M:%S} UTC."
                self._log(
                    logging.INFO,
                    "request.rescheduled",
                    sentence,
                    delivery,
                    flow=following.flow,
                    code=logged_code(following.code),
                    attempts=following.calls,
                )
            case AlreadyHandled(code=code, sentence=sentence):
                self._log(logging.INFO, "request.already_handled", sentence, delivery, code=code)
            case PassOn(due=due, cause=cause):
                sentence = f"The lane leaves a continuation to another worker, until {due:%H:%M:%S}: {cause}."
                self._log(logging.WARNING, "request.passed_on", sentence, delivery)
            case Abandon(code=code, cause=cause):
                sentence = f"The lane abandons a request: {cause}."
                self._log(logging.WARNING, "request.abandoned", sentence, delivery, code=code)
            case _:
                assert_never(outcome)

    def _log_lost(self, delivery: Delivery) -> None:
        sentence = (
            "A request's lock expired before the lane settled it; Service Bus delivers the request again. Raise the "
            "queue's lock duration if flows are slow, or check the connection."
        )
        self._log(logging.WARNING, "request.lock_lost", sentence, delivery)

    def _log(self, level: int, event: str, sentence: str, delivery: Delivery, **fields: Field) -> None:
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


def _summary(result: FlowResult) -> dict[str, Field]:
    """Return what a reader of the log asks first about a result. It includes no text of the flow and no output."""
    return {
        "flow": result.flow,
        "status": result.status.value,
        "code": logged_code(result.error.code if result.error else None),
        "http_status": result.http_status,
        "attempts": result.attempts,
        "seconds": result.times.seconds,
    }


def _lock_held(delivery: Delivery) -> Callable[[], bool]:
    return lambda: delivery.lock_seconds_left > 0
