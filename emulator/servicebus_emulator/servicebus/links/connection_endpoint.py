"""One connection of a client: its links, by what they point to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from servicebus_emulator.amqp import (
    ConnectionClosed,
    DispositionReceived,
    Error,
    Event,
    FlowReceived,
    Link,
    LinkAttaching,
    LinkDetached,
    LinkSession,
    MessageReceived,
    Outcome,
    SessionEnded,
)
from servicebus_emulator.amqp.serial import advance
from servicebus_emulator.servicebus.access import UNCHECKED, Authorizer, ConnectionRights, Right
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.entities.sessions import MessageSession
from servicebus_emulator.servicebus.errors import DETACH_FORCED, NOT_ALLOWED, TIMEOUT, UNAUTHORIZED, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint
from servicebus_emulator.servicebus.links import attach
from servicebus_emulator.servicebus.links.addresses import Address, Node
from servicebus_emulator.servicebus.links.receiver_link import ReceiverLink
from servicebus_emulator.servicebus.links.request_link import RequestLink
from servicebus_emulator.servicebus.links.response_link import ResponseLink
from servicebus_emulator.servicebus.links.sender_link import SenderLink

_EXPIRED = "ExpiredToken: the token for '{path}' has expired, and no other was put to $cbs."
_MOVED = ServiceBusError(DETACH_FORCED, "The link was detached by the service.")


class _SessionWait:
    """A held attach: the client waits for the next free session."""

    def __init__(self, endpoint: ConnectionEndpoint, link: Link, queue: Queue, until: float) -> None:
        self._endpoint = endpoint
        self._link = link
        self._queue = queue
        self.until = until

    def granted(self, session: MessageSession) -> None:
        """See `sessions.Waiter`."""
        self._endpoint.open_consumer(self._link, self._queue, session)
        self._endpoint.wrote()

    def timed_out(self) -> None:
        """See `sessions.Waiter`."""
        self._endpoint.forget(self._link)
        self._link.refuse(Error(TIMEOUT, "No session with messages became free in time.", {}))
        self._endpoint.wrote()

    def give_up(self) -> None:
        """The client is gone."""
        self._queue.sessions.cancel_accept(self)


_Part = SenderLink | ReceiverLink | RequestLink | ResponseLink | _SessionWait


_HELD = SenderLink | ReceiverLink | _SessionWait
"""What ends with its entity."""


class ConnectionEndpoint:
    """Routes one connection's events to what its links point to.

    `wrote` is called when something other than the connection's own events gave it something to say.
    """

    def __init__(self, broker: Broker, *, wrote: Callable[[], None], authorizer: Authorizer = UNCHECKED) -> None:
        self._broker = broker
        self.claims = ConnectionRights(authorizer, self._drop_lapsed)
        self.wrote = wrote
        self._parts: dict[Link, _Part] = {}
        self._late: deque[Event] = deque()

    def handle(self, event: Event) -> None:
        """Act on one event of the connection; later, where that is asked for (`Faults.delay_seconds`)."""
        delay = self._broker.faults.delay_seconds
        if (not delay and not self._late) or isinstance(event, ConnectionClosed):
            self._act(event)
            return
        self._late.append(event)
        asyncio.get_running_loop().call_later(delay, self._act_late)

    def _act_late(self) -> None:
        """There is one call for each event, but the calls need not keep to their order."""
        if self._late:
            self._act(self._late.popleft())
            self.wrote()

    def _act(self, event: Event) -> None:
        match event:
            case MessageReceived(link=link):
                part = self._parts.get(link)
                if isinstance(part, SenderLink | RequestLink):
                    part.received(event)
            case FlowReceived(link=link, drain=drain):
                self._flowed(link, drain=drain)
            case DispositionReceived():
                self._settled(event)
            case LinkAttaching(link=link):
                self._attach(link)
            case LinkDetached(link=link):
                self.forget(link)
            case SessionEnded(session=session):
                for link in [one for one in self._parts if one.session is session]:
                    self.forget(link)
            case ConnectionClosed():
                self.close()
            case _:
                pass

    def close(self) -> None:
        """The client is gone: nothing of it may linger in the queues."""
        self._late.clear()
        self.claims.close()
        for link in list(self._parts):
            self.forget(link)

    def forget(self, link: Link) -> None:
        """The link is gone."""
        match self._parts.pop(link, None):
            case ReceiverLink() as consumer:
                consumer.stop()
            case _SessionWait() as wait:
                wait.give_up()
            case _:
                pass

    def writable(self) -> None:
        """The client has read; what was held back by its backlog may go on."""
        for part in list(self._parts.values()):
            match part:
                case ReceiverLink():
                    part.flowed(drain=False)
                case ResponseLink():
                    part.flush()
                case _:
                    pass

    def force_detach(self, entity: str, error: ServiceBusError = _MOVED) -> None:
        """Break all links to an entity, as the service does when it moves one, or for another reason."""
        for link, part in list(self._parts.items()):
            if attach.address(link).entity == entity and isinstance(part, _HELD):
                self.forget(link)
                link.detach(Error(error.condition, error.description, {}))
                self.wrote()

    def _drop_lapsed(self) -> None:
        """A token has expired: what it allowed ends."""
        for link in list(self._parts):
            address, right = attach.address(link), _right(link)
            if address.node is not Node.CBS and not self.claims.allow(address.path, right):
                self.forget(link)
                link.detach(Error(UNAUTHORIZED, _EXPIRED.format(path=address.path), {}))
                self.wrote()

    def _reply_links(self, session: LinkSession, address: Address) -> list[ResponseLink]:
        """Where answers of this node may go within an AMQP session."""
        return [
            part
            for link, part in self._parts.items()
            if isinstance(part, ResponseLink) and link.session is session and attach.address(link) == address
        ]

    def open_consumer(self, link: Link, queue: Queue, session: MessageSession | None) -> None:
        """Answer a receiver's attach and begin to serve it."""
        attach.accept_receiver(link, queue.settings, session)
        consumer = ReceiverLink(queue, link, session, self.wrote)
        self._parts[link] = consumer
        consumer.start()

    def _attach(self, link: Link) -> None:
        try:
            attach.require_supported(link)
            self._open(link, attach.address(link))
        except ServiceBusError as error:
            link.refuse(Error(error.condition, error.description, {}))

    def _open(self, link: Link, address: Address) -> None:
        if address.node is Node.CBS:
            self._open_request(link, address, None)
            return
        self.claims.require(address.path, _right(link))
        queue = self._broker.find(address.entity)
        self._broker.faults.check(FaultPoint.ATTACH, address.entity)
        if address.node is Node.MANAGEMENT:
            self._open_request(link, address, queue.settings)
        elif link.peer_is_sender:
            self._open_sender(link, queue)
        else:
            self._open_receiver(link, queue)

    def _open_request(self, link: Link, address: Address, settings: QueueSettings | None) -> None:
        attach.accept_request(link, settings)
        if link.peer_is_sender:
            replies = lambda: self._reply_links(link.session, address)  # noqa: E731 - a def would say no more
            self._parts[link] = RequestLink(link, address, self._broker, self.claims, replies)
        else:
            self._parts[link] = ResponseLink(link)

    def _open_sender(self, link: Link, queue: Queue) -> None:
        if queue.dead_letters is None:
            raise ServiceBusError(NOT_ALLOWED, "Messages cannot be sent to a dead-letter queue.")
        queue.require_sendable()
        attach.accept_sender(link, queue.settings)
        self._parts[link] = SenderLink(self._broker, queue, link)

    def _open_receiver(self, link: Link, queue: Queue) -> None:
        queue.require_receivable()
        wanted, session_id = attach.session_wanted(link)
        attach.require_fitting(queue.settings, session_wanted=wanted)
        if not wanted:
            self.open_consumer(link, queue, None)
        elif session_id is not None:
            self.open_consumer(link, queue, queue.sessions.accept(session_id))
        else:
            wait = _SessionWait(self, link, queue, self._broker.now() + attach.session_wait_seconds(link))
            self._parts[link] = wait
            queue.sessions.accept_next(wait)

    def _flowed(self, link: Link, *, drain: bool) -> None:
        match self._parts.get(link):
            case ReceiverLink() as consumer:
                consumer.flowed(drain=drain)
            case ResponseLink() as reply_link:
                reply_link.flush()
                if drain:
                    link.drained()
            case _:
                pass

    def _settled(self, event: DispositionReceived) -> None:
        if not event.role_receiver:
            return
        for link, part in list(self._parts.items()):
            if isinstance(part, ReceiverLink) and link.session is event.session:
                self._settle(event, part)

    def _settle(self, event: DispositionReceived, consumer: ReceiverLink) -> None:
        replies: list[tuple[int, Outcome]] = []
        for delivery_id in consumer.deliveries_in(event.first, event.last):
            reply = consumer.settle(delivery_id, event.state, settled=event.settled, faults=self._broker.faults)
            if reply is not None and not event.settled:
                replies.append((delivery_id, reply))
        for first, last, reply in _runs(replies):
            event.session.settle(False, first, last, reply)


def _right(link: Link) -> Right:
    """What the link needs; one to a `$management` node either: each request is looked at."""
    if attach.address(link).node is Node.MANAGEMENT:
        return Right.SEND | Right.LISTEN
    return Right.SEND if link.peer_is_sender else Right.LISTEN


def _runs(replies: list[tuple[int, Outcome]]) -> list[tuple[int, int, Outcome]]:
    """The same answer to deliveries one after the other is said once."""
    runs: list[tuple[int, int, Outcome]] = []
    for delivery_id, reply in replies:
        if runs and runs[-1][1:] == (advance(delivery_id, -1), reply):
            runs[-1] = (runs[-1][0], delivery_id, reply)
        else:
            runs.append((delivery_id, delivery_id, reply))
    return runs
