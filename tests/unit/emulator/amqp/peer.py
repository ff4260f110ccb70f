"""The other end of a connection, made by hand: it frames what a test says and unframes what comes back."""

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
    """The one item of this kind among ``items``."""
    found = [item for item in items if isinstance(item, kind)]
    assert len(found) == 1, items
    return found[0]


class Peer:
    """Talks to ``connection`` and reads its answers; ``channel`` is the one of the session begun last."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.connection = Connection("broker", limits)
        self.channel = 0
        self._decoder = FrameDecoder(2**32)
        self._decoder.expect_header()

    def say(self, *performatives: Performative, payload: bytes = b"") -> list[Event]:
        """Send on the channel of the session; ``payload`` goes with each."""
        return self.connection.receive(b"".join(framed(item, self.channel, payload) for item in performatives))

    def hear(self) -> list[Sent]:
        """What came back since last time, heartbeats left out: (channel, performative, payload)."""
        heard = []
        for item in self.items():
            if isinstance(item, Frame) and item.body:
                performative, offset = decode_performative(item.body)
                heard.append((item.channel, performative, item.body[offset:]))
        return heard

    def hear_only(self, kind: type[T]) -> T:
        """The one performative of this kind among what came back."""
        return only(kind, [performative for _, performative, _ in self.hear()])

    def items(self) -> list[ProtocolHeader | Frame]:
        self._decoder.feed(b"".join(self.connection.take_output()))
        items = []
        while (item := self._decoder.next()) is not None:
            items.append(item)
        return items

    def open(self, max_frame_size: int = 65_536, idle_time_out: int | None = None) -> "Peer":
        self.connection.receive(
            AMQP_HEADER + framed(Open("peer", max_frame_size=max_frame_size, idle_time_out=idle_time_out))
        )
        self.hear()
        return self

    def begin(self, incoming_window: int = 1_000, channel: int = 0, next_outgoing_id: int = 0) -> "Peer":
        self.channel = channel
        self.say(Begin(None, next_outgoing_id, incoming_window, 1_000))
        self.hear()
        return self

    def attach(self, handle: int = 0, *, receives: bool, name: str = "link") -> Link:
        """A link, not answered yet; the peer receives on it, or sends."""
        attach = Attach(
            name,
            handle,
            receives,
            source=Source("queue"),
            target=Target("queue"),
            initial_delivery_count=None if receives else 0,
        )
        return only(LinkAttaching, self.say(attach)).link

    def link(self, handle: int = 0, *, receives: bool, max_message_size: int | None = None) -> Link:
        """A link that is accepted."""
        link = self.attach(handle, receives=receives)
        link.accept(max_message_size=max_message_size)
        self.hear()
        return link


def closed_with(events: list[Event]) -> str:
    """The condition with which the connection was closed."""
    error = only(ConnectionClosed, events).error
    assert error is not None
    return error.condition
