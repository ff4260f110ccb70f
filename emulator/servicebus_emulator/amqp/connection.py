"""One AMQP 1.0 connection, server side, without sockets or timers (part 2, section 2.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from servicebus_emulator.amqp.errors import FRAMING_ERROR, ILLEGAL_STATE, NOT_ALLOWED, AmqpError
from servicebus_emulator.amqp.events import ConnectionClosed, ConnectionOpened, Event
from servicebus_emulator.amqp.framing import AMQP_FRAME, Frame, FrameDecoder, ProtocolHeader
from servicebus_emulator.amqp.handshake import Handshake
from servicebus_emulator.amqp.limits import DEFAULT_LIMITS, MIN_MAX_FRAME_SIZE, Limits
from servicebus_emulator.amqp.output import Output
from servicebus_emulator.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Open,
    Performative,
    Transfer,
    decode_performative,
    encode_frame_body,
)
from servicebus_emulator.amqp.reassembly import Budget
from servicebus_emulator.amqp.session import Session, SessionBegun, SessionEnded


class Connection:
    """The server's end of a connection.

    ``receive`` takes bytes and returns events. Every call on a connection, a session or a link may produce output:
    write ``take_output`` to the peer afterwards.

    ``check_password`` returns True for a valid name and password (SASL PLAIN). By default all are valid.
    """

    def __init__(
        self,
        container_id: str,
        limits: Limits = DEFAULT_LIMITS,
        *,
        check_password: Callable[[str, str], bool] = lambda name, password: True,
    ) -> None:
        self.container_id = container_id
        self.limits = limits
        self.remote_open: Open | None = None
        self.closed = False
        self.output = Output()
        self.budget = Budget(limits.max_buffered_bytes)
        self._decoder = FrameDecoder(limits.max_frame_size)
        self._handshake = Handshake(self._decoder, self.output, check_password)
        self._events: list[Event] = []
        self._by_channel: dict[int, Session] = {}
        self._by_peer_channel: dict[int, Session] = {}
        # The connection ignores frames on a channel whose session has ended. A channel that never began is an error.
        self._retired_peer_channels: set[int] = set()

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Sessions whose channels are in use, including those that we ended until the peer ends them as well."""
        return tuple(self._by_channel.values())

    @property
    def peer_idle_timeout_ms(self) -> int | None:
        """Milliseconds without a frame from us after which the peer may close; None if it never does."""
        return (self.remote_open.idle_time_out or None) if self.remote_open else None

    @property
    def peer_max_frame_size(self) -> int:
        """Bytes of the largest frame that the peer accepts; the minimum of the protocol before its open."""
        return max(MIN_MAX_FRAME_SIZE, self.remote_open.max_frame_size) if self.remote_open else MIN_MAX_FRAME_SIZE

    @property
    def pending_output_bytes(self) -> int:
        """Bytes that wait for ``take_output`` or for the windows of sessions. Stop reading while this is high."""
        return self.output.pending_bytes + sum(session.pending_bytes for session in self._by_channel.values())

    def receive(self, data: bytes) -> list[Event]:
        """Return the events of ``data``, which may end in the middle of a frame.

        Never raises for bad input. A protocol error closes the connection; the last event then reports it.
        """
        events: list[Event] = []
        self._events = events
        try:
            self._decoder.feed(data)
            while not self.closed and (item := self._decoder.next()) is not None:
                self._on_item(item)
        except AmqpError as protocol_error:
            error = Error.of(protocol_error)
            self.close(error)
            events.append(ConnectionClosed(error))
        return events

    def take_output(self) -> list[bytes]:
        """Return and forget the chunks for the peer. Write each chunk with a separate call, see ``Output.seal``."""
        return self.output.take()

    def heartbeat(self) -> None:
        """Queue an empty frame, which resets the peer's idle timer (part 2, section 2.4.5)."""
        if self.remote_open and not self.closed:
            self.output.write_frame(0, b"")

    def close(self, error: Error | None = None) -> None:
        """Send a close. Later calls send nothing, and later input is ignored."""
        if self.closed:
            return
        if self._handshake.complete:
            if self.remote_open is None:
                # The first frame must be an open (part 2, section 2.4.1), and only a close carries the error.
                self._send(0, self._open())
            self._send(0, Close(error))
        self._drop()

    # The sessions and links call the members below.

    def emit(self, event: Event) -> None:
        """Append an event to the result of the current ``receive``."""
        self._events.append(event)

    def _send(self, channel: int, performative: Performative) -> None:
        self.output.write_frame(channel, encode_frame_body(performative))

    def _drop(self) -> None:
        self.closed = True
        for session in self._by_channel.values():
            session.drop()

    def _on_item(self, item: ProtocolHeader | Frame) -> None:
        if isinstance(item, ProtocolHeader) or not self._handshake.complete:
            self._handshake.handle(item)
        elif item.kind != AMQP_FRAME:
            raise AmqpError(FRAMING_ERROR, f"a frame of type {item.kind} among AMQP frames")
        elif item.body:
            performative, offset = decode_performative(item.body)
            self._on_performative(item.channel, performative, item.body[offset:])

    def _on_performative(self, channel: int, performative: Performative, payload: bytes) -> None:
        if self.remote_open is None and not isinstance(performative, Open | Close):
            raise AmqpError(ILLEGAL_STATE, f"{type(performative).__name__} before Open")
        match performative:
            case Transfer() | Disposition() | Flow() | Attach() | Detach():
                if session := self._session(channel, performative):
                    session.receive(performative, payload)
            case Open():
                self._on_open(performative)
            case Close():
                self._on_close(performative)
            case Begin():
                self._on_begin(channel, performative)
            case End():
                self._on_end(channel, performative)
            case _:
                assert_never(performative)

    def _session(self, channel: int, performative: Performative) -> Session | None:
        """Return the session of a frame; None if the session ended while the frame was on its way."""
        session = self._by_peer_channel.get(channel)
        if session is None and channel not in self._retired_peer_channels:
            raise AmqpError(ILLEGAL_STATE, f"{type(performative).__name__} on channel {channel}, which has no session")
        return session

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
        # The two ends number a session independently (part 2, section 2.5.1); ours is the lowest free number.
        channel = next(number for number in range(len(self._by_channel) + 1) if number not in self._by_channel)
        session = Session(self, channel, begin)
        self._by_channel[channel] = self._by_peer_channel[peer_channel] = session
        self._retired_peer_channels.discard(peer_channel)
        self._send(channel, session.begin_answer(peer_channel))
        self.emit(SessionBegun(session))

    def _on_end(self, channel: int, end: End) -> None:
        session = self._session(channel, end)
        if session is None:
            return
        del self._by_peer_channel[channel], self._by_channel[session.channel]
        self._retired_peer_channels.add(channel)
        if session.open:
            session.end()
            self.emit(SessionEnded(session, end.error))
