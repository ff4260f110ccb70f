"""The broker's end of one connection: attaches links to nodes, and passes the connection's events on to them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import assert_never

from servicebus_emulator.amqp import (
    ConnectionClosed,
    ConnectionOpened,
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
    SessionBegun,
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
_DETACHED = ServiceBusError(DETACH_FORCED, "The link was detached by the service.")


class PendingSessionLink:
    """A receiver's attach whose answer waits for a free session. Implements `sessions.PendingAccept`."""

    def __init__(self, endpoint: ConnectionEndpoint, link: Link, queue: Queue, until: float) -> None:
        self._endpoint = endpoint
        self._link = link
        self._queue = queue
        self.until = until

    def granted(self, session: MessageSession) -> None:
        """See `sessions.PendingAccept`."""
        self._endpoint.open_receiver(self._link, self._queue, session)
        self._endpoint.on_output()

    def timed_out(self) -> None:
        """See `sessions.PendingAccept`."""
        self._endpoint.forget(self._link)
        self._link.refuse(Error(TIMEOUT, "No session with messages became free in time.", {}))
        self._endpoint.on_output()

    def cancel(self) -> None:
        """Stop waiting. A session that is granted to a closed link would stay locked without a receiver."""
        self._queue.sessions.cancel_accept(self)


_EntityLink = SenderLink | ReceiverLink | PendingSessionLink
"""The links to an entity itself. They end with the entity; those to its `$management` node report the error instead."""
_OpenLink = _EntityLink | RequestLink | ResponseLink


