"""The client's end of a connection, for tests: it encodes performatives into frames and decodes the answers."""

from collections.abc import Sequence
from typing import TypeVar

from servicebus_emulator.amqp import Connection, ConnectionClosed, Event, Limits, Link, LinkAttaching, Source, Target
from servicebus_emulator.amqp.framing import AMQP_HEADER, Frame, FrameDecoder, ProtocolHeader, frame_header
from servicebus_emulator.amqp.limits import DEFAULT_LIMITS
from servicebus_emulator.amqp.performatives import (
    Attach,
    Begin,
    Open,
    Performative,
    decode_performative,
    encode_frame_body,
)

T = TypeVar("T")
Sent = tuple[int, Performative, bytes]


def framed(performative: Performative, channel: int = 0, payload: bytes = b"") -> bytes:
    body = encode_frame_body(performative) + payload
    return frame_header(len(body), channel) + body


def only(kind: type[T], items: Sequence[object]) -> T:
    """Return the item of this kind; assert that there is exactly one."""
    found = [item for item in items if isinstance(item, kind)]
    assert len(found) == 1, items
    return found[0]


class Peer:
    """Sends to ``connection`` and reads its answers. ``channel`` is the channel of the last session."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.connection = Connection("broker", limits)
        self.channel = 0
        self._decoder = FrameDecoder(2**32)
        self._decoder.expect_header()

    def send(self, *performatives: Performative, payload: bytes = b"") -> list[Event]:
        """Send performatives on the channel of the session, each with ``payload``; return the events."""
        return self.connection.receive(b"".join(framed(item, self.channel, payload) for item in performatives))

    def received(self) -> list[Sent]:
        """Return the answers since the last call as (channel, performative, payload), without heartbeats."""
        answers = []
        for item in self.decoded_items():
            if isinstance(item, Frame) and item.body:
                performative, offset = decode_performative(item.body)
                answers.append((item.channel, performative, item.body[offset:]))
        return answers

    def received_only(self, kind: type[T]) -> T:
        """Return the answer of this kind; assert that there is exactly one."""
        return only(kind, [performative for _, performative, _ in self.received()])

    def decoded_items(self) -> list[ProtocolHeader | Frame]:
        self._decoder.feed(b"".join(self.connection.take_output()))
        items = []
        while (item := self._decoder.next()) is not None:
            items.append(item)
        return items

    def open(self, max_frame_size: int = 65_536, idle_time_out: int | None = None) -> "Peer":
        self.connection.receive(
            AMQP_HEADER + framed(Open("peer", max_frame_size=max_frame_size, idle_time_out=idle_time_out))
        )
        self.received()
        return self

    def begin(self, incoming_window: int = 1_000, channel: int = 0, next_outgoing_id: int = 0) -> "Peer":
        self.channel = channel
        self.send(Begin(None, next_outgoing_id, incoming_window, 1_000))
        self.received()
        return self

    def attach(self, handle: int = 0, *, receives: bool, name: str = "link") -> Link:
        """Attach a link that the server has not answered yet. The peer receives on it, or sends."""
        attach = Attach(
            name,
            handle,
            receives,
            source=Source("queue"),
            target=Target("queue"),
            initial_delivery_count=None if receives else 0,
        )
        return only(LinkAttaching, self.send(attach)).link

    def link(self, handle: int = 0, *, receives: bool, max_message_size: int | None = None) -> Link:
        """Attach a link and accept it."""
        link = self.attach(handle, receives=receives)
        link.accept(max_message_size=max_message_size)
        self.received()
        return link


def closed_with(events: list[Event]) -> str:
    """Return the condition that the connection was closed with."""
    error = only(ConnectionClosed, events).error
    assert error is not None
    return error.condition
