"""The namespace: all queues by name, and the timer that runs their due events."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator

from servicebus_emulator.servicebus.access.policies import Policy
from servicebus_emulator.servicebus.clock import Clock
from servicebus_emulator.servicebus.duration import MAX_SECONDS
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import (
    IMMUTABLE_SETTINGS,
    QueueSettings,
    check_forwarding_targets,
)
from servicebus_emulator.servicebus.entities.storage import NO_STORAGE, MessageStorage, NotPersisted
from servicebus_emulator.servicebus.errors import (
    ARGUMENT_ERROR,
    ENTITY_ALREADY_EXISTS,
    ENTITY_DISABLED,
    NOT_FOUND,
    ServiceBusError,
)
from servicebus_emulator.servicebus.faults import ServiceBusFaults

_log = logging.getLogger(__name__)

_MIN_TIMER_SECONDS = 0.001
_RETRY_SECONDS = 0.1

LinkBreaker = Callable[[str, ServiceBusError], None]
"""Breaks the links to an entity. Gets the entity's name in lower case, and the error for the clients."""


class Broker:
    """The queues of one namespace. Every method runs on the event loop's thread."""

    def __init__(
        self, queues: Iterable[QueueSettings], *, clock: Clock = time.time, storage: MessageStorage = NO_STORAGE
    ) -> None:
        self._clock = clock
        self.storage = storage
        self.faults = ServiceBusFaults()
        self.created_at = clock()
        self._queues: dict[str, Queue] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._link_breakers: list[LinkBreaker] = []
        for settings in queues:
            self.add(settings)

    # --- queues --------------------------------------------------------------------------------------------------

    def add(self, settings: QueueSettings, *, created_at: float | None = None) -> Queue:
        """Add a queue from the configuration or the storage, whose settings are known to be valid."""
        queue = Queue(settings, clock=self._clock, reschedule=self._reschedule, find=self.find, storage=self.storage)
        queue.created_at = queue.created_at if created_at is None else created_at
        for entity in (queue, *queue.subqueues()):
            self._queues[entity.settings.name.lower()] = entity
        self.storage.put_queue(settings, queue.created_at, queue.updated_at)
        return queue

    def entities(self) -> list[Queue]:
        """Return all queues without their subqueues, by name."""
        queues = (queue for queue in self._queues.values() if queue.dead_letters is not None)
        return sorted(queues, key=lambda queue: queue.settings.name.lower())

    def policies(self) -> Iterator[Policy]:
        """Yield the shared access policies of the queues."""
        for queue in self._queues.values():
            yield from queue.settings.policies

    def find(self, name: str) -> Queue:
        """Return a queue or subqueue by its name in any case. Raises `ServiceBusError` (not-found)."""
        queue = self._queues.get(name.lower())
        if queue is None:
            raise ServiceBusError(NOT_FOUND, f"The messaging entity '{name}' could not be found.")
        return queue

    def create(self, settings: QueueSettings) -> Queue:
        """Create a queue. Raises `ServiceBusError` if the name is taken or the settings are invalid."""
        if settings.name.lower() in self._queues:
            raise ServiceBusError(ENTITY_ALREADY_EXISTS, f"There is a queue '{settings.name}' already.")
        self._check(settings)
        queue = self.add(settings)
        self._entities_changed()
        return queue

    def update(self, settings: QueueSettings) -> Queue:
        """Change a queue's settings. Raises `ServiceBusError` if the queue is missing or the change is invalid.

        A queue that is no longer fully enabled loses its links: clients must notice, and attach again where they may.
        """
        queue = self.find(settings.name)
        for name in IMMUTABLE_SETTINGS:
            if getattr(settings, name) != getattr(queue.settings, name):
                raise ServiceBusError(ARGUMENT_ERROR, f"'{name}' cannot be changed once a queue exists.")
        self._check(settings)
        queue.update(settings)
        self.storage.put_queue(settings, queue.created_at, queue.updated_at)
        if not (settings.status.can_send and settings.status.can_receive):
            self._break_links(queue, ServiceBusError(ENTITY_DISABLED, f"'{settings.name}' is disabled."))
        self._entities_changed()
        return queue

    def delete(self, name: str) -> None:
        """Delete a queue with its messages. Raises `ServiceBusError` if the queue is missing, or is a subqueue."""
        queue = self.find(name)
        if queue.dead_letters is None:
            raise ServiceBusError(ARGUMENT_ERROR, "A dead-letter queue goes with its queue.")
        self.storage.delete_queue(queue.settings.name.lower())
        for entity in (queue, *queue.subqueues()):
            del self._queues[entity.settings.name.lower()]
        self._break_links(queue, ServiceBusError(NOT_FOUND, f"The messaging entity '{name}' was deleted."))
        self._entities_changed()

    def counts(self) -> dict[str, dict[str, int]]:
        """Return each queue's numbers of messages by state; see `Queue.counts`."""
        return {queue.settings.name: queue.counts() for queue in self.entities()}

    def _check(self, settings: QueueSettings) -> None:
        queues = {queue.settings.name.lower(): queue.settings for queue in self.entities()}
        try:
            check_forwarding_targets(settings, queues | {settings.name.lower(): settings})
        except ValueError as error:
            raise ServiceBusError(ARGUMENT_ERROR, f"{error}.") from None

    def _entities_changed(self) -> None:
        self.storage.flush()
        self._reschedule()

    # --- links ---------------------------------------------------------------------------------------------------

    def add_link_breaker(self, link_breaker: LinkBreaker) -> None:
        """Call `link_breaker` for each entity whose links are to be broken."""
        self._link_breakers.append(link_breaker)

    def break_links(self, name: str, error: ServiceBusError) -> None:
        """Break the links to a queue and its subqueues. Raises `ServiceBusError` if there is no such queue."""
        self._break_links(self.find(name), error)

    def _break_links(self, queue: Queue, error: ServiceBusError) -> None:
        for entity in (queue, *queue.subqueues()):
            for break_links in self._link_breakers:
                break_links(entity.settings.name.lower(), error)

    # --- time ----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return self._clock()

    def clock_moved(self) -> None:
        """Run the events that the moved clock has made due, in the loop's next turn."""
        self._reschedule()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    def _reschedule(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # unit tests without a loop call `Queue.tick` themselves
        # The search for the next due moment reads every queue, which is too slow for each message. So one call at the
        # end of the loop's current turn serves all changes until then.
        if self._timer_at > 0:
            self._set_timer(loop, 0)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = moment
        # A minimum delay keeps a timer that fires slightly early from spinning until its moment has come.
        delay = 0.0 if moment == 0 else max(_MIN_TIMER_SECONDS, moment - self._clock())
        self._timer = loop.call_later(delay, self._run_due)

    def _run_due(self) -> None:
        self._timer, self._timer_at = None, math.inf
        succeeded = True
        for queue in self.entities():
            succeeded = self._run_due_in(queue) and succeeded
        try:
            self.storage.flush()
        except NotPersisted:
            succeeded = False  # the storage logs the failure, and the connections report it to their clients
        due = min((min(queue.next_due(), _idle_until(queue)) for queue in self.entities()), default=math.inf)
        if not succeeded:
            due = self._clock() + _RETRY_SECONDS
        if due != math.inf:
            self._set_timer(asyncio.get_running_loop(), due)

    def _run_due_in(self, queue: Queue) -> bool:
        """Run the due events of one queue; return False if one failed.

        The broker does not repeat a failed event, because its timer is gone. The retry runs the events due after it.
        """
        now = self._clock()
        try:
            if queue.next_due() <= now:
                queue.tick()
            if _idle_until(queue) <= now:
                self._delete_if_idle(queue)
        except NotPersisted:
            return False
        except Exception:  # noqa: BLE001 - a fault in one queue must not stop the timers of the others
            _log.exception("A timer of queue '%s' failed.", queue.settings.name)
            return False
        return True

    def _delete_if_idle(self, queue: Queue) -> None:
        # Receiving is use, but only opening a receiver sets `accessed_at`. So an open receiver extends it here.
        if queue.in_use():
            queue.accessed_at = self._clock()
        else:
            self.delete(queue.settings.name)


def _idle_until(queue: Queue) -> float:
    idle_seconds = queue.settings.auto_delete_seconds
    return queue.accessed_at + idle_seconds if idle_seconds < MAX_SECONDS else math.inf
