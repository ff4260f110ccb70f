"""One link of a session, seen from the end the peer attached to (part 2, section 2.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from servicebus_emulator.amqp.credit import ReceivingCredit, SendingCredit
from servicebus_emulator.amqp.errors import ILLEGAL_STATE, NOT_ALLOWED, AmqpError, SessionError
from servicebus_emulator.amqp.events import FlowReceived, MessageReceived
from servicebus_emulator.amqp.performatives import Attach, Coordinator, Detach, Error, Flow, Source, Target, Transfer
from servicebus_emulator.amqp.reassembly import Reassembly

if TYPE_CHECKING:
    from servicebus_emulator.amqp.session import Session


class _State(Enum):
    ATTACHING = auto()
    OPEN = auto()
    DETACHED = auto()


class Link:
    """``attach`` is what the peer asked for; ``handle`` is our number for the link.

    ``accept``, ``refuse``, ``grant``, ``drained`` and ``detach`` do nothing once the link, its session or its
    connection is gone, so that an answer may come late.
    """

    def __init__(self, session: Session, handle: int, attach: Attach) -> None:
        self.session = session
        self.name = attach.name
        self.handle = handle
        self.attach = attach
        self.peer_is_sender = not attach.role
        self.max_message_size: int | None = None
        self._state = _State.ATTACHING
        self._sending = SendingCredit()
        self._receiving = ReceivingCredit(attach.initial_delivery_count or 0)
        self._reassembly = Reassembly(session.connection.budget)

    @property
    def open(self) -> bool:
        """Accepted, and not detached by either end since."""
        return self._state is _State.OPEN and self.session.open

    @property
    def credit(self) -> int:
        """Messages that may be sent right now: where we send, by the peer's leave; where the peer sends, by ours."""
        return self._receiving.available if self.peer_is_sender else self._sending.available

    def accept(
        self,
        *,
        max_message_size: int | None,
        source: Source | None = None,
        target: Target | Coordinator | None = None,
        properties: Mapping[str, object] | None = None,
        initial_delivery_count: int = 0,
    ) -> None:
        """Answer the attach; terminuses that are not given are echoed.

        ``max_message_size`` in bytes, None for no limit of the link's own; where the peer sends it is also the bound
        above which messages come as ``oversize`` (never above the connection's own).
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
        """Answer the attach with one that has no terminuses, then detach for good."""
        if self._is_pending():
            self._decline(Detach(self.handle, closed=True, error=error))

    def grant(self, credit: int) -> None:
        """Where the peer sends: allow ``credit`` messages from now on, in place of what was left."""
        if self.open and self.peer_is_sender:
            self._receiving.grant(credit)
            self.send_flow()

    def send(self, payload: bytes, *, tag: bytes, settled: bool, message_format: int = 0) -> int:
        """Send a message against one credit; the delivery-id. Raises AmqpError without credit or an open link."""
        if not self.open or self.peer_is_sender or not self._sending.available:
            raise AmqpError(ILLEGAL_STATE, f"link {self.name!r} has no credit to send on, or is not open for it")
        self._sending.consume()
        return self.session.send_delivery(self.handle, payload, tag, message_format, settled)

    def drained(self) -> None:
        """Use up the credit that is left and say so: the answer to ``drain``."""
        if self.open and not self.peer_is_sender:
            self._sending.drain()
            self.session.send_after_transfers(self.handle, self._flow(drain=True))

    def detach(self, error: Error | None = None, closed: bool = True) -> None:
        """Leave, or if the link is not accepted yet, refuse it."""
        if self._is_pending():
            self._decline(Detach(self.handle, closed, error))
        elif self.open:
            self.lose()
            self.session.send(Detach(self.handle, closed, error))

    def send_flow(self) -> None:
        """State the link's credit."""
        if self._state is _State.OPEN:
            self.session.send(self._flow())
        else:
            self.session.send_flow()

    # What follows is for the session, which hands over the frames that come for this link.

    @property
    def detached(self) -> bool:
        """By us; the peer's own detach may still be due."""
        return self._state is _State.DETACHED

    def on_flow(self, flow: Flow) -> None:
        if self.peer_is_sender:
            if flow.delivery_count is not None:
                self._receiving.sender_is_at(flow.delivery_count)
        else:
            self._sending.allow(flow.delivery_count, flow.link_credit or 0)
            self.session.connection.emit(FlowReceived(self, flow.drain, flow.echo))
        if flow.echo and not flow.drain:
            self.send_flow()

    def on_transfer(self, transfer: Transfer, part: bytes) -> None:
        if not self.peer_is_sender:
            raise SessionError(NOT_ALLOWED, f"a transfer came on link {self.name!r}, where its sender is the receiver")
        limit = self.session.connection.limits.max_message_size
        delivery = self._reassembly.add(transfer, part, min(limit, self.max_message_size or limit))
        if transfer.aborted or delivery:
            self._receiving.received()
        if delivery:
            self.session.connection.emit(
                MessageReceived(
                    self,
                    delivery.delivery_id,
                    delivery.tag,
                    delivery.settled,
                    delivery.message_format,
                    delivery.payload,
                    delivery.oversize,
                )
            )

    def on_detach(self, closed: bool) -> None:
        """Answer the peer's detach."""
        if self._state is _State.ATTACHING:
            self._decline(Detach(self.handle, closed))
        elif self._state is _State.OPEN:
            self.lose()
            self.session.send(Detach(self.handle, closed))

    def lose(self) -> None:
        """The link is gone, and with it all that was half done."""
        self._state = _State.DETACHED
        self._reassembly.discard()
        self.session.forget_transfers(self.handle)

    def _is_pending(self) -> bool:
        return self._state is _State.ATTACHING and self.session.open

    def _decline(self, detach: Detach) -> None:
        self.lose()
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
