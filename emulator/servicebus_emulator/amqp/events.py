"""Events that ``Connection.receive`` returns.

The modules ``link`` and ``session`` define the other events, beside the objects that the events carry.

Events keep the order of the frames that caused them. One ``receive`` returns all events of its bytes at once.
So the answer to one event (a refused link, an ended session) can invalidate the next event of the same list.
Check ``link.open`` before you act on a link.
"""

from dataclasses import dataclass
from typing import TypeAlias

from servicebus_emulator.amqp.link import LinkEvent
from servicebus_emulator.amqp.performatives import Error
from servicebus_emulator.amqp.session import SessionEvent


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """The peer sent its open, and the open was answered; see ``connection.remote_open``."""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The peer closed the connection, or was closed for a protocol error. All its sessions and links are gone.

    ``error`` is the peer's error in the first case and ours in the second.
    """

    error: Error | None


Event: TypeAlias = ConnectionOpened | ConnectionClosed | SessionEvent | LinkEvent
