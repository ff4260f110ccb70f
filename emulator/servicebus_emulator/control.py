"""What a test does to a running Service Bus: trouble on demand, other queues, another time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial, wraps
from typing import TypeVar, cast

from servicebus_emulator.servicebus.clock import MovableClock
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import DETACH_FORCED, MESSAGE_LOCK_LOST, SERVER_BUSY, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint, InjectedRefusal
from servicebus_emulator.transport.amqp_server import AmqpServer

_ANSWER_SECONDS = 10.0
_Method = TypeVar("_Method", bound=Callable[..., object])


def _in_its_loop(method: _Method) -> _Method:
    """The broker belongs to its event loop; a call from another thread is done there and waited for."""

    @wraps(method)
    def call(self: Control, *args: object, **kwargs: object) -> object:
        if threading.get_ident() == self.thread:
            return method(self, *args, **kwargs)
        done: Future[object] = Future()
        self.loop.call_soon_threadsafe(_do, done, partial(method, self, *args, **kwargs))
        return done.result(_ANSWER_SECONDS)

    return cast(_Method, call)


def _do(done: Future[object], work: Callable[[], object]) -> None:
    try:
        done.set_result(work())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
        done.set_exception(error)


class Control:
    """Made in the event loop that serves; its methods may be called from any thread.

    Names of queues ignore case; a dead-letter queue is named `orders/$deadletterqueue`. Where a queue is named that
    does not exist, `ServiceBusError` is raised.
    """

    def __init__(self, broker: Broker, server: AmqpServer, clock: MovableClock) -> None:
        self._broker = broker
        self._server = server
        self._clock = clock
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()

    # --- connections and links -----------------------------------------------------------------------------------

    @_in_its_loop
    def freeze(self) -> None:
        """Neither read nor answer; the connections stay up."""
        self._server.freeze()

    @_in_its_loop
    def thaw(self) -> None:
        """Go on after `freeze`, with what came meanwhile."""
        self._server.thaw()

    @_in_its_loop
    def drop_connections(self) -> None:
        """Break every connection without a word, as a network does."""
        self._server.drop_connections()

    @_in_its_loop
    def force_detach(
        self, queue: str, condition: str = DETACH_FORCED, description: str = "Detached on demand."
    ) -> None:
        """Detach all links to a queue and to what is below it."""
        self._broker.break_links(queue, ServiceBusError(condition, description))

    @_in_its_loop
    def delay(self, seconds: float) -> None:
        """Act on what clients say only so much later, in its order; 0: at once again. Raises `ValueError`."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"a delay of {seconds} seconds cannot be; 0 ends it")
        self._broker.faults.delay_seconds = seconds

    # --- refusals ------------------------------------------------------------------------------------------------

    @_in_its_loop
    def refuse(
        self,
        at: FaultPoint | str,
        condition: str,
        *,
        queue: str | None = None,
        times: int | None = None,
        description: str = "Refused on demand.",
    ) -> None:
        """Refuse with any condition what is done `at` a place: "send", "settle", "attach", "request", "token".

        At one queue or (None) at all, so many times or (None) until `forgive`. Raises `ValueError`.
        """
        self._refuse(InjectedRefusal(FaultPoint(at), condition, description, queue, times))

    def reject_next_settlement(self, condition: str = MESSAGE_LOCK_LOST, *, queue: str | None = None) -> None:
        """The next completion, abandonment, deferral or dead-lettering fails, as if its lock were lost."""
        self.refuse(FaultPoint.SETTLE, condition, queue=queue, times=1)

    @_in_its_loop
    def be_busy(self, *, queue: str | None = None, times: int | None = None) -> None:
        """Answer "server busy", except to tokens; `times` counts for each place of `refuse` by itself."""
        for at in (FaultPoint.SEND, FaultPoint.SETTLE, FaultPoint.ATTACH, FaultPoint.REQUEST):
            self._refuse(InjectedRefusal(at, SERVER_BUSY, "The server is busy.", queue, times))

    @_in_its_loop
    def refusals(self) -> list[InjectedRefusal]:
        """What is refused at present; `times` is what is left of them."""
        return [replace(refusal) for refusal in self._broker.faults.refusals]

    @_in_its_loop
    def put_refusals(self, refusals: list[InjectedRefusal]) -> None:
        """Refuse these, and nothing else."""
        self._broker.faults.refusals.clear()
        for refusal in refusals:
            self._refuse(refusal)

    def _refuse(self, refusal: InjectedRefusal) -> None:
        if refusal.queue is not None:
            self._broker.find(refusal.queue)  # a name that is misspelt would never be met
        self._broker.faults.refusals.append(refusal)

    @_in_its_loop
    def forgive(self) -> None:
        """No trouble any more: nothing is refused, delayed or frozen."""
        self._broker.faults.refusals.clear()
        self._broker.faults.delay_seconds = 0.0
        self._server.thaw()

    # --- time ----------------------------------------------------------------------------------------------------

    @_in_its_loop
    def advance(self, seconds: float) -> None:
        """Let time pass for the broker at once: what falls due by then is done. Raises `ValueError`.

        The clients' clocks are not moved: who looks at its own for the end of a lock does not see it.
        """
        self._clock.advance(seconds)
        for queue in self._broker.entities():
            if queue.next_due() <= self._clock():
                queue.tick()
        self._broker.clock_moved()

    @_in_its_loop
    def expire_locks(self, queue: str) -> int:
        """End every lock on a queue's messages and sessions now; how many there were."""
        found = self._broker.find(queue)
        ended = found.sessions.expire_locks() + found.expire_locks()
        found.tick()
        return ended

    @_in_its_loop
    def now(self) -> float:
        """The broker's time, in seconds since the epoch."""
        return self._clock()

    # --- queues --------------------------------------------------------------------------------------------------

    @_in_its_loop
    def create_queue(self, settings: QueueSettings | str) -> None:
        """A new queue; by its name alone, with the service's defaults. Raises `ServiceBusError`."""
        self._broker.create(QueueSettings(settings) if isinstance(settings, str) else settings)

    @_in_its_loop
    def update_queue(self, name: str, **rules: object) -> None:
        """Other rules (fields of `QueueSettings`) for a queue. Raises `ServiceBusError`, `TypeError`."""
        self._broker.update(replace(self._broker.find(name).settings, **rules))  # type: ignore[arg-type]  # see above

    @_in_its_loop
    def delete_queue(self, name: str) -> None:
        """Forget a queue, with all its messages."""
        self._broker.delete(name)

    @_in_its_loop
    def counts(self, queue: str) -> dict[str, int]:
        """How many messages are "active" (those under a lock too), "deferred", "scheduled" and "dead_lettered"."""
        return self._broker.find(queue).counts()

    @_in_its_loop
    def frozen(self) -> bool:
        """Whether it is, by `freeze`."""
        return self._broker.faults.frozen

    @_in_its_loop
    def delay_seconds(self) -> float:
        """What `delay` has set."""
        return self._broker.faults.delay_seconds
