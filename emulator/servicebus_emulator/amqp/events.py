"""What a connection tells those who use it.

Events come in the order of the frames behind them, and all of one ``receive`` at once: what the answer to one event
does (refuse a link, end a session) may have overtaken the next. So ask ``link.open`` before acting on a link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from servicebus_emulator.amqp.performatives import Error, Outcome

if TYPE_CHECKING:
    from servicebus_emulator.amqp.link import Link
    from servicebus_emulator.amqp.session import Session


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """The peer's open came and was answered; see ``connection.remote_open``."""


@dataclass(frozen=True, slots=True)
class SessionBegun:
    """The peer began a session, and was answered."""

    session: Session


@dataclass(frozen=True, slots=True)
class LinkAttaching:
    """The peer wants a link: now or later, ``accept`` or ``refuse`` it."""

    link: Link


@dataclass(frozen=True, slots=True)
class FlowReceived:
    """On a link we send on, the credit was stated anew (``link.credit``).

    With ``drain`` the peer waits for ``link.drained()``, after the messages there are. An ``echo`` is answered
    already. Credit may come before the link is accepted, and is kept.
    """

    link: Link
    drain: bool
    echo: bool


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A complete message. ``oversize``: it was larger than the link takes, and its payload is not here."""

    link: Link
    delivery_id: int
    tag: bytes
    settled: bool
    message_format: int
    payload: bytes
    oversize: bool = False


@dataclass(frozen=True, slots=True)
class DispositionReceived:
    """The peer states the fate of the deliveries ``first`` to ``last``, in its role of receiver or of sender.

    The range is the peer's word and may span all of 32 bits: look up the known deliveries in it, do not walk it.
    """

    session: Session
    role_receiver: bool
    first: int
    last: int
    settled: bool
    state: Outcome | None


@dataclass(frozen=True, slots=True)
class LinkDetached:
    """The peer detached the link, accepted or not, and was answered."""

    link: Link
    closed: bool
    error: Error | None


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The peer ended the session, or broke its rules and was told so. All ``session.links`` are gone with it."""

    session: Session
    error: Error | None


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The peer closed the connection, or broke its rules and was told so. All sessions are gone with it."""

    error: Error | None


Event: TypeAlias = (
    ConnectionOpened
    | SessionBegun
    | LinkAttaching
    | FlowReceived
    | MessageReceived
    | DispositionReceived
    | LinkDetached
    | SessionEnded
    | ConnectionClosed
)
