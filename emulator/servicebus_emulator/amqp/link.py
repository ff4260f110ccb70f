"""One link of a session, seen from the end that the peer attached to (part 2, section 2.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Protocol, TypeAlias, assert_never

from servicebus_emulator.amqp.credit import ReceivingCredit, SendingCredit
from servicebus_emulator.amqp.errors import ILLEGAL_STATE, NOT_ALLOWED, AmqpError, SessionError
from servicebus_emulator.amqp.limits import Limits
from servicebus_emulator.amqp.performatives import (
    Attach,
    Coordinator,
    Detach,
    Error,
    Flow,
    Outcome,
    Performative,
    Source,
    Target,
    Transfer,
)
from servicebus_emulator.amqp.reassembly import Budget, Delivery, Reassembly


@dataclass(frozen=True, slots=True)
class LinkAttaching:
    """The peer attaches a link. Call ``accept`` or ``refuse`` now or later."""

    link: Link


@dataclass(frozen=True, slots=True)
class FlowReceived:
    """The peer restated its credit (``link.credit``) on a link that we send on.

    With ``drain`` the peer waits for ``link.drained()``, after the messages that are available. A flow with ``echo``
    is answered already. Credit may arrive before the link is accepted; the link keeps it.
    """

    link: Link
    drain: bool
    echo: bool


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A complete message. ``oversize``: it exceeds the link's maximum size, and its payload was discarded."""

    link: Link
    delivery_id: int
    tag: bytes
    settled: bool
    message_format: int
    payload: bytes
    oversize: bool = False


@dataclass(frozen=True, slots=True)
class LinkDetached:
    """The peer detached the link, accepted or not, and the detach was answered."""

    link: Link
    closed: bool
    error: Error | None


LinkEvent: TypeAlias = LinkAttaching | FlowReceived | MessageReceived | LinkDetached


class LinkSession(Protocol):
    """The session of a link, as the link uses it. ``Session`` implements it.

    A protocol, because sessions create links: the link module cannot import the session module as well.
    """

    @property
    def open(self) -> bool: ...
    @property
    def links(self) -> tuple[Link, ...]: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def budget(self) -> Budget: ...
    @property
    def pending_output_bytes(self) -> int: ...
    def settle(self, role_receiver: bool, first: int, last: int, state: Outcome | None) -> None: ...
    def end(self, error: Error | None = None) -> None: ...
    def emit(self, event: LinkEvent) -> None: ...
    def send(self, performative: Performative) -> None: ...
    def flow(self) -> Flow: ...
    def send_flow(self) -> None: ...
    def send_delivery(self, handle: int, payload: bytes, tag: bytes, message_format: int, settled: bool) -> int: ...
    def send_after_transfers(self, handle: int, performative: Performative) -> None: ...
    def discard_transfers(self, handle: int) -> None: ...


class _State(Enum):
    ATTACHING = auto()
    OPEN = auto()
    DETACHED = auto()