class ConnectionEndpoint:
    """The links of one connection.

    `on_output`: called when a link writes outside of an event of this connection, so that the transport sends it.
    """

    def __init__(self, broker: Broker, *, on_output: Callable[[], None], authorizer: Authorizer = UNCHECKED) -> None:
        self._broker = broker
        self.rights = ConnectionRights(authorizer, self._detach_unauthorized)
        self.on_output = on_output
        self._links: dict[Link, _OpenLink] = {}
        self._delayed: deque[Event] = deque()

    # --- events --------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Handle one event of the connection, after the injected delay if there is one.

        Later events wait behind delayed ones, even without a delay any more, because frames must keep their order. The
        end of the connection does not wait, since nothing can be sent any more.
        """
        delay = self._broker.faults.delay_seconds
        if (not delay and not self._delayed) or isinstance(event, ConnectionClosed):
            self._handle(event)
            return
        self._delayed.append(event)
        asyncio.get_running_loop().call_later(delay, self._handle_delayed)

    def _handle_delayed(self) -> None:
        # Each event has one scheduled call, but calls with different delays may come out of order. So each call handles
        # the first waiting event, and not the event that it was scheduled for.
        if self._delayed:
            self._handle(self._delayed.popleft())
            self.on_output()

    def _handle(self, event: Event) -> None:
        match event:
            case MessageReceived(link=link):
                self._received(link, event)
            case FlowReceived(link=link, drain=drain):
                self._flowed(link, drain=drain)
            case DispositionReceived():
                self._settled(event)
            case LinkAttaching(link=link):
                self._attach(link)
            case LinkDetached(link=link):
                self.forget(link)
            case SessionEnded(session=session):
                for link in [link for link in self._links if link.session is session]:
                    self.forget(link)
            case ConnectionClosed():
                self.close()
            case ConnectionOpened() | SessionBegun():
                pass
            case _:
                assert_never(event)

    def writable(self) -> None:
        """Send the output that links held back while the connection's backlog was too large."""
        for open_link in list(self._links.values()):
            match open_link:
                case ReceiverLink():
                    open_link.flowed(drain=False)
                case ResponseLink():
                    open_link.flush()
                case _:
                    pass

    def _received(self, link: Link, event: MessageReceived) -> None:
        open_link = self._links.get(link)
        if isinstance(open_link, SenderLink | RequestLink):
            open_link.received(event)

    def _flowed(self, link: Link, *, drain: bool) -> None:
        match self._links.get(link):
            case ReceiverLink() as receiver:
                receiver.flowed(drain=drain)
            case ResponseLink() as response_link:
                response_link.flush()
                if drain:
                    link.drained()
            case _:
                pass

    def _settled(self, event: DispositionReceived) -> None:
        if not event.role_receiver:
            return
        # A disposition names deliveries of the AMQP session, not of a link: several links may have some of them.
        for link, open_link in list(self._links.items()):
            if isinstance(open_link, ReceiverLink) and link.session is event.session:
                self._settle(event, open_link)

    def _settle(self, event: DispositionReceived, receiver: ReceiverLink) -> None:
        answers: list[tuple[int, Outcome]] = []
        for delivery_id in receiver.deliveries_in(event.first, event.last):
            outcome = receiver.settle(delivery_id, event.state, settled=event.settled, faults=self._broker.faults)
            if outcome is not None and not event.settled:
                answers.append((delivery_id, outcome))
        for first, last, outcome in _merge(answers):
            event.session.settle(False, first, last, outcome)

    # --- attach --------------------------------------------------------------------------------------------------

    def open_receiver(self, link: Link, queue: Queue, session: MessageSession | None) -> None:
        """Answer a receiver's attach and start to deliver."""
        attach.accept_receiver_link(link, queue.settings, session)
        receiver = ReceiverLink(queue, link, session, self.on_output)
        # Stored before it starts: the start delivers at once, and a failure then must find the link to forget it.
        self._links[link] = receiver
        receiver.start()

    def _attach(self, link: Link) -> None:
        try:
            attach.require_supported(link)
            self._open(link, attach.address_of(link))
        except ServiceBusError as error:
            link.refuse(Error(error.condition, error.description, {}))

    def _open(self, link: Link, address: Address) -> None:
        if address.node is Node.CBS:
            self._open_request_link(link, address, None)
            return
        # Rights first: a client without a token must not find out which entities exist.
        self.rights.require(address.path, _required_right(link))
        queue = self._broker.find(address.entity)
        self._broker.faults.check(FaultPoint.ATTACH, address.entity)
        if address.node is Node.MANAGEMENT:
            self._open_request_link(link, address, queue.settings)
        elif link.peer_is_sender:
            self._open_sender(link, queue)
        else:
            self._open_receiver(link, queue)

    def _open_request_link(self, link: Link, address: Address, settings: QueueSettings | None) -> None:
        attach.accept_request_link(link, settings)
        if not link.peer_is_sender:
            self._links[link] = ResponseLink(link)
            return

        def response_links() -> list[ResponseLink]:
            return self._response_links(link.session, address)

        self._links[link] = RequestLink(link, address, self._broker, self.rights, response_links)

    def _open_sender(self, link: Link, queue: Queue) -> None:
        if queue.dead_letters is None:
            raise ServiceBusError(NOT_ALLOWED, "Messages cannot be sent to a dead-letter queue.")
        queue.require_sendable()
        attach.accept_sender_link(link, queue.settings)
        self._links[link] = SenderLink(queue, link, self._broker.faults)

    def _open_receiver(self, link: Link, queue: Queue) -> None:
        queue.require_receivable()
        session = attach.session_filter(link)
        attach.require_matching(queue.settings, session)
        if session is None:
            self.open_receiver(link, queue, None)
        elif session.session_id is not None:
            self.open_receiver(link, queue, queue.sessions.accept(session.session_id))
        else:
            until = self._broker.now() + attach.session_wait_seconds(link)
            pending = PendingSessionLink(self, link, queue, until)
            # Stored first: `accept_next` may grant a session at once, which replaces it by a receiver.
            self._links[link] = pending
            queue.sessions.accept_next(pending)

    def _response_links(self, session: LinkSession, address: Address) -> list[ResponseLink]:
        return [
            open_link
            for link, open_link in self._links.items()
            if isinstance(open_link, ResponseLink) and link.session is session and attach.address_of(link) == address
        ]

    # --- detach --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release everything that the client holds in queues, because its connection is closed."""
        self._delayed.clear()
        self.rights.close()
        for link in list(self._links):
            self.forget(link)

    def forget(self, link: Link) -> None:
        """Release everything that a detached link holds. Does nothing for an unknown link."""
        match self._links.pop(link, None):
            case ReceiverLink() as receiver:
                receiver.stop()
            case PendingSessionLink() as pending:
                pending.cancel()
            case _:
                pass

    def force_detach(self, entity: str, error: ServiceBusError = _DETACHED) -> None:
        """Detach all links to an entity, as the service does when it moves the entity. `entity` is in lower case."""
        for link, open_link in list(self._links.items()):
            if attach.address_of(link).entity == entity and isinstance(open_link, _EntityLink):
                self._detach(link, Error(error.condition, error.description, {}))

    def _detach_unauthorized(self) -> None:
        """Detach the links whose right has expired with a token."""
        for link in list(self._links):
            address = attach.address_of(link)
            if address.node is not Node.CBS and not self.rights.allows(address.path, _required_right(link)):
                self._detach(link, Error(UNAUTHORIZED, _EXPIRED.format(path=address.path), {}))

    def _detach(self, link: Link, error: Error) -> None:
        self.forget(link)
        link.detach(error)
        self.on_output()


def _required_right(link: Link) -> Right:
    """Return the right that the link needs.

    For a link to `$management`, Send or Listen is enough, because each request is checked for its own right.
    """
    if attach.address_of(link).node is Node.MANAGEMENT:
        return Right.SEND | Right.LISTEN
    return Right.SEND if link.peer_is_sender else Right.LISTEN


def _merge(answers: list[tuple[int, Outcome]]) -> list[tuple[int, int, Outcome]]:
    """Merge equal outcomes of consecutive deliveries into ranges: one disposition answers a range."""
    ranges: list[tuple[int, int, Outcome]] = []
    for delivery_id, outcome in answers:
        if ranges and ranges[-1][1:] == (advance(delivery_id, -1), outcome):
            ranges[-1] = (ranges[-1][0], delivery_id, outcome)
        else:
            ranges.append((delivery_id, delivery_id, outcome))
    return ranges
