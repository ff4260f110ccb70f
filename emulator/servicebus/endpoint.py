"""One connection of a client: its links, by what they point to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from emulator.amqp import (
    Accepted,
    ConnectionClosed,
    Described,
    DispositionReceived,
    Error,
    Event,
    FlowReceived,
    Link,
    LinkAttaching,
    LinkDetached,
    Long,
    MessageReceived,
    SessionEnded,
    Symbol,
    Target,
)
from emulator.amqp import (
    Session as AmqpSession,
)
from emulator.servicebus import addresses, cbs, management, requests
from emulator.servicebus.addresses import Node
from emulator.servicebus.broker import Broker
from emulator.servicebus.consumer import Consumer
from emulator.servicebus.errors import ARGUMENT_ERROR, DETACH_FORCED, NOT_ALLOWED, TIMEOUT, ServiceBusError
from emulator.servicebus.producer import Producer
from emulator.servicebus.queue import Queue
from emulator.servicebus.requests import ReplyLink, Request, Response
from emulator.servicebus.sessions import Session

_SESSION_FILTER = "com.microsoft:session-filter"
_LOCKED_UNTIL = Symbol("com.microsoft:locked-until-utc")
_TIMEOUT = "com.microsoft:timeout"
_DEFAULT_SESSION_WAIT_SECONDS = 60.0
_TICKS_AT_EPOCH = 621_355_968_000_000_000
_REQUEST_CREDIT = 100
_MOVED = ServiceBusError(DETACH_FORCED, "The link was detached by the service.")


class RequestLink:
    """A link on which a client asks `$cbs` or a `$management` node."""

    def __init__(self, endpoint: Endpoint, link: Link, queue: Queue | None) -> None:
        self._endpoint = endpoint
        self._link = link
        self._queue = queue
        self._address = addresses.parse(_address(link) or "")
        link.grant(_REQUEST_CREDIT)

    def received(self, event: MessageReceived) -> None:
        """A request: accept the transfer first, answer at once."""
        if not event.settled:
            self._link.session.settle(True, event.delivery_id, event.delivery_id, Accepted())
        self._link.grant(_REQUEST_CREDIT)
        try:
            request = requests.read(event.payload)
        except ServiceBusError:
            return  # it names nobody to answer
        reply_link = requests.choose(self._endpoint.reply_links(self._link.session, self._address), request.reply_to)
        if reply_link is not None:
            reply_link.send(requests.write(request, self._answer(request)))

    def _answer(self, request: Request) -> Response:
        return cbs.answer(request) if self._queue is None else management.answer(self._queue, request)


class _SessionWait:
    """A held attach: the client waits for the next free session."""

    def __init__(self, endpoint: Endpoint, link: Link, queue: Queue, until: float) -> None:
        self._endpoint = endpoint
        self._link = link
        self._queue = queue
        self.until = until

    def granted(self, session: Session) -> None:
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
        self._queue.sessions.forget_waiter(self)


_Part = Producer | Consumer | RequestLink | ReplyLink | _SessionWait


_HELD = Producer | Consumer | _SessionWait
"""What ends with its entity."""


class Endpoint:
    """Routes one connection's events to what its links point to.

    `wrote` is called when something other than the connection's own events gave it something to say.
    """

    def __init__(self, broker: Broker, *, wrote: Callable[[], None]) -> None:
        self._broker = broker
        self.wrote = wrote
        self._parts: dict[Link, _Part] = {}

    def handle(self, event: Event) -> None:
        """Act on one event of the connection."""
        match event:
            case MessageReceived(link=link):
                part = self._parts.get(link)
                if isinstance(part, Producer | RequestLink):
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
        for link in list(self._parts):
            self.forget(link)

    def forget(self, link: Link) -> None:
        """The link is gone."""
        match self._parts.pop(link, None):
            case Consumer() as consumer:
                consumer.stop()
            case _SessionWait() as wait:
                wait.give_up()
            case _:
                pass

    def writable(self) -> None:
        """The client has read; consumers held back by its backlog may go on."""
        for part in list(self._parts.values()):
            if isinstance(part, Consumer):
                part.flowed(drain=False)

    def force_detach(self, entity: str, error: ServiceBusError = _MOVED) -> None:
        """Break all links to an entity, as the service does when it moves one, or for another reason."""
        for link, part in list(self._parts.items()):
            if addresses.parse(_address(link) or "").entity == entity and isinstance(part, _HELD):
                self.forget(link)
                link.detach(Error(error.condition, error.description, {}))
                self.wrote()

    def reply_links(self, session: AmqpSession, address: addresses.Address) -> list[ReplyLink]:
        """Where answers of this node may go within an AMQP session."""
        return [
            part
            for link, part in self._parts.items()
            if isinstance(part, ReplyLink)
            and link.session is session
            and addresses.parse(_address(link) or "") == address
        ]

    def open_consumer(self, link: Link, queue: Queue, session: Session | None) -> None:
        """Answer a receiver's attach and begin to serve it."""
        source = link.attach.source
        properties: dict[str, object] | None = None
        if session is not None and source is not None:
            source = replace(source, filter={Symbol(_SESSION_FILTER): session.id})
            properties = {_LOCKED_UNTIL: Long(_TICKS_AT_EPOCH + int(session.locked_until * 10_000_000))}
        limit = queue.settings.max_message_bytes
        link.accept(source=source, target=link.attach.target or Target(), max_message_size=limit, properties=properties)
        consumer = Consumer(queue, link, session, self.wrote)
        self._parts[link] = consumer
        consumer.start()

    def _attach(self, link: Link) -> None:
        try:
            self._open(link, addresses.parse(_address(link) or ""))
        except ServiceBusError as error:
            link.refuse(Error(error.condition, error.description, {}))

    def _open(self, link: Link, address: addresses.Address) -> None:
        queue = None if address.node is Node.CBS else self._broker.find(address.entity)
        if queue is None or address.node is Node.MANAGEMENT:
            self._accept(link, None)
            self._parts[link] = RequestLink(self, link, queue) if link.peer_is_sender else ReplyLink(link)
        elif link.peer_is_sender:
            if queue.dead_letters is None:
                raise ServiceBusError(NOT_ALLOWED, "Messages cannot be sent to a dead-letter queue.")
            queue.require_sendable()
            self._accept(link, queue.settings.max_message_bytes)
            self._parts[link] = Producer(self._broker, queue, link)
        else:
            self._open_receiver(link, queue)

    @staticmethod
    def _accept(link: Link, max_message_size: int | None) -> None:
        link.accept(
            source=link.attach.source,
            target=link.attach.target,
            max_message_size=max_message_size,
            properties=None,
        )

    def _open_receiver(self, link: Link, queue: Queue) -> None:
        queue.require_receivable()
        wanted, session_id = _session_filter(link)
        if wanted != queue.settings.requires_session:
            raise ServiceBusError(
                NOT_ALLOWED,
                f"'{queue.settings.name}' requires sessions; receive with a session receiver."
                if queue.settings.requires_session
                else f"'{queue.settings.name}' has no sessions; receive without a session ID.",
            )
        if not wanted:
            self.open_consumer(link, queue, None)
        elif session_id is not None:
            self.open_consumer(link, queue, queue.sessions.accept(session_id))
        else:
            wait = _SessionWait(self, link, queue, self._broker.now() + _wait_seconds(link))
            self._parts[link] = wait
            queue.sessions.accept_next(wait)

    def _flowed(self, link: Link, *, drain: bool) -> None:
        match self._parts.get(link):
            case Consumer() as consumer:
                consumer.flowed(drain=drain)
            case ReplyLink() as reply_link:
                reply_link.flush()
                if drain:
                    link.drained()
            case _:
                pass

    def _settled(self, event: DispositionReceived) -> None:
        if not event.role_receiver:
            return
        for link, part in list(self._parts.items()):
            if isinstance(part, Consumer) and link.session is event.session:
                for delivery_id in part.deliveries_in(event.first, event.last):
                    self._settle(event, part, delivery_id)

    def _settle(self, event: DispositionReceived, consumer: Consumer, delivery_id: int) -> None:
        faults = self._broker.faults
        refuse = faults.refuse_settlements > 0 and event.state is not None
        faults.refuse_settlements -= refuse
        reply = consumer.settle(delivery_id, event.state, refuse=refuse)
        if reply is not None and not event.settled:
            event.session.settle(False, delivery_id, delivery_id, reply)


def _address(link: Link) -> str | None:
    """The address a link points to: its target where the client sends, its source where it receives."""
    if link.peer_is_sender:
        target = link.attach.target
        return target.address if target is not None else None
    source = link.attach.source
    return source.address if source is not None else None


def _session_filter(link: Link) -> tuple[bool, str | None]:
    """Whether the client asks for a session, and for which; None: the next free one."""
    source = link.attach.source
    for name, value in (source.filter or {} if source is not None else {}).items():
        if str(name) == _SESSION_FILTER:
            bare = value.value if isinstance(value, Described) else value
            if bare is not None and not isinstance(bare, str):
                raise ServiceBusError(ARGUMENT_ERROR, "The session ID must be a string.")
            return True, bare
    return False, None


def _wait_seconds(link: Link) -> float:
    for name, value in (link.attach.properties or {}).items():
        if str(name) == _TIMEOUT and isinstance(value, int):
            return float(value) / 1000
    return _DEFAULT_SESSION_WAIT_SECONDS
