"""All queues by name, and the one timer that wakes them."""

from __future__ import annotations

import asyncio
import logging
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

_SOONEST_SECONDS = 0.001
_AGAIN_SECONDS = 0.1
"""After a failure."""

LinksToBreak = Callable[[str, ServiceBusError], None]


class Broker:
    """The namespace: its queues, and what they have due."""

    def __init__(
        self, queues: Iterable[QueueSettings], *, clock: Clock = time.time, store: MessageStorage = NO_STORAGE
    ) -> None:
        self._clock = clock
        self.store = store
        self.faults = ServiceBusFaults()
        self.created_at = clock()
        self._queues: dict[str, Queue] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._watchers: list[LinksToBreak] = []
        for settings in queues:
            self.add(settings)

    def add(self, settings: QueueSettings, *, created_at: float | None = None) -> Queue:
        """A queue that needs no checking, being configured or restored."""
        queue = Queue(settings, clock=self._clock, changed=self._reschedule, find=self.find, store=self.store)
        queue.created_at = queue.created_at if created_at is None else created_at
        for one in (queue, *queue.below()):
            self._queues[one.settings.name.lower()] = one
        self.store.put_queue(settings, queue.created_at, queue.updated_at)
        return queue

    def entities(self) -> list[Queue]:
        """All queues but those for dead letters, by name."""
        own = (queue for queue in self._queues.values() if queue.dead_letters is not None)
        return sorted(own, key=lambda queue: queue.settings.name.lower())

    def policies(self) -> Iterator[Policy]:
        """The queues' own shared access policies."""
        for queue in self._queues.values():
            yield from queue.settings.policies

    def find(self, name: str) -> Queue:
        """The queue (or dead-letter queue) of this name, in any case. Raises `ServiceBusError` if there is none."""
        queue = self._queues.get(name.lower())
        if queue is None:
            raise ServiceBusError(NOT_FOUND, f"The messaging entity '{name}' could not be found.")
        return queue

    def create(self, settings: QueueSettings) -> Queue:
        """A new queue. Raises `ServiceBusError` if there is one of the name, or its rules do not hold."""
        if settings.name.lower() in self._queues:
            raise ServiceBusError(ENTITY_ALREADY_EXISTS, f"There is a queue '{settings.name}' already.")
        self._check(settings)
        queue = self.add(settings)
        self._changed_entities()
        return queue

    def update(self, settings: QueueSettings) -> Queue:
        """Other rules for a queue. Raises `ServiceBusError` if there is none, or its rules cannot be changed so."""
        queue = self.find(settings.name)
        for rule in IMMUTABLE_SETTINGS:
            if getattr(settings, rule) != getattr(queue.settings, rule):
                raise ServiceBusError(ARGUMENT_ERROR, f"'{rule}' cannot be changed once a queue is made.")
        self._check(settings)
        queue.update(settings)
        self.store.put_queue(settings, queue.created_at, queue.updated_at)
        if not (settings.status.can_send and settings.status.can_receive):
            self._break_links(queue, ServiceBusError(ENTITY_DISABLED, f"'{settings.name}' is disabled."))
        self._changed_entities()
        return queue

    def delete(self, name: str) -> None:
        """Forget a queue, with all messages. Raises `ServiceBusError` if there is none of the name."""
        queue = self.find(name)
        if queue.dead_letters is None:
            raise ServiceBusError(ARGUMENT_ERROR, "A dead-letter queue goes with its queue.")
        self.store.delete_queue(queue.settings.name.lower())
        for one in (queue, *queue.below()):
            del self._queues[one.settings.name.lower()]
        self._break_links(queue, ServiceBusError(NOT_FOUND, f"The messaging entity '{name}' was deleted."))
        self._changed_entities()

    def on_break(self, watcher: LinksToBreak) -> None:
        """`watcher` is told when the links to an entity (its name in lower case) have to be broken, and why."""
        self._watchers.append(watcher)

    def break_links(self, name: str, error: ServiceBusError) -> None:
        """Have the links to a queue and what is below it broken. Raises `ServiceBusError` if there is no such queue."""
        self._break_links(self.find(name), error)

    def clock_moved(self) -> None:
        """Do soon what has become due."""
        self._reschedule()

    def _break_links(self, queue: Queue, error: ServiceBusError) -> None:
        for one in (queue, *queue.below()):
            for watcher in self._watchers:
                watcher(one.settings.name.lower(), error)

    def _check(self, settings: QueueSettings) -> None:
        others = {queue.settings.name.lower(): queue.settings for queue in self.entities()}
        try:
            check_forwarding_targets(settings, others | {settings.name.lower(): settings})
        except ValueError as error:
            raise ServiceBusError(ARGUMENT_ERROR, f"{error}.") from None

    def _changed_entities(self) -> None:
        self.store.flush()
        self._reschedule()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock()

    def counts(self) -> dict[str, dict[str, int]]:
        """Each queue's messages by state."""
        return {queue.settings.name: queue.counts() for queue in self.entities()}

    def close(self) -> None:
        """Wake no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, float("inf")

    def _reschedule(self) -> None:
        """Something may be due sooner. Without a running loop (unit tests) the caller ticks."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        # Looking at every queue for each message would be slow, so it is done once, after the current event.
        if self._timer_at > 0:
            self._set_timer(loop, 0)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = moment
        delay = 0.0 if moment == 0 else max(_SOONEST_SECONDS, moment - self._clock())
        self._timer = loop.call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        done = True
        for queue in self.entities():
            done = self._wake_one(queue) and done
        try:
            self.store.flush()
        except NotPersisted:
            done = False  # told by the store, and to whoever would learn of what is not saved
        due = min((min(queue.next_due(), _idle_until(queue)) for queue in self.entities()), default=float("inf"))
        if not done:
            due = self._clock() + _AGAIN_SECONDS
        if due != float("inf"):
            self._set_timer(asyncio.get_running_loop(), due)

    def _wake_one(self, queue: Queue) -> bool:
        """Whether all was done that is due in it; what failed is not tried again, what is behind it is."""
        now = self._clock()
        try:
            if queue.next_due() <= now:
                queue.tick()
            if _idle_until(queue) <= now:
                self._delete_if_idle(queue)
        except NotPersisted:
            return False
        except Exception:  # noqa: BLE001 - a fault in one event must not keep the others from happening
            _log.exception("Something that was due in '%s' failed.", queue.settings.name)
            return False
        return True

    def _delete_if_idle(self, queue: Queue) -> None:
        """Nobody has used it for as long as its rules say. Who receives from it uses it."""
        if queue.in_use():
            queue.accessed_at = self._clock()
        else:
            self.delete(queue.settings.name)


def _idle_until(queue: Queue) -> float:
    idle = queue.settings.auto_delete_seconds
    return queue.accessed_at + idle if idle < MAX_SECONDS else float("inf")
