"""One session of a connection: its links, its windows and its delivery-ids (part 2, section 2.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, assert_never

from servicebus_emulator.amqp.errors import (
    FRAMING_ERROR,
    HANDLE_IN_USE,
    NOT_ALLOWED,
    UNATTACHED_HANDLE,
    AmqpError,
    SessionError,
)
from servicebus_emulator.amqp.framing import HEADER_SIZE
from servicebus_emulator.amqp.limits import Limits
from servicebus_emulator.amqp.link import Link, LinkAttaching, LinkDetached, LinkEvent
from servicebus_emulator.amqp.output import Output
from servicebus_emulator.amqp.performatives import (
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Outcome,
    Performative,
    SessionFrame,
    Transfer,
    encode_frame_body,
)
from servicebus_emulator.amqp.reassembly import Budget
from servicebus_emulator.amqp.serial import advance
from servicebus_emulator.amqp.window import IncomingWindow, OutgoingWindow

_OUTGOING_WINDOW = 0x7FFF_FFFF
"""Transfer frames that we might send: the value we announce, because only the peer's window bounds us."""


@dataclass(frozen=True, slots=True)
class SessionBegun:
    """The peer began a session, and the begin was answered."""

    session: Session


@dataclass(frozen=True, slots=True)
class DispositionReceived:
    """The peer reports the state of the deliveries ``first`` to ``last``, in its role of receiver or of sender.

    The peer chooses the range, and it may span all 32 bits. Look up your own deliveries in it; do not iterate it.
    """

    session: Session
    role_receiver: bool
    first: int
    last: int
    settled: bool
    state: Outcome | None


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The peer ended the session, or was ended for a session error. All ``session.links`` are gone.

    ``error`` is the peer's error in the first case and ours in the second.
    """

    session: Session
    error: Error | None


SessionEvent: TypeAlias = SessionBegun | DispositionReceived | SessionEnded


class SessionConnection(Protocol):
    """The connection of a session, as the session uses it. ``Connection`` implements it.

    A protocol, because connections create sessions: the session module cannot import the connection module as well.
    """

    @property
    def limits(self) -> Limits: ...
    @property
    def output(self) -> Output: ...
    @property
    def budget(self) -> Budget: ...
    @property
    def peer_max_frame_size(self) -> int: ...
    @property
    def pending_output_bytes(self) -> int: ...
    def emit(self, event: SessionEvent | LinkEvent) -> None: ...


class Session:
    """A session that the peer began. ``channel`` is our number for it."""

    def __init__(self, connection: SessionConnection, channel: int, begin: Begin) -> None:
        self.connection = connection
        self.channel = channel
        self.open = True
        self._peer_handle_max = begin.handle_max
        self._incoming = IncomingWindow(connection.limits.incoming_window, begin.next_outgoing_id)
        self._outgoing = OutgoingWindow(connection.output, channel, begin.incoming_window)
        self._next_delivery_id = 0
        # The two ends number a link independently (part 2, section 2.6.2), so there is a table for either number.
        self._by_handle: dict[int, Link] = {}
        self._by_peer_handle: dict[int, Link] = {}
        # The session ignores frames for a link that is detached already. A handle that was never attached is an error.
        self._retired_peer_handles: set[int] = set()

    @property
    def links(self) -> tuple[Link, ...]:
        """Links whose handles are in use, including refused and detached ones until the peer detaches as well."""
        return tuple(self._by_handle.values())

    @property
    def pending_bytes(self) -> int:
        """Payload bytes that wait for the peer's window."""
        return self._outgoing.pending_bytes

    def settle(self, role_receiver: bool, first: int, last: int, state: Outcome | None) -> None:
        """Settle the deliveries ``first`` to ``last``, in our role of receiver (True) or sender (False).

        A disposition travels on the session, not on a link: delivery-ids count per session (part 2, section 2.7.6).
        """
        self.send(Disposition(RECEIVER if role_receiver else SENDER, first, last, settled=True, state=state))

    def end(self, error: Error | None = None) -> None:
        """End the session and all its links."""
        if self.open:
            self.send(End(error))
            self.drop()

    # The connection and the links call the members below.

    @property
    def limits(self) -> Limits:
        return self.connection.limits

    @property
    def budget(self) -> Budget:
        return self.connection.budget

    @property
    def pending_output_bytes(self) -> int:
        return self.connection.pending_output_bytes

    def emit(self, event: LinkEvent) -> None:
        self.connection.emit(event)

    def begin_answer(self, peer_channel: int) -> Begin:
        """Return the answer to the peer's begin."""
        limits = self.connection.limits
        return Begin(peer_channel, self._outgoing.next_id, self._incoming.left, _OUTGOING_WINDOW, limits.handle_max)

    def send(self, performative: Performative) -> None:
        """Send a frame at once. Frames after the end of the session are dropped."""
        if self.open:
            self.connection.output.write_frame(self.channel, encode_frame_body(performative))

    def flow(self) -> Flow:
        """Return a flow that carries the state of the windows."""
        return Flow(self._incoming.next_id, self._incoming.left, self._outgoing.next_id, _OUTGOING_WINDOW)

    def send_flow(self) -> None:
        self.send(self.flow())

    def send_after_transfers(self, handle: int, performative: Performative) -> None:
        """Send a frame behind the transfers that wait for the peer's window."""
        self._outgoing.send_after_transfers(handle, encode_frame_body(performative))

    def discard_transfers(self, handle: int) -> None:
        """Discard the frames of a link that wait for the peer's window."""
        self._outgoing.discard(handle)

    def send_delivery(self, handle: int, payload: bytes, tag: bytes, message_format: int, settled: bool) -> int:
        """Send ``payload`` in as many frames as the peer's max-frame-size requires; return its delivery-id."""
        delivery_id = self._next_delivery_id
        self._next_delivery_id = advance(delivery_id, 1)
        room = self.connection.peer_max_frame_size - HEADER_SIZE
        transfer = Transfer(handle, delivery_id, tag, message_format, settled)
        body = encode_frame_body(transfer)
        start = 0
        while len(payload) - start > (size := room - len(body)):
            more = encode_frame_body(replace(transfer, more=True))
            self._outgoing.send_transfer(handle, more, payload[start : start + size])
            start += size
            # Only the first frame carries the delivery-id and the tag (part 2, section 2.7.5).
            transfer = Transfer(handle)
            body = encode_frame_body(transfer)
        self._outgoing.send_transfer(handle, body, payload[start:])
        return delivery_id

    def receive(self, frame: SessionFrame, payload: bytes) -> None:
        """Handle a frame of this session. A session error ends the session and emits ``SessionEnded``.

        The connection survives (part 2, section 2.5.4). Handles and windows belong to this session alone, so the other
        sessions of the peer are still consistent. The session ignores frames that arrive after our end.
        """
        if not self.open:
            return
        try:
            self._dispatch(frame, payload)
        except SessionError as session_error:
            error = Error.of(session_error)
            self.end(error)
            self.connection.emit(SessionEnded(self, error))

    def drop(self) -> None:
        """Mark the session and its links as gone."""
        self.open = False
        self._outgoing.clear()
        for link in self._by_handle.values():
            link.drop()

    def _dispatch(self, frame: SessionFrame, payload: bytes) -> None:
        match frame:
            case Transfer():
                self._on_transfer(frame, payload)
            case Disposition():
                self._on_disposition(frame)
            case Flow():
                self._on_flow(frame)
            case Attach():
                self._on_attach(frame)
            case Detach():
                self._on_detach(frame)
            case _:
                assert_never(frame)

    def _on_attach(self, attach: Attach) -> None:
        # Section 2.7.2 makes a handle above handle-max a framing error: it closes the connection.
        if attach.handle > self.connection.limits.handle_max:
            raise AmqpError(FRAMING_ERROR, f"handle {attach.handle} is above {self.connection.limits.handle_max}")
        if attach.handle in self._by_peer_handle:
            raise SessionError(HANDLE_IN_USE, f"handle {attach.handle} is attached already")
        handle = next(number for number in range(len(self._by_handle) + 1) if number not in self._by_handle)
        if handle > self._peer_handle_max:
            raise SessionError(NOT_ALLOWED, f"handle {handle} is above the peer's own maximum")
        link = Link(self, handle, attach)
        self._by_handle[handle] = self._by_peer_handle[attach.handle] = link
        self._retired_peer_handles.discard(attach.handle)
        self.connection.emit(LinkAttaching(link))

    def _on_flow(self, flow: Flow) -> None:
        # The session part of a flow counts even if its link is gone, so it comes first.
        self._outgoing.update(flow.next_incoming_id, flow.incoming_window)
        if flow.handle is None:
            if flow.echo:
                self.send_flow()
        elif link := self._attached(flow.handle):
            link.on_flow(flow)

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        # The window counts every transfer frame of the session, credit counts the deliveries of a link. So the window
        # comes first: a frame for a link that we have detached has used it too. Otherwise the counts of both ends
        # would drift apart, and the session would stall.
        if self._incoming.received():
            self.send_flow()
        if link := self._attached(transfer.handle):
            link.on_transfer(transfer, payload)

    def _on_disposition(self, disposition: Disposition) -> None:
        last = disposition.first if disposition.last is None else disposition.last
        self.connection.emit(
            DispositionReceived(self, disposition.role, disposition.first, last, disposition.settled, disposition.state)
        )

    def _on_detach(self, detach: Detach) -> None:
        link = self._by_peer_handle.pop(detach.handle, None)
        if link is None:
            # Some peers detach a link twice.
            return
        self._retired_peer_handles.add(detach.handle)
        if not link.detached:
            link.on_detach(detach.closed)
            self.connection.emit(LinkDetached(link, detach.closed, detach.error))
        # Our handle is free only now: before the peer's detach it may still send frames for the old link.
        del self._by_handle[link.handle]

    def _attached(self, peer_handle: int) -> Link | None:
        """Return the link of a frame; None if the link was detached while the frame was on its way."""
        link = self._by_peer_handle.get(peer_handle)
        if link is None and peer_handle not in self._retired_peer_handles:
            raise SessionError(UNATTACHED_HANDLE, f"no link is attached to handle {peer_handle}")
        return link if link and not link.detached else None
