"""AMQP clients of a broker without sockets: they send frames, and the broker's answers are available at once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from servicebus_emulator.amqp import Accepted, Described, Error, Outcome, Source, Symbol, Target, decode
from servicebus_emulator.amqp.performatives import (
    Attach,
    Coordinator,
    Detach,
    Disposition,
    Flow,
    Performative,
    Transfer,
)
from servicebus_emulator.amqp.sections import split
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.links.connection_endpoint import ConnectionEndpoint
from tests.unit.emulator.amqp.peer import Peer, Sent
from tests.unit.emulator.servicebus.rig import Clock, message

SESSION_FILTER = Symbol("com.microsoft:session-filter")
EMPTY = {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 0}
_FRAME_BYTES = 60_000
T = TypeVar("T", bound=Performative)


class Namespace:
    """A broker with these queues and a clock that the test sets."""

    def __init__(self, *queues: QueueSettings) -> None:
        self.clock = Clock()
        self.broker = Broker(queues, clock=self.clock)

    def client(self) -> Client:
        """Return a client with a connection and an AMQP session."""
        return Client(self.broker)

    def passes(self, seconds: float) -> None:
        """Advance the clock, and run what is due then."""
        self.clock.now += seconds
        for queue in self.broker.entities():
            queue.tick()


@dataclass(frozen=True)
class Delivery:
    """A received delivery."""

    transfer: Transfer
    payload: bytes

    @property
    def id(self) -> int:
        assert self.transfer.delivery_id is not None
        return self.transfer.delivery_id

    @property
    def token(self) -> uuid.UUID:
        """The lock token, from the delivery tag."""
        assert self.transfer.delivery_tag is not None
        return uuid.UUID(bytes_le=self.transfer.delivery_tag)

    def section(self, code: int) -> object:
        """Return the value of a section."""
        return sections(self.payload)[code]


def sections(payload: bytes) -> dict[int, object]:
    """Return a message's sections by code; of several with the same code, the last one."""
    found = {}
    for code, start, end in split(payload):
        described, _ = decode(payload[start:end])
        assert isinstance(described, Described)
        found[code] = described.value
    return found


class Client:
    """One connection. The test chooses the handles. Received frames stay until `heard` returns them."""

    def __init__(self, broker: Broker) -> None:
        self.peer = Peer().open().begin()
        self.endpoint = ConnectionEndpoint(broker, on_output=lambda: None)
        self._sent: list[Sent] = []

    def say(self, *performatives: Performative, payload: bytes = b"") -> None:
        """Send frames, and let the broker handle them."""
        for event in self.peer.send(*performatives, payload=payload):
            self.endpoint.handle(event)

    def heard(self, kind: type[T]) -> list[T]:
        """Return the performatives of this kind since the last call."""
        self._sent += self.peer.received()
        found: list[T] = [one for _, one, _ in self._sent if isinstance(one, kind)]
        self._sent = [sent for sent in self._sent if not isinstance(sent[1], kind)]
        return found

    def only(self, kind: type[T]) -> T:
        """Return the only performative of this kind."""
        (one,) = self.heard(kind)
        return one

    def deliveries(self) -> list[Delivery]:
        """Return the received messages, each of one frame."""
        self._sent += self.peer.received()
        found = [Delivery(one, payload) for _, one, payload in self._sent if isinstance(one, Transfer)]
        self._sent = [sent for sent in self._sent if not isinstance(sent[1], Transfer)]
        return found

    def receive(
        self,
        queue: str,
        handle: int = 0,
        *,
        credit: int = 0,
        deletes: bool = False,
        filters: Mapping[str, object] | None = None,
        default_outcome: Outcome | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        """Attach a link to receive on."""
        source = Source(queue, filter=filters, default_outcome=default_outcome)
        modes = (1, 0) if deletes else (0, 1)
        self.say(
            Attach(f"r{handle}", handle, True, *modes, source=source, target=Target("here"), properties=properties)
        )
        if credit:
            self.flow(handle, credit)

    def send_to(
        self, target: Target | Coordinator, handle: int = 0, properties: Mapping[str, object] | None = None
    ) -> None:
        """Attach a link to send on."""
        self.say(
            Attach(
                f"s{handle}",
                handle,
                False,
                source=Source("here"),
                target=target,
                initial_delivery_count=0,
                properties=properties,
            )
        )

    def transfer(self, handle: int, number: int, payload: bytes, *, message_format: int = 0) -> None:
        """Send a message in as many frames as it needs."""
        parts = [payload[start : start + _FRAME_BYTES] for start in range(0, len(payload), _FRAME_BYTES)]
        for part in parts[:-1]:
            self.say(Transfer(handle, number, b"%d" % number, message_format, more=True), payload=part)
        self.say(Transfer(handle, number, b"%d" % number, message_format), payload=parts[-1])

    def flow(self, handle: int, credit: int, *, count: int = 0, drain: bool = False) -> None:
        """Set the credit of a link, counted from `count` deliveries."""
        self.say(Flow(0, 1000, 0, 1000, handle=handle, delivery_count=count, link_credit=credit, drain=drain))

    def settle(
        self, first: int, state: Outcome | None = None, *, last: int | None = None, settled: bool = False
    ) -> None:
        """Send a disposition for deliveries; the default state is accepted."""
        state = Accepted() if state is None and not settled else state
        self.say(Disposition(True, first, last, settled, state))

    def settled(self) -> list[tuple[int, int | None, Outcome | None]]:
        """Return the broker's dispositions: first delivery, last delivery, state."""
        return [(one.first, one.last, one.state) for one in self.heard(Disposition) if not one.role]

    def refused(self) -> Error:
        """Return the error of a refused link: an attach without source and target, followed by a detach."""
        attach, detach = self.only(Attach), self.only(Detach)
        assert (attach.source, attach.target, detach.closed) == (None, None, True)
        assert detach.error is not None
        return detach.error


def namespace(**settings: object) -> Namespace:
    """Return a namespace with one queue `q` with these settings."""
    return Namespace(QueueSettings("q", **settings))  # type: ignore[arg-type]  # each test names settings


def filled(*texts: str, **settings: object) -> Namespace:
    """Return a namespace with messages in its queue `q`."""
    bus = namespace(**settings)
    bus.broker.find("q").send([message(text) for text in texts])
    return bus


def counts(bus: Namespace) -> dict[str, int]:
    """Return the numbers of messages in the queue `q`."""
    return bus.broker.find("q").counts()


def session_filter(value: object) -> dict[str, object]:
    """Return a receiver's filter for a session."""
    return {SESSION_FILTER: value}
