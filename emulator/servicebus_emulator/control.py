"""Control of a running Service Bus by tests: faults on demand, queues, and the broker's clock."""

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


def _runs_in_loop(method: _Method) -> _Method:
    """Run a method in the broker's event loop, and wait for its result if the caller is in another thread.

    The broker has no locks: all access to it must happen in the thread of its event loop.
    """

    @wraps(method)
    def call(self: Control, *args: object, **kwargs: object) -> object:
        if threading.get_ident() == self.thread:
            return method(self, *args, **kwargs)
        done: Future[object] = Future()
        self.loop.call_soon_threadsafe(_resolve, done, partial(method, self, *args, **kwargs))
        return done.result(_ANSWER_SECONDS)

    return cast(_Method, call)


def _resolve(done: Future[object], work: Callable[[], object]) -> None:
    try:
        done.set_result(work())
    except Exception as error:  # noqa: BLE001 - the caller gets any error
        done.set_exception(error)


class Control:
    """Controls a running Service Bus. Create it in the event loop that serves; call its methods from any thread.

    Queue names ignore case. The dead-letter queue of `orders` is `orders/$deadletterqueue`. Every method with a queue
    name raises `ServiceBusError` if that queue does not exist.
    """

    def __init__(self, broker: Broker, server: AmqpServer, clock: MovableClock) -> None:
        self._broker = broker
        self._server = server
        self._clock = clock
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()

    # --- connections and links -----------------------------------------------------------------------------------

    @_runs_in_loop
    def freeze(self) -> None:
        """Stop reading and answering. The connections stay open."""
        self._server.freeze()

    @_runs_in_loop
    def thaw(self) -> None:
        """End `freeze`, and process the input that arrived meanwhile."""
        self._server.thaw()

    @_runs_in_loop
    def drop_connections(self) -> None:
        """Abort every connection without a close frame, as a network failure does."""
        self._server.drop_connections()

    @_runs_in_loop
    def force_detach(
        self, queue: str, condition: str = DETACH_FORCED, description: str = "Detached on demand."
    ) -> None:
        """Detach all links to a queue and to its subqueues."""
        self._broker.break_links(queue, ServiceBusError(condition, description))

    @_runs_in_loop
    def delay(self, seconds: float) -> None:
        """Handle every frame of clients this much later, in the order of arrival; 0 ends the delay.

        Raises `ValueError` for a negative or infinite number.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"a delay of {seconds} seconds cannot be; 0 ends it")
        self._broker.faults.delay_seconds = seconds

    # --- refusals ------------------------------------------------------------------------------------------------

    @_runs_in_loop
    def refuse(
        self,
        at: FaultPoint | str,
        condition: str,
        *,
        queue: str | None = None,
        times: int | None = None,
        description: str = "Refused on demand.",
    ) -> None:
        """Refuse an operation with an error condition: "send", "settle", "attach", "request" or "token".

        `queue`: one queue, or None for all queues. `times`: the number of refusals, or None until `clear_faults`.
        Raises `ValueError` for an unknown operation, a number below 1, or a malformed condition.
        """
        self._refuse(InjectedRefusal(FaultPoint(at), condition, description, queue, times))

    def reject_next_settlement(self, condition: str = MESSAGE_LOCK_LOST, *, queue: str | None = None) -> None:
        """Fail the next completion, abandonment, deferral or dead-lettering, by default with a lost lock."""
        self.refuse(FaultPoint.SETTLE, condition, queue=queue, times=1)

    @_runs_in_loop
    def throttle(self, *, queue: str | None = None, times: int | None = None) -> None:
        """Refuse every operation except tokens with `com.microsoft:server-busy`.

        `times` applies to each operation separately: `times=1` refuses one send, one settlement, and so on.
        """
        for at in (FaultPoint.SEND, FaultPoint.SETTLE, FaultPoint.ATTACH, FaultPoint.REQUEST):
            self._refuse(InjectedRefusal(at, SERVER_BUSY, "The server is busy.", queue, times))

    @_runs_in_loop
    def refusals(self) -> list[InjectedRefusal]:
        """Return copies of the refusals in force. `times` is the number that remains."""
        return [replace(refusal) for refusal in self._broker.faults.refusals]

    @_runs_in_loop
    def replace_refusals(self, refusals: list[InjectedRefusal]) -> None:
        """Replace all refusals by these."""
        self._broker.faults.refusals.clear()
        for refusal in refusals:
            self._refuse(refusal)

    def _refuse(self, refusal: InjectedRefusal) -> None:
        if refusal.queue is not None:
            self._broker.find(refusal.queue)  # raise for a misspelt name: such a refusal would never apply
        self._broker.faults.refusals.append(refusal)

    @_runs_in_loop
    def clear_faults(self) -> None:
        """End all refusals, the delay, and `freeze`."""
        self._broker.faults.refusals.clear()
        self._broker.faults.delay_seconds = 0.0
        self._server.thaw()

    # --- time ----------------------------------------------------------------------------------------------------

    @_runs_in_loop
    def advance(self, seconds: float) -> None:
        """Advance the broker's clock, and run everything that falls due. Raises `ValueError` for a negative number.

        The clock of the client does not move. A client that compares a lock's expiry with its own clock sees no change.
        """
        self._clock.advance(seconds)
        for queue in self._broker.entities():
            if queue.next_due() <= self._clock():
                queue.tick()
        self._broker.clock_moved()

    @_runs_in_loop
    def expire_locks(self, queue: str) -> int:
        """Expire all locks on the messages and sessions of a queue; return their number."""
        target = self._broker.find(queue)
        expired = target.sessions.expire_locks() + target.expire_locks()
        target.tick()
        return expired

    @_runs_in_loop
    def now(self) -> float:
        """Return the broker's time in seconds since the epoch."""
        return self._clock()

    # --- queues --------------------------------------------------------------------------------------------------

    @_runs_in_loop
    def create_queue(self, settings: QueueSettings | str) -> None:
        """Create a queue; a name alone gives it the service's defaults.

        Raises `ServiceBusError` if the queue exists or the settings are invalid.
        """
        self._broker.create(QueueSettings(settings) if isinstance(settings, str) else settings)

    @_runs_in_loop
    def update_queue(self, name: str, **changes: object) -> None:
        """Change settings of a queue, named as the fields of `QueueSettings`.

        Raises `TypeError` for an unknown field, `ServiceBusError` for an invalid setting.
        """
        self._broker.update(replace(self._broker.find(name).settings, **changes))  # type: ignore[arg-type]  # `replace` checks the names

    @_runs_in_loop
    def delete_queue(self, name: str) -> None:
        """Delete a queue with all its messages."""
        self._broker.delete(name)

    @_runs_in_loop
    def counts(self, queue: str) -> dict[str, int]:
        """Return the number of messages: "active" (locked ones included), "deferred", "scheduled", "dead_lettered"."""
        return self._broker.find(queue).counts()

    @_runs_in_loop
    def frozen(self) -> bool:
        """Return True between `freeze` and `thaw`."""
        return self._broker.faults.frozen

    @_runs_in_loop
    def delay_seconds(self) -> float:
        """Return the seconds set by `delay`."""
        return self._broker.faults.delay_seconds