class Link:
    """``attach`` is the peer's request; ``handle`` is our number for the link.

    ``accept``, ``refuse``, ``grant``, ``drained`` and ``detach`` have no effect after the link, its session or its
    connection is gone. A broker may therefore answer late without a check.
    """

    def __init__(self, session: LinkSession, handle: int, attach: Attach) -> None:
        self.session = session
        self.name = attach.name
        self.handle = handle
        self.attach = attach
        self.peer_is_sender = not attach.role
        self.max_message_size: int | None = None
        self._state = _State.ATTACHING
        self._sending = SendingCredit()
        self._receiving = ReceivingCredit(attach.initial_delivery_count or 0)
        self._reassembly = Reassembly(session.budget)

    @property
    def open(self) -> bool:
        """True if the link was accepted and neither end has detached it since."""
        return self._state is _State.OPEN and self.session.open

    @property
    def credit(self) -> int:
        """Messages that the sending end may send now: we by the peer's credit, or the peer by ours."""
        return self._receiving.available if self.peer_is_sender else self._sending.available

    @property
    def pending_output_bytes(self) -> int:
        """Bytes that wait for the peer on the whole connection, see ``Connection.pending_output_bytes``."""
        return self.session.pending_output_bytes

    def accept(
        self,
        *,
        max_message_size: int | None,
        source: Source | None = None,
        target: Target | Coordinator | None = None,
        properties: Mapping[str, object] | None = None,
        initial_delivery_count: int = 0,
    ) -> None:
        """Answer the attach. ``source`` and ``target`` default to those of the peer.

        ``max_message_size`` is in bytes, None for no limit of this link. Where the peer sends, a larger message
        arrives as ``oversize``. The connection's limit applies as well.
        """
        if not self._is_pending():
            return
        self.max_message_size = max_message_size
        self._sending.start_at(initial_delivery_count)
        self.session.send(
            replace(
                self._answer(),
                source=source or self.attach.source or Source(),
                target=target or self.attach.target or Target(),
                max_message_size=max_message_size,
                initial_delivery_count=None if self.peer_is_sender else initial_delivery_count,
                properties=properties or {},
            )
        )
        self._state = _State.OPEN

    def refuse(self, error: Error) -> None:
        """Refuse the attach: answer it without source and target, then detach with ``error``."""
        if self._is_pending():
            self._decline(Detach(self.handle, closed=True, error=error))

    def grant(self, credit: int) -> None:
        """Where the peer sends: allow ``credit`` messages from now on, in place of the credit that was left."""
        if self.open and self.peer_is_sender:
            self._receiving.grant(credit)
            self.send_flow()

    def send(self, payload: bytes, *, tag: bytes, settled: bool, message_format: int = 0) -> int:
        """Send a message for one credit; return its delivery-id.

        Raises AmqpError (illegal-state) without credit, or if the link is not open for sending.
        """
        if not self.open or self.peer_is_sender or not self._sending.available:
            raise AmqpError(ILLEGAL_STATE, f"link {self.name!r} has no credit to send on, or is not open for it")
        self._sending.consume()
        return self.session.send_delivery(self.handle, payload, tag, message_format, settled)

    def drained(self) -> None:
        """Use up the remaining credit and report it to the peer: the answer to ``drain``."""
        if self.open and not self.peer_is_sender:
            self._sending.drain()
            # The flow carries the advanced delivery-count. If it overtook queued transfers, the peer would count
            # them twice: once as used credit, once as messages.
            self.session.send_after_transfers(self.handle, self._flow(drain=True))

    def detach(self, error: Error | None = None, closed: bool = True) -> None:
        """Detach the link, or refuse it if it is not accepted yet.

        An error that concerns one link detaches this link only (part 2, section 2.6.5). The other links of the session
        stay usable.
        """
        if self._is_pending():
            self._decline(Detach(self.handle, closed, error))
        elif self.open:
            self.drop()
            self.session.send(Detach(self.handle, closed, error))

    def send_flow(self) -> None:
        """Send the link's credit, or only the session's windows while the link is not open."""
        if self._state is _State.OPEN:
            self.session.send(self._flow())
        else:
            self.session.send_flow()

    # The session calls the methods below when a frame for this link arrives.

    @property
    def detached(self) -> bool:
        """True if we detached the link; the peer's own detach may not have arrived yet."""
        return self._state is _State.DETACHED

    def on_flow(self, flow: Flow) -> None:
        """Apply the peer's credit, and answer ``echo``."""
        if self.peer_is_sender:
            if flow.delivery_count is not None:
                self._receiving.sender_advanced_to(flow.delivery_count)
        else:
            self._sending.allow(flow.delivery_count, flow.link_credit or 0)
            self.session.emit(FlowReceived(self, flow.drain, flow.echo))
        # ``drained()`` answers a drain, once the available messages are sent. An echo before that would report credit
        # that is about to be used up.
        if flow.echo and not flow.drain:
            self.send_flow()

    def on_transfer(self, transfer: Transfer, part: bytes) -> None:
        """Collect a frame of a message, and emit the message when it is complete.

        Raises SessionError if the peer sends on a link on which it receives, or mixes two deliveries.
        """
        if not self.peer_is_sender:
            raise SessionError(NOT_ALLOWED, f"a transfer came on link {self.name!r}, where its sender is the receiver")
        limit = self.session.limits.max_message_size
        delivery = self._reassembly.add(transfer, part, min(limit, self.max_message_size or limit))
        # An aborted delivery has used its credit too (part 2, section 2.6.14).
        if transfer.aborted or delivery:
            self._receiving.received()
        if delivery:
            self.session.emit(_message_received(self, delivery))

    def on_detach(self, closed: bool) -> None:
        """Answer the peer's detach."""
        match self._state:
            case _State.ATTACHING:
                self._decline(Detach(self.handle, closed))
            case _State.OPEN:
                self.drop()
                self.session.send(Detach(self.handle, closed))
            case _State.DETACHED:
                pass  # Our detach is on its way: the peer's is the answer to it.
            case _:
                assert_never(self._state)

    def drop(self) -> None:
        """Mark the link as gone; discard its partial message and its queued transfers."""
        self._state = _State.DETACHED
        self._reassembly.discard()
        self.session.discard_transfers(self.handle)

    def _is_pending(self) -> bool:
        return self._state is _State.ATTACHING and self.session.open

    def _decline(self, detach: Detach) -> None:
        # A refusal is two frames (part 2, section 2.6.3). An attach without source and target establishes the link,
        # because a detach needs a handle that both ends know. The detach that follows carries the error.
        self.drop()
        self.session.send(replace(self._answer(), initial_delivery_count=None if self.peer_is_sender else 0))
        self.session.send(detach)

    def _answer(self) -> Attach:
        attach = self.attach
        return Attach(self.name, self.handle, not attach.role, attach.snd_settle_mode, attach.rcv_settle_mode)

    def _flow(self, drain: bool = False) -> Flow:
        count = self._receiving.delivery_count if self.peer_is_sender else self._sending.delivery_count
        return replace(
            self.session.flow(), handle=self.handle, delivery_count=count, link_credit=self.credit, drain=drain
        )


def _message_received(link: Link, delivery: Delivery) -> MessageReceived:
    return MessageReceived(
        link,
        delivery.delivery_id,
        delivery.tag,
        delivery.settled,
        delivery.message_format,
        delivery.payload,
        delivery.oversize,
    )
