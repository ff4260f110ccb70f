"""One AMQP 1.0 connection, server side, without any input or output of its own (part 2, section 2.4)."""

from __future__ import annotations

from collections.abc import Callable

from servicebus_emulator.amqp.errors import FRAMING_ERROR, ILLEGAL_STATE, NOT_ALLOWED, AmqpError
from servicebus_emulator.amqp.events import ConnectionClosed, ConnectionOpened, Event, SessionBegun, SessionEnded
from servicebus_emulator.amqp.framing import AMQP_FRAME, Frame, FrameDecoder, ProtocolHeader
from servicebus_emulator.amqp.handshake import Handshake
from servicebus_emulator.amqp.limits import DEFAULT_LIMITS, MIN_MAX_FRAME_SIZE, Limits
from servicebus_emulator.amqp.output import Output
from servicebus_emulator.amqp.performatives import (
    Begin,
    Close,
    End,
    Error,
    Open,
    Performative,
    decode_performative,
    encode_frame_body,
)
from servicebus_emulator.amqp.reassembly import Budget
from servicebus_emulator.amqp.session import Session


class Connection:
    """Bytes in by ``receive``, events out of it; bytes out by ``take_output``, after every call of anything here.

    ``log_in``: whether a name and a password are good; anybody's are, unless it is given.
    """

    def __init__(
        self,
        container_id: str,
        limits: Limits = DEFAULT_LIMITS,
        *,
        log_in: Callable[[str, str], bool] = lambda name, password: True,
    ) -> None:
        self.container_id = container_id
        self.limits = limits
        self.remote_open: Open | None = None
        self.closed = False
        self.output = Output()
        self.budget = Budget(limits.max_buffered_bytes)
        self._decoder = FrameDecoder(limits.max_frame_size)
        self._handshake = Handshake(self._decoder, self.output, log_in)
        self._events: list[Event] = []
        self._by_channel: dict[int, Session] = {}
        self._by_peer_channel: dict[int, Session] = {}
        self._retired_peer_channels: set[int] = set()

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions whose channels are in use, those we ended included until the peer ended them too."""
        return tuple(self._by_channel.values())

    @property
    def peer_idle_timeout_ms(self) -> int | None:
        """Milliseconds without a frame from us after which the peer may give up; None if it never does."""
        return (self.remote_open.idle_time_out or None) if self.remote_open else None

    @property
    def peer_max_frame_size(self) -> int:
        """Bytes of the largest frame the peer takes."""
        return max(MIN_MAX_FRAME_SIZE, self.remote_open.max_frame_size) if self.remote_open else MIN_MAX_FRAME_SIZE

    @property
    def pending_output_bytes(self) -> int:
        """Bytes that wait to be taken, or for the windows of the peer's sessions: a reason to read no further."""
        return self.output.pending_bytes + sum(session.pending_bytes for session in self._by_channel.values())

    def receive(self, data: bytes) -> list[Event]:
        """What ``data`` from the peer means, however it was cut. Never raises for what a peer may send:
        what breaks the protocol closes the connection, which the last event then says."""
        events: list[Event] = []
        self._events = events
        try:
            self._decoder.feed(data)
            while not self.closed and (item := self._decoder.next()) is not None:
                self._on_item(item)
        except AmqpError as breach:
            error = Error.of(breach)
            self.close(error)
            events.append(ConnectionClosed(error))
        return events

    def take_output(self) -> list[bytes]:
        """The chunks for the peer, each to be written by a write of its own."""
        return self.output.take()

    def heartbeat(self) -> None:
        """Queue an empty frame."""
        if self.remote_open and not self.closed:
            self.output.write_frame(0, b"")

    def close(self, error: Error | None = None) -> None:
        """Say goodbye; nothing is sent or understood after it."""
        if self.closed:
            return
        if self._handshake.done:
            if self.remote_open is None:
                self._send(0, self._open())
            self._send(0, Close(error))
        self._lose()

    # What follows is for the sessions and links.

    def emit(self, event: Event) -> None:
        self._events.append(event)

    def _send(self, channel: int, performative: Performative) -> None:
        self.output.write_frame(channel, encode_frame_body(performative))

    def _lose(self) -> None:
        self.closed = True
        for session in self._by_channel.values():
            session.lose()

    def _on_item(self, item: ProtocolHeader | Frame) -> None:
        if isinstance(item, ProtocolHeader) or not self._handshake.done:
            self._handshake.handle(item)
        elif item.kind != AMQP_FRAME:
            raise AmqpError(FRAMING_ERROR, f"a frame of type {item.kind} among AMQP frames")
        elif item.body:
            performative, offset = decode_performative(item.body)
            self._on_performative(item.channel, performative, item.body[offset:])

    def _on_performative(self, channel: int, performative: Performative, payload: bytes) -> None:
        if isinstance(performative, Open):
            self._on_open(performative)
        elif isinstance(performative, Close):
            self._on_close(performative)
        elif self.remote_open is None:
            raise AmqpError(ILLEGAL_STATE, f"{type(performative).__name__} before Open")
        elif isinstance(performative, Begin):
            self._on_begin(channel, performative)
        elif session := self._by_peer_channel.get(channel):
            self._on_session_frame(session, channel, performative, payload)
        elif channel not in self._retired_peer_channels:
            raise AmqpError(ILLEGAL_STATE, f"{type(performative).__name__} on channel {channel}, which has no session")

    def _open(self) -> Open:
        limits = self.limits
        return Open(
            self.container_id,
            max_frame_size=limits.max_frame_size,
            channel_max=limits.channel_max,
            idle_time_out=limits.idle_timeout_ms,
            properties={},
        )

    def _on_open(self, remote_open: Open) -> None:
        if self.remote_open:
            raise AmqpError(ILLEGAL_STATE, "a second Open")
        self.remote_open = remote_open
        self._send(0, self._open())
        self.emit(ConnectionOpened())

    def _on_close(self, close: Close) -> None:
        self.close()
        self.emit(ConnectionClosed(close.error))

    def _on_begin(self, peer_channel: int, begin: Begin) -> None:
        if begin.remote_channel is not None:
            raise AmqpError(NOT_ALLOWED, "the answer to a Begin that was never sent")
        if peer_channel > self.limits.channel_max:
            raise AmqpError(FRAMING_ERROR, f"channel {peer_channel} is above {self.limits.channel_max}")
        if peer_channel in self._by_peer_channel:
            raise AmqpError(ILLEGAL_STATE, f"channel {peer_channel} has a session already")
        channel = next(number for number in range(len(self._by_channel) + 1) if number not in self._by_channel)
        session = Session(self, channel, begin)
        self._by_channel[channel] = self._by_peer_channel[peer_channel] = session
        self._retired_peer_channels.discard(peer_channel)
        self._send(channel, session.begun(peer_channel))
        self.emit(SessionBegun(session))

    def _on_session_frame(self, session: Session, channel: int, performative: Performative, payload: bytes) -> None:
        if not isinstance(performative, End):
            session.receive(performative, payload)
            return
        del self._by_peer_channel[channel], self._by_channel[session.channel]
        self._retired_peer_channels.add(channel)
        if session.open:
            session.end()
            self.emit(SessionEnded(session, performative.error))
