"""A queue's rules, with a clock that the tests turn."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import pytest

from emulator.amqp import Described, Symbol, Timestamp, UInt, ULong, encode
from emulator.amqp.sections import AMQP_VALUE, HEADER, MESSAGE_ANNOTATIONS, PROPERTIES
from emulator.servicebus.config import QueueSettings
from emulator.servicebus.errors import (
    ARGUMENT_ERROR,
    MESSAGE_LOCK_LOST,
    MESSAGE_NOT_FOUND,
    MESSAGE_SIZE_EXCEEDED,
    NOT_ALLOWED,
    SESSION_CANNOT_BE_LOCKED,
    SESSION_LOCK_LOST,
    ServiceBusError,
)
from emulator.servicebus.message import Message, State, parse
from emulator.servicebus.queue import Queue
from emulator.servicebus.sessions import Session


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Taker:
    """A consumer with so much credit."""

    credit: int = 0
    keeps: bool = True
    got: list[Message] = field(default_factory=list)
    losses: int = 0

    def wants(self) -> bool:
        return self.credit > 0

    def take(self, message: Message) -> None:
        self.credit -= 1
        self.got.append(message)

    def session_lock_lost(self) -> None:
        self.losses += 1


@dataclass
class Patient:
    """Someone who waits for a session."""

    until: float
    session: Session | None = None
    gave_up: bool = False

    def granted(self, session: Session) -> None:
        self.session = session

    def timed_out(self) -> None:
        self.gave_up = True


def message(
    text: str = "x",
    *,
    message_id: str | None = None,
    session: str | None = None,
    ttl: float | None = None,
    at: float | None = None,
) -> Message:
    """A message as it comes off the wire."""
    parts = [] if ttl is None else [(HEADER, [None, None, UInt(int(ttl * 1000)), None, None])]
    annotations = {} if at is None else {Symbol("x-opt-scheduled-enqueue-time"): Timestamp(int(at * 1000))}
    properties = [message_id or uuid.uuid4().hex, *[None] * 9, session]
    sections = [*parts, (MESSAGE_ANNOTATIONS, annotations), (PROPERTIES, properties), (AMQP_VALUE, text)]
    return parse(b"".join(encode(Described(ULong(code), value)) for code, value in sections))


def queue(clock: Clock, **rules: object) -> Queue:
    return Queue(QueueSettings("q", **rules), clock=clock)  # type: ignore[arg-type]  # the tests name real rules


def take(queue: Queue, count: int = 1, *, keeps: bool = True) -> list[Message]:
    """Receive up to so many, as a link that comes and goes."""
    taker = Taker(count, keeps)
    queue.subscribe(taker)
    queue.unsubscribe(taker)
    return taker.got


def token(one: Message) -> uuid.UUID:
    assert one.lock_token is not None
    return one.lock_token


def condition(error: pytest.ExceptionInfo[ServiceBusError]) -> str:
    return error.value.condition


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_messages_come_in_order_and_completing_removes_them(clock: Clock) -> None:
    one = queue(clock)
    assert one.send([message("a"), message("b")]) == [1, 2]
    got = take(one, 5)
    assert [each.sequence_number for each in got] == [1, 2]
    for each in got:
        one.complete(token(each))
    assert one.counts()["active"] == 0


def test_a_locked_message_is_hidden_until_its_lock_ends_and_that_counts_a_delivery(clock: Clock) -> None:
    one = queue(clock, lock_seconds=30)
    one.send([message()])
    (first,) = take(one)
    old = token(first)
    assert take(one) == []
    clock.now += 30
    with pytest.raises(ServiceBusError) as error:
        one.complete(old)  # the deadline counts, though nobody has swept yet
    assert condition(error) == MESSAGE_LOCK_LOST
    one.tick()
    (again,) = take(one)
    assert (again.delivery_count, token(again) != old) == (1, True)


def test_renewing_a_lock_keeps_it(clock: Clock) -> None:
    one = queue(clock, lock_seconds=30)
    one.send([message()])
    (got,) = take(one)
    clock.now += 20
    assert one.renew(token(got)) == clock.now + 30
    clock.now += 20
    one.tick()
    one.complete(token(got))


def test_abandoning_counts_a_delivery_and_releasing_does_not(clock: Clock) -> None:
    one = queue(clock)
    one.send([message()])
    for settle, count in ((one.release, 0), (lambda lock: one.abandon(lock, {}), 1), (one.release, 1)):
        (got,) = take(one)
        settle(token(got))
        assert got.delivery_count == count


def test_too_many_deliveries_end_in_the_dead_letter_queue(clock: Clock) -> None:
    one = queue(clock, max_delivery_count=2)
    one.send([message()])
    for _ in range(2):
        (got,) = take(one)
        one.abandon(token(got), {})
    assert take(one) == []
    assert one.dead_letters is not None
    (dead,) = take(one.dead_letters)
    assert b"MaxDeliveryCountExceeded" in dead.application_properties
    assert one.counts() == {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 1}


def test_a_dead_lettered_message_stays_where_it_is_however_it_is_settled_but_completed(clock: Clock) -> None:
    one = queue(clock)
    one.send([message()])
    (got,) = take(one)
    one.dead_letter(token(got), "why", "because", {})
    below = one.dead_letters
    assert below is not None
    for _ in range(20):
        (dead,) = take(below)
        below.dead_letter(token(dead), None, None, {})
        (dead,) = take(below)
        below.abandon(token(dead), {})
    (dead,) = take(below)
    below.complete(token(dead))
    assert one.counts()["dead_lettered"] == 0


def test_a_deferred_message_is_found_by_its_number_alone(clock: Clock) -> None:
    one = queue(clock)
    one.send([message()])
    (got,) = take(one)
    one.defer(token(got), {})
    assert take(one) == []
    assert one.counts()["deferred"] == 1
    (deferred,) = one.receive_deferred([1], keep=True, session_id=None)
    one.complete(token(deferred))
    with pytest.raises(ServiceBusError) as error:
        one.receive_deferred([1], keep=True, session_id=None)
    assert condition(error) == MESSAGE_NOT_FOUND


def test_an_expired_message_is_dropped_or_dead_lettered_by_the_queues_rule(clock: Clock) -> None:
    drops, keeps = queue(clock), queue(clock, dead_letter_on_expiration=True, default_ttl_seconds=10)
    drops.send([message(ttl=5)])
    keeps.send([message(ttl=999)])  # the queue's own time to live is also a ceiling
    clock.now += 11
    assert take(drops) == []
    keeps.tick()
    assert keeps.dead_letters is not None
    (dead,) = take(keeps.dead_letters)
    assert b"TTLExpiredException" in dead.application_properties
    assert drops.counts()["dead_lettered"] == 0


def test_a_locked_message_does_not_expire_under_its_receiver(clock: Clock) -> None:
    one = queue(clock, lock_seconds=60)
    one.send([message(ttl=5)])
    (got,) = take(one)
    clock.now += 10
    one.tick()
    one.complete(token(got))


def test_a_scheduled_message_comes_when_it_is_due_under_a_new_number(clock: Clock) -> None:
    one = queue(clock)
    (number,) = one.send([message(at=clock.now + 60)])
    assert take(one) == []
    assert one.next_due() == clock.now + 60
    clock.now += 60
    one.tick()
    (got,) = take(one)
    assert (got.state, got.was_scheduled, got.sequence_number > number) == (State.ACTIVE, True, True)
    assert got.enqueued_at == clock.now


def test_a_scheduled_message_can_be_cancelled_once(clock: Clock) -> None:
    one = queue(clock)
    numbers = one.send([message(at=clock.now + 60)])
    one.cancel_scheduled(numbers)
    with pytest.raises(ServiceBusError) as error:
        one.cancel_scheduled(numbers)
    assert condition(error) == MESSAGE_NOT_FOUND
    clock.now += 61
    one.tick()
    assert take(one) == []


def test_a_message_id_is_taken_once_within_the_window(clock: Clock) -> None:
    one = queue(clock, requires_duplicate_detection=True, duplicate_detection_seconds=100)
    one.send([message(message_id="a"), message(message_id="a"), message(message_id="b")])
    assert one.counts()["active"] == 2
    clock.now += 101
    one.send([message(message_id="a")])
    assert one.counts()["active"] == 3


def test_a_batch_is_taken_whole_or_not_at_all(clock: Clock) -> None:
    one = queue(clock, max_message_bytes=200)
    with pytest.raises(ServiceBusError) as error:
        one.send([message(), message("x" * 500)])
    assert condition(error) == MESSAGE_SIZE_EXCEEDED
    assert one.counts()["active"] == 0


def test_receive_and_delete_leaves_nothing(clock: Clock) -> None:
    one = queue(clock)
    one.send([message()])
    (got,) = take(one, keeps=False)
    assert got.lock_token is None
    assert one.counts()["active"] == 0


def test_consumers_are_served_in_turn(clock: Clock) -> None:
    one = queue(clock)
    left, right = Taker(10), Taker(10)
    one.subscribe(left)
    one.subscribe(right)
    one.send([message() for _ in range(6)])
    assert (len(left.got), len(right.got)) == (3, 3)


def test_peeking_sees_every_state_and_changes_none(clock: Clock) -> None:
    one = queue(clock)
    one.send([message("locked"), message("deferred"), message("active"), message("later", at=clock.now + 9)])
    locked, deferred = take(one, 2)
    one.defer(token(deferred), {})
    assert [each.sequence_number for each in one.peek(1, 10, None)] == [1, 2, 3, 4]
    assert [each.sequence_number for each in one.peek(3, 1, None)] == [3]
    assert locked.delivery_count == 0


def test_many_waiting_messages_slow_nothing_down_and_leave_no_trace(clock: Clock) -> None:
    one = queue(clock)
    for _ in range(50):
        one.send([message() for _ in range(200)])
    taker = Taker(10_000, keeps=False)
    one.subscribe(taker)
    assert len(taker.got) == 10_000
    assert list(one.peek(0, 10, None)) == []


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_is_one_receivers_and_keeps_its_order(clock: Clock) -> None:
    one = queue(clock, requires_session=True)
    one.send([message("a1", session="a"), message("b1", session="b"), message("a2", session="a")])
    taker = Taker(10)
    one.attach_to_session(one.accept_session("a"), taker)
    assert [each.session_id for each in taker.got] == ["a", "a"]
    with pytest.raises(ServiceBusError) as error:
        one.accept_session("a")
    assert condition(error) == SESSION_CANNOT_BE_LOCKED


def test_a_message_without_a_session_is_not_for_a_queue_with_sessions(clock: Clock) -> None:
    with pytest.raises(ServiceBusError) as error:
        queue(clock, requires_session=True).send([message()])
    assert condition(error) == NOT_ALLOWED


def test_letting_a_session_go_gives_its_messages_back(clock: Clock) -> None:
    one = queue(clock, requires_session=True)
    one.send([message(session="a")])
    session = one.accept_session("a")
    taker = Taker(1)
    one.attach_to_session(session, taker)
    one.release_session(session)
    again = Taker(1)
    one.attach_to_session(one.accept_session("a"), again)
    assert again.got == taker.got


def test_a_session_lock_that_ends_is_told_to_its_holder(clock: Clock) -> None:
    one = queue(clock, requires_session=True, lock_seconds=30)
    one.send([message(session="a")])
    taker = Taker(1)
    one.attach_to_session(one.accept_session("a"), taker)
    clock.now += 20
    one.renew_session("a")
    clock.now += 20
    one.tick()
    assert taker.losses == 0
    clock.now += 11
    one.tick()
    assert taker.losses == 1
    with pytest.raises(ServiceBusError) as error:
        one.renew_session("a")
    assert condition(error) == SESSION_LOCK_LOST


def test_who_waits_for_the_next_session_gets_it_or_gives_up_in_time(clock: Clock) -> None:
    one = queue(clock, requires_session=True, lock_seconds=120)
    first, second = Patient(clock.now + 60), Patient(clock.now + 60)
    one.accept_next_session(first)
    one.accept_next_session(second)
    one.send([message(session="a")])
    assert first.session is not None
    assert first.session.id == "a"
    assert second.session is None
    clock.now += 60
    one.tick()
    assert second.gave_up


def test_a_session_in_use_is_not_the_next_free_one(clock: Clock) -> None:
    one = queue(clock, requires_session=True)
    one.send([message(session="a"), message(session="")])
    one.accept_session("a")
    patient = Patient(clock.now + 60)
    one.accept_next_session(patient)
    assert patient.session is not None
    assert patient.session.id == ""


def test_state_is_kept_with_a_session_and_lists_it(clock: Clock) -> None:
    one = queue(clock, requires_session=True)
    session = one.accept_session("a")
    one.set_session_state("a", b"state")
    one.release_session(session)
    one.send([message(session="b")])
    assert one.session_ids(0, 10) == ["a", "b"]
    one.accept_session("a")
    assert one.session_state("a") == b"state"


def test_the_dead_letter_queue_of_a_session_queue_has_no_sessions(clock: Clock) -> None:
    one = queue(clock, requires_session=True)
    one.send([message(session="a")])
    taker = Taker(1)
    one.attach_to_session(one.accept_session("a"), taker)
    one.dead_letter(token(taker.got[0]), "why", None, {})
    assert one.dead_letters is not None
    assert len(take(one.dead_letters)) == 1


@pytest.mark.parametrize("field", ["message_id", "session"])
def test_an_id_longer_than_the_service_takes_is_refused(field: str) -> None:
    with pytest.raises(ServiceBusError) as error:
        message(**{field: "x" * 129})  # type: ignore[arg-type]  # one of two text fields
    assert condition(error) == ARGUMENT_ERROR


@pytest.mark.parametrize("payload", [b"x", b"\x00", encode("text"), b"\x00\x53\x73\xd0\xff"])
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(ServiceBusError) as error:
        parse(payload)
    assert condition(error) == ARGUMENT_ERROR
