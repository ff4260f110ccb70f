"""Receiving and settling: locks, delivery counts, the dead-letter queue, deferred messages."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from servicebus_emulator.servicebus.entities.message import BrokeredMessage, MessageState
from servicebus_emulator.servicebus.entities.message_encoding import set_dead_letter_reason
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST, MESSAGE_NOT_FOUND, ServiceBusError
from tests.unit.emulator.servicebus.rig import START, RecordingReceiver, Rig, body, properties, token

Settlement = Callable[[Queue, uuid.UUID], object]

SETTLEMENTS: dict[str, Settlement] = {
    "complete": lambda queue, lock: queue.complete(lock),
    "abandon": lambda queue, lock: queue.abandon(lock, {}),
    "release": lambda queue, lock: queue.release(lock),
    "defer": lambda queue, lock: queue.defer(lock, {}),
    "dead-letter": lambda queue, lock: queue.dead_letter(lock, None, None, {}),
    "renew": lambda queue, lock: queue.renew(lock),
}
every_settlement = pytest.mark.parametrize("settle", SETTLEMENTS.values(), ids=SETTLEMENTS)


def buried(rig: Rig) -> list[BrokeredMessage]:
    return rig.dead.peek(1, 1000, None)


# --- delivery ----------------------------------------------------------------------------------------------------


def test_a_receiver_gets_no_more_messages_than_its_capacity() -> None:
    rig = Rig()
    rig.send("a", "b", "c")
    receiver = rig.receiver(2)
    assert receiver.bodies == [b"a", b"b"]
    receiver.credit = 1
    rig.queue.credit_granted()
    assert receiver.bodies == [b"a", b"b", b"c"]


def test_receivers_are_served_in_turn() -> None:
    rig = Rig()
    left, right = rig.receiver(), rig.receiver()
    rig.send(*"abcdef")
    assert sorted([left.bodies, right.bodies]) == [[b"a", b"c", b"e"], [b"b", b"d", b"f"]]


def test_a_receiver_without_credit_does_not_delay_the_others() -> None:
    rig = Rig()
    rig.receiver(0)
    ready = rig.receiver()
    rig.send("a", "b")
    assert ready.bodies == [b"a", b"b"]


def test_an_unsubscribed_receiver_gets_no_more_messages_and_keeps_its_locks() -> None:
    rig = Rig(lock_seconds=30.0)
    receiver = rig.receiver()
    rig.send("a")
    rig.queue.unsubscribe(receiver)
    rig.send("b")
    other = rig.receiver()
    assert (receiver.bodies, other.bodies) == ([b"a"], [b"b"])
    rig.queue.complete(token(receiver.last))
    rig.passes(30)
    assert other.bodies == [b"b", b"b"]


def test_receive_and_delete_removes_the_message() -> None:
    rig = Rig()
    receiver = rig.receiver(peek_lock=False)
    rig.send("a")
    assert receiver.last.lock_token is None
    assert rig.queue.counts()["active"] == 0
    assert rig.queue.peek(1, 9, None) == []


# --- locks -------------------------------------------------------------------------------------------------------


def test_completing_removes_the_message() -> None:
    rig = Rig()
    rig.send("a")
    rig.queue.complete(token(rig.receiver().last))
    assert rig.queue.counts()["active"] == 0
    assert rig.queue.peek(1, 9, None) == []


def test_a_message_whose_lock_ended_is_delivered_under_another_token() -> None:
    rig = Rig(lock_seconds=30.0)
    rig.send("a")
    receiver = rig.receiver()
    first = token(receiver.last)
    assert receiver.last.locked_until == START + 30
    rig.passes(29)
    assert len(receiver.received) == 1
    rig.passes(1)
    assert receiver.bodies == [b"a", b"a"]
    assert token(receiver.last) != first
    assert receiver.last.delivery_count == 1


@every_settlement
def test_an_expired_lock_is_lost_even_before_its_timer_runs(settle: Settlement) -> None:
    rig = Rig(lock_seconds=30.0)
    rig.send("a")
    receiver = rig.receiver(1)
    rig.passes(30, unnoticed=True)
    with pytest.raises(ServiceBusError, match="receive it again") as lost:
        settle(rig.queue, token(receiver.last))
    assert lost.value.condition == MESSAGE_LOCK_LOST
    rig.queue.tick()
    assert rig.queue.counts() == {"active": 1, "deferred": 0, "scheduled": 0, "dead_lettered": 0}


@every_settlement
def test_a_message_is_settled_under_its_lock_only(settle: Settlement) -> None:
    rig = Rig()
    rig.send("a")
    lock = token(rig.receiver(1).last)
    with pytest.raises(ServiceBusError):
        settle(rig.queue, uuid.uuid4())
    rig.queue.complete(lock)
    with pytest.raises(ServiceBusError):
        settle(rig.queue, lock)


def test_a_renewed_lock_lasts_for_the_full_lock_duration() -> None:
    rig = Rig(lock_seconds=30.0)
    rig.send("a")
    receiver = rig.receiver()
    rig.passes(20)
    assert rig.queue.renew(token(receiver.last)) == START + 50
    rig.passes(29)
    rig.queue.complete(token(receiver.last))
    assert len(receiver.received) == 1


# --- redelivery and delivery count -------------------------------------------------------------------------------


def test_an_abandoned_message_is_delivered_before_later_ones() -> None:
    rig = Rig()
    rig.send("a", "b", "c")
    receiver = rig.receiver(1)
    rig.queue.abandon(token(receiver.last), {})
    receiver.credit = 3
    rig.queue.credit_granted()
    assert receiver.bodies == [b"a", b"a", b"b", b"c"]


def test_abandoning_counts_a_delivery_and_releasing_does_not() -> None:
    rig = Rig()
    rig.send("a")
    receiver = rig.receiver(3)
    rig.queue.release(token(receiver.last))
    assert receiver.last.delivery_count == 0
    rig.queue.abandon(token(receiver.last), {})
    assert receiver.last.delivery_count == 1


def test_abandoning_may_modify_properties() -> None:
    rig = Rig()
    rig.send("a")
    receiver = rig.receiver(1)
    rig.queue.abandon(token(receiver.last), {"attempt": "second"})
    [here] = rig.queue.peek(1, 1, None)
    assert properties(here)["attempt"] == "second"


@pytest.mark.parametrize("ends", ["by abandoning", "by the lock's end"])
def test_a_message_is_dead_lettered_after_its_last_delivery(ends: str) -> None:
    rig = Rig(max_delivery_count=3, lock_seconds=10.0)
    rig.send("a")
    receiver = rig.receiver()
    for _ in range(3):
        if ends == "by abandoning":
            rig.queue.abandon(token(receiver.last), {})
        else:
            rig.passes(10)
    assert [one.delivery_count for one in buried(rig)] == [3]
    assert properties(buried(rig)[0])["DeadLetterReason"] == "MaxDeliveryCountExceeded"
    assert len(receiver.received) == 3
    assert rig.queue.counts() == {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 1}


# --- the dead-letter queue ---------------------------------------------------------------------------------------


def test_a_dead_letter_has_the_reason_and_keeps_its_own_properties() -> None:
    rig = Rig()
    rig.send("a")
    receiver = rig.receiver()
    set_dead_letter_reason(receiver.last, None, None, {"mine": 7})
    rig.queue.dead_letter(token(receiver.last), "why", "because", {"more": "so"})
    assert properties(buried(rig)[0]) == {
        "mine": 7,
        "more": "so",
        "DeadLetterReason": "why",
        "DeadLetterErrorDescription": "because",
    }


def test_a_message_dead_lettered_without_a_reason_has_no_reason() -> None:
    rig = Rig()
    rig.send("a")
    rig.queue.dead_letter(token(rig.receiver().last), None, None, {})
    assert buried(rig)[0].application_properties == b""


def test_a_dead_letter_queue_has_locks_and_no_delivery_limit() -> None:
    rig = Rig(lock_seconds=30.0, max_delivery_count=1)
    rig.send("a")
    rig.queue.abandon(token(rig.receiver().last), {})
    receiver = RecordingReceiver()
    rig.dead.subscribe(receiver)
    for _ in range(5):
        rig.passes(30)
    assert receiver.bodies == [b"a"] * 6  # a dead-letter queue has no delivery limit
    rig.dead.complete(token(receiver.last))
    assert rig.queue.counts()["dead_lettered"] == 0


def test_a_dead_letter_cannot_be_dead_lettered_again() -> None:
    rig = Rig()
    rig.send("a")
    rig.queue.dead_letter(token(rig.receiver().last), "why", None, {})
    receiver = RecordingReceiver(2)
    rig.dead.subscribe(receiver)
    with pytest.raises(ServiceBusError, match="cannot be dead-lettered again"):
        rig.dead.dead_letter(token(receiver.last), "again", None, {})
    rig.dead.credit_granted()
    assert (receiver.bodies, receiver.last.delivery_count) == ([b"a", b"a"], 0)
    assert rig.dead.dead_letters is None


# --- deferred messages -------------------------------------------------------------------------------------------


def deferred(rig: Rig, *bodies: str) -> list[int]:
    """Send and defer messages. Return their sequence numbers."""
    numbers = rig.send(*bodies)
    receiver = rig.receiver(len(bodies))
    for one in receiver.received:
        rig.queue.defer(token(one), {})
    rig.queue.unsubscribe(receiver)
    return numbers


def test_a_deferred_message_is_received_by_its_sequence_number_only() -> None:
    rig = Rig()
    first, second = deferred(rig, "a", "b")
    assert rig.receiver().bodies == []
    assert rig.queue.counts()["deferred"] == 2
    found = rig.queue.receive_deferred([second, first], peek_lock=True, session_id=None)
    assert [body(one) for one in found] == [b"b", b"a"]
    rig.queue.complete(token(found[0]))
    assert rig.queue.counts()["deferred"] == 1


def test_a_sequence_number_requested_twice_is_received_once() -> None:
    rig = Rig()
    [number] = deferred(rig, "a")
    found = rig.queue.receive_deferred([number, number], peek_lock=True, session_id=None)
    assert len(found) == 1
    rig.queue.complete(token(found[0]))


def test_a_deferred_message_stays_deferred_when_its_lock_ends() -> None:
    rig = Rig(lock_seconds=30.0)
    [number] = deferred(rig, "a")
    rig.queue.receive_deferred([number], peek_lock=True, session_id=None)
    with pytest.raises(ServiceBusError, match="locked by a receiver"):
        rig.queue.receive_deferred([number], peek_lock=True, session_id=None)
    rig.passes(30)
    assert rig.receiver().bodies == []
    [again] = rig.queue.receive_deferred([number], peek_lock=True, session_id=None)
    assert (again.state, again.delivery_count) == (MessageState.DEFERRED, 2)  # one deferral and one expired lock


def test_a_deferred_message_can_be_received_and_deleted() -> None:
    rig = Rig()
    [number] = deferred(rig, "a")
    [received] = rig.queue.receive_deferred([number], peek_lock=False, session_id=None)
    assert received.lock_token is None
    assert rig.queue.counts()["deferred"] == 0


def test_requesting_a_message_that_is_not_deferred_receives_none() -> None:
    rig = Rig()
    [number] = deferred(rig, "a")
    [active] = rig.send("b")
    for wrong in (active, 99):
        with pytest.raises(ServiceBusError, match=f"no deferred message {wrong}") as refused:
            rig.queue.receive_deferred([number, wrong], peek_lock=False, session_id=None)
        assert refused.value.condition == MESSAGE_NOT_FOUND
    assert rig.queue.counts()["deferred"] == 1


# --- the timer ---------------------------------------------------------------------------------------------------


def test_the_queue_reports_its_next_due_moment() -> None:
    rig = Rig(lock_seconds=30.0)
    assert rig.queue.next_due() == float("inf")
    rig.send("a", ttl=50)
    assert rig.queue.next_due() == START + 50
    rig.receiver(1)
    assert rig.queue.next_due() == START + 30
    rig.send("b", at=START + 20)
    assert rig.queue.next_due() == START + 20


def test_an_earlier_due_moment_is_announced() -> None:
    rig = Rig()
    announced = rig.changes
    for act in (lambda: rig.send("a", ttl=50), lambda: rig.send("b", at=START + 20), lambda: rig.receiver(1)):
        act()
        assert rig.changes > announced
        announced = rig.changes


def test_locks_expired_on_demand_are_lost_and_their_messages_are_delivered_again() -> None:
    rig = Rig()
    rig.send("a")
    receiver = rig.receiver(1)
    lock = token(receiver.last)
    assert rig.queue.expire_locks() == 1
    with pytest.raises(ServiceBusError) as caught:
        rig.queue.complete(lock)
    assert caught.value.condition == MESSAGE_LOCK_LOST
    receiver.credit = 1
    rig.queue.tick()
    assert (receiver.bodies, receiver.last.delivery_count) == ([b"a", b"a"], 1)
