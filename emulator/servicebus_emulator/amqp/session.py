"""One session of a connection: its links, its windows, its deliveries (part 2, section 2.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from servicebus_emulator.amqp.errors import (
    FRAMING_ERROR,
    HANDLE_IN_USE,
    NOT_ALLOWED,
    UNATTACHED_HANDLE,
    AmqpError,
    SessionError,
)
from servicebus_emulator.amqp.events import DispositionReceived, LinkAttaching, LinkDetached, SessionEnded
from servicebus_emulator.amqp.framing import HEADER_SIZE
from servicebus_emulator.amqp.link import Link
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
    Transfer,
    encode_frame_body,
)
from servicebus_emulator.amqp.serial import advance
from servicebus_emulator.amqp.window import IncomingWindow, OutgoingWindow

if TYPE_CHECKING:
    from servicebus_emulator.amqp.connection import Connection

_OUTGOING_WINDOW = 0x7FFF_FFFF
"""Transfer frames we might send: what we state where the peer's window is the only bound."""


class Session:
    """Begun by the peer. ``channel`` is our number for it."""

    def __init__(self, connection: Connection, channel: int, begin: Begin) -> None:
        self.connection = connection
        self.channel = channel
        self.open = True
        self._peer_handle_max = begin.handle_max
        self._incoming = IncomingWindow(connection.limits.incoming_window, begin.next_outgoing_id)
        self._outgoing = OutgoingWindow(connection.output, channel, begin.incoming_window)
        self._next_delivery_id = 0
        self._by_handle: dict[int, Link] = {}
        self._by_peer_handle: dict[int, Link] = {}
        self._retired_peer_handles: set[int] = set()

    @property
    def links(self) -> tuple[Link, ...]:
        """The links whose handles are in use, refused and detached ones included until the peer detached too."""
        return tuple(self._by_handle.values())

    @property
    def pending_bytes(self) -> int:
        """Payload that waits for the peer's window."""
        return self._outgoing.pending_bytes

    def settle(self, role_receiver: bool, first: int, last: int, state: Outcome | None) -> None:
        """Tell the peer that deliveries ``first`` to ``last`` are settled, in our role of receiver or sender."""
        self.send(Disposition(RECEIVER if role_receiver else SENDER, first, last, settled=True, state=state))

    def end(self, error: Error | None = None) -> None:
        """End the session and with it all its links."""
        if self.open:
            self.send(End(error))
            self.lose()

    # What follows is for the connection and the links.

    def begun(self, peer_channel: int) -> Begin:
        """Our answer to the peer's begin."""
        limits = self.connection.limits
        return Begin(peer_channel, self._outgoing.next_id, self._incoming.left, _OUTGOING_WINDOW, limits.handle_max)

    def send(self, performative: Performative) -> None:
        if self.open:
            self.connection.output.write_frame(self.channel, encode_frame_body(performative))

    def flow(self) -> Flow:
        """The state of the windows."""
        return Flow(self._incoming.next_id, self._incoming.left, self._outgoing.next_id, _OUTGOING_WINDOW)

    def send_flow(self) -> None:
        self.send(self.flow())

    def send_after_transfers(self, handle: int, performative: Performative) -> None:
        self._outgoing.send_after_transfers(handle, encode_frame_body(performative))

    def forget_transfers(self, handle: int) -> None:
        self._outgoing.forget(handle)

    def send_delivery(self, handle: int, payload: bytes, tag: bytes, message_format: int, settled: bool) -> int:
        """Send ``payload`` in as many frames as the peer's max-frame-size asks for; its delivery-id."""
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
            transfer = Transfer(handle)
            body = encode_frame_body(transfer)
        self._outgoing.send_transfer(handle, body, payload[start:])
        return delivery_id

    def receive(self, performative: Performative, payload: bytes) -> None:
        """A frame on this session. A breach of its rules ends it."""
        if not self.open:
            return
        try:
            self._dispatch(performative, payload)
        except SessionError as breach:
            error = Error.of(breach)
            self.end(error)
            self.connection.emit(SessionEnded(self, error))

    def lose(self) -> None:
        """The session is gone, and with it its links."""
        self.open = False
        self._outgoing.clear()
        for link in self._by_handle.values():
            link.lose()

    def _dispatch(self, performative: Performative, payload: bytes) -> None:
        match performative:
            case Transfer():
                self._on_transfer(performative, payload)
            case Disposition():
                self._on_disposition(performative)
            case Flow():
                self._on_flow(performative)
            case Attach():
                self._on_attach(performative)
            case Detach():
                self._on_detach(performative)

    def _on_attach(self, attach: Attach) -> None:
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
        self._outgoing.allow(flow.next_incoming_id, flow.incoming_window)
        if flow.handle is None:
            if flow.echo:
                self.send_flow()
        elif link := self._attached(flow.handle):
            link.on_flow(flow)

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
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
            # Peers are known to detach a link a second time.
            return
        self._retired_peer_handles.add(detach.handle)
        if not link.detached:
            link.on_detach(detach.closed)
            self.connection.emit(LinkDetached(link, detach.closed, detach.error))
        del self._by_handle[link.handle]

    def _attached(self, peer_handle: int) -> Link | None:
        """The link a frame is for; None where it went while the frame was on its way."""
        link = self._by_peer_handle.get(peer_handle)
        if link is None and peer_handle not in self._retired_peer_handles:
            raise SessionError(UNATTACHED_HANDLE, f"no link is attached to handle {peer_handle}")
        return link if link and not link.detached else None
