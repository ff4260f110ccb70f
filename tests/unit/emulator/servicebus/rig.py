"""A queue without sockets: a clock that the test sets, messages as a sender encodes them, a recording receiver."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from servicebus_emulator.amqp import Described, Symbol, Timestamp, UInt, ULong, decode, encode
from servicebus_emulator.amqp.sections import DATA, HEADER, MESSAGE_ANNOTATIONS, PROPERTIES
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.message_encoding import parse_message
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.entities.sessions import MessageSession

START = 1_700_000_000.0


class Clock:
    """Seconds since the epoch. It stands still until the test sets it."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class RecordingReceiver:
    """A receiver with credit for a number of messages, which records them."""

    credit: int = 1000
    peek_lock: bool = True
    received: list[BrokeredMessage] = field(default_factory=list)
    lost_session: bool = False

    def has_capacity(self) -> bool:
        return self.credit > 0

    def deliver(self, message: BrokeredMessage) -> None:
        self.credit -= 1
        self.received.append(message)

    def session_lock_lost(self) -> None:
        self.lost_session = True

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of the received messages, in order."""
        return [body(message) for message in self.received]

    @property
    def last(self) -> BrokeredMessage:
        return self.received[-1]


@dataclass(eq=False)
class Waiting:
    """A receiver that waits for a session, and receives its messages once it has one."""

    queue: Queue
    clock: Clock
    until: float
    receiver: RecordingReceiver = field(default_factory=RecordingReceiver)
    session: MessageSession | None = None
    gave_up_at: float | None = None

    def granted(self, session: MessageSession) -> None:
        self.session = session
        self.queue.sessions.attach(session, self.receiver)

    def timed_out(self) -> None:
        self.gave_up_at = self.clock()


class Rig:
    """A queue with these settings, and its clock."""

    def __init__(self, **rules: object) -> None:
        self.clock = Clock()
        self.changes = 0
        settings = QueueSettings(name="q", **rules)  # type: ignore[arg-type]  # each test names settings
        self.queue = Queue(settings, clock=self.clock, reschedule=self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def dead(self) -> Queue:
        assert self.queue.dead_letters is not None
        return self.queue.dead_letters

    def send(self, *bodies: str, **how: object) -> list[int]:
        """Send messages with these bodies; see `message` for the options."""
        return self.queue.send(message(text, **how) for text in bodies)  # type: ignore[arg-type]  # as above

    def receiver(self, credit: int = 1000, *, peek_lock: bool = True) -> RecordingReceiver:
        """Return a subscribed receiver."""
        receiver = RecordingReceiver(credit, peek_lock)
        self.queue.subscribe(receiver)
        return receiver

    def session(self, name: str, credit: int = 1000) -> tuple[MessageSession, RecordingReceiver]:
        """Accept a session, and return it with its receiver."""
        session, receiver = self.queue.sessions.accept(name), RecordingReceiver(credit)
        self.queue.sessions.attach(session, receiver)
        return session, receiver

    def next_session(self, wait: float = 60.0) -> Waiting:
        """Wait for the next free session."""
        waiting = Waiting(self.queue, self.clock, self.clock() + wait)
        self.queue.sessions.accept_next(waiting)
        return waiting

    def passes(self, seconds: float, *, unnoticed: bool = False) -> None:
        """Advance the clock, and run each timer at its due moment, unless the timers are late (`unnoticed`)."""
        end = self.clock.now + seconds
        while not unnoticed and self.queue.next_due() <= end:
            self.clock.now = max(self.clock.now, self.queue.next_due())
            self.queue.tick()
        self.clock.now = end


def message(
    text: str = "",
    *,
    message_id: str | None = None,
    session_id: str | None = None,
    ttl: float | None = None,
    at: float | None = None,
    partition_key: str | None = None,
) -> BrokeredMessage:
    """Return a message as a sender encodes it: `ttl` in seconds, scheduled `at` seconds since the epoch."""
    annotations: dict[object, object] = {}
    if at is not None:
        annotations[Symbol("x-opt-scheduled-enqueue-time")] = Timestamp(int(at * 1000))
    if partition_key is not None:
        annotations[Symbol("x-opt-partition-key")] = partition_key
    milliseconds = None if ttl is None else UInt(int(ttl * 1000))
    sections = [
        section(HEADER, [None, None, milliseconds]),
        section(MESSAGE_ANNOTATIONS, annotations),
        section(PROPERTIES, [message_id, *[None] * 9, session_id]),
        section(DATA, text.encode()),
    ]
    return parse_message(b"".join(sections))


def section(code: int, value: object) -> bytes:
    return encode(Described(ULong(code), value))


def body(message: BrokeredMessage) -> bytes:
    """Return the content of a message's only data section."""
    described, _ = decode(message.body)
    assert isinstance(described, Described)
    assert isinstance(described.value, bytes)
    return described.value


def properties(message: BrokeredMessage) -> dict[object, object]:
    """Return a message's application properties."""
    described, _ = decode(message.application_properties)
    assert isinstance(described, Described)
    assert isinstance(described.value, dict)
    return described.value


def token(message: BrokeredMessage) -> uuid.UUID:
    """Return the lock token of a locked message."""
    assert message.lock_token is not None
    return message.lock_token
