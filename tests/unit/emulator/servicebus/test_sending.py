"""Sending, duplicate detection, times to live, schedules and peek."""

from __future__ import annotations

import pytest

from servicebus_emulator.servicebus.entities.message import MessageState
from servicebus_emulator.servicebus.errors import (
    ARGUMENT_ERROR,
    MESSAGE_NOT_FOUND,
    MESSAGE_SIZE_EXCEEDED,
    NOT_ALLOWED,
    ServiceBusError,
)
from tests.unit.emulator.servicebus.rig import START, RecordingReceiver, Rig, body, message, properties, token

# --- order and limits --------------------------------------------------------------------------------------------


def test_messages_are_numbered_from_one_and_delivered_in_this_order() -> None:
    rig = Rig()
    assert rig.send("a", "b") == [1, 2]
    assert rig.send("c") == [3]
    assert rig.receiver().bodies == [b"a", b"b", b"c"]


def test_a_batch_is_accepted_as_a_whole_or_not_at_all() -> None:
    rig = Rig(max_message_bytes=200)
    with pytest.raises(ServiceBusError, match="'q' takes 200") as refused:
        rig.send("small", "x" * 200)
    assert refused.value.condition == MESSAGE_SIZE_EXCEEDED
    assert rig.queue.counts()["active"] == 0
    assert rig.send("small") == [1]


def test_a_message_may_be_as_large_as_the_limit() -> None:
    exact = message("x" * 100)
    rig = Rig(max_message_bytes=exact.size)
    assert rig.queue.send([exact]) == [1]


def test_an_id_longer_than_128_characters_is_rejected_by_name() -> None:
    message(message_id="m" * 128, session_id="s" * 128)
    with pytest.raises(ServiceBusError, match="message ID is longer than 128") as refused:
        message(message_id="m" * 129)
    assert refused.value.condition == ARGUMENT_ERROR
    with pytest.raises(ServiceBusError, match="session ID is longer than 128"):
        message(session_id="s" * 129)


def test_a_message_without_an_id_gets_a_unique_one() -> None:
    first, second = message("a"), message("b")
    assert first.message_id
    assert first.message_id != second.message_id


def test_a_queue_with_sessions_rejects_a_message_without_a_session_id() -> None:
    with pytest.raises(ServiceBusError, match="set the message's session ID") as refused:
        Rig(requires_session=True).send("a")
    assert refused.value.condition == NOT_ALLOWED


# --- duplicates --------------------------------------------------------------------------------------------------


def test_a_duplicate_is_accepted_and_dropped() -> None:
    rig = Rig(requires_duplicate_detection=True)
    rig.send("a", message_id="m")
    rig.send("b", message_id="m")
    rig.send("c", message_id="n")
    assert rig.receiver().bodies == [b"a", b"c"]


def test_duplicates_within_one_batch_are_dropped() -> None:
    rig = Rig(requires_duplicate_detection=True)
    rig.send("a", "b", message_id="m")
    assert rig.queue.counts()["active"] == 1


def test_the_id_of_a_completed_message_is_known_until_the_window_ends() -> None:
    rig = Rig(requires_duplicate_detection=True, duplicate_detection_seconds=20.0)
    receiver = rig.receiver(peek_lock=False)
    rig.send("a", message_id="m")
    rig.passes(19)
    rig.send("b", message_id="m")
    assert receiver.bodies == [b"a"]
    rig.passes(1)
    rig.send("c", message_id="m")
    assert receiver.bodies == [b"a", b"c"]


def test_a_duplicate_does_not_extend_the_window() -> None:
    rig = Rig(requires_duplicate_detection=True, duplicate_detection_seconds=20.0)
    rig.send("a", message_id="m")
    rig.passes(15)
    rig.send("b", message_id="m")
    rig.passes(15)
    rig.send("c", message_id="m")
    assert rig.receiver().bodies == [b"a", b"c"]


def test_without_duplicate_detection_ids_may_repeat() -> None:
    rig = Rig()
    rig.send("a", "b", message_id="m")
    assert rig.receiver().bodies == [b"a", b"b"]


# --- time to live ------------------------------------------------------------------------------------------------


def test_a_message_is_deleted_when_its_time_to_live_ends() -> None:
    rig = Rig()
    rig.send("a", ttl=10)
    rig.passes(10)
    assert rig.queue.counts()["active"] == 0
    assert rig.dead.peek(1, 9, None) == []


def test_an_expired_message_is_not_delivered_even_before_its_timer_runs() -> None:
    rig = Rig()
    rig.send("a", ttl=10)
    rig.send("b")
    rig.passes(10, unnoticed=True)
    assert rig.receiver().bodies == [b"b"]


def test_the_queues_time_to_live_is_a_maximum() -> None:
    rig = Rig(default_ttl_seconds=10.0)
    rig.send("without a time to live")
    rig.send("longer", ttl=60)
    rig.send("shorter", ttl=5)
    rig.passes(5)
    assert rig.queue.counts()["active"] == 2
    rig.passes(5)
    assert rig.queue.counts()["active"] == 0


def test_an_expired_message_is_dead_lettered_if_the_queue_is_set_so() -> None:
    rig = Rig(dead_letter_on_expiration=True)
    rig.send("a", ttl=10)
    rig.passes(10)
    receiver = RecordingReceiver()
    rig.dead.subscribe(receiver)
    assert receiver.bodies == [b"a"]
    assert properties(receiver.last)["DeadLetterReason"] == "TTLExpiredException"


def test_a_locked_message_does_not_expire_before_it_is_abandoned() -> None:
    rig = Rig(lock_seconds=30.0)
    rig.send("a", ttl=10)
    receiver = rig.receiver(1)
    rig.passes(20)
    assert rig.queue.counts()["active"] == 1
    rig.queue.abandon(token(receiver.last), {})
    assert rig.queue.counts()["active"] == 0


def test_a_deferred_message_expires() -> None:
    rig = Rig()
    [number] = rig.send("a", ttl=10)
    receiver = rig.receiver(1)
    rig.queue.defer(token(receiver.last), {})
    rig.passes(10)
    with pytest.raises(ServiceBusError, match=f"no deferred message {number}"):
        rig.queue.receive_deferred([number], peek_lock=True, session_id=None)


def test_dead_letters_do_not_expire() -> None:
    rig = Rig(dead_letter_on_expiration=True)
    rig.send("a", ttl=10)
    rig.passes(1_000_000)
    assert rig.queue.counts()["dead_lettered"] == 1


# --- schedule ----------------------------------------------------------------------------------------------------


def test_a_scheduled_message_gets_a_new_sequence_number_when_it_is_due() -> None:
    rig = Rig()
    receiver = rig.receiver()
    [scheduled] = rig.send("later", at=START + 30)
    rig.send("now")
    assert receiver.bodies == [b"now"]
    assert rig.queue.counts() == {"active": 1, "deferred": 0, "scheduled": 1, "dead_lettered": 0}
    rig.passes(30)
    assert receiver.bodies == [b"now", b"later"]
    assert receiver.last.sequence_number > scheduled
    assert receiver.last.enqueued_at == START + 30


def test_a_message_scheduled_for_the_past_is_active_at_once() -> None:
    rig = Rig()
    rig.send("a", at=START - 1)
    assert rig.receiver().bodies == [b"a"]


def test_the_time_to_live_of_a_scheduled_message_starts_when_it_is_due() -> None:
    rig = Rig()
    rig.send("a", at=START + 60, ttl=10)
    rig.passes(69)
    assert rig.queue.counts()["active"] == 1
    rig.passes(1)
    assert rig.queue.counts()["active"] == 0


def test_a_cancelled_message_is_never_delivered() -> None:
    rig = Rig()
    numbers = rig.send("a", "b", at=START + 60)
    rig.queue.cancel_scheduled(numbers[:1])
    rig.passes(60)
    assert rig.receiver().bodies == [b"b"]


def test_cancelling_a_message_that_is_not_scheduled_cancels_none() -> None:
    rig = Rig()
    [active] = rig.send("now")
    [scheduled] = rig.send("later", at=START + 60)
    for numbers in ([scheduled, active], [scheduled, 99]):
        with pytest.raises(ServiceBusError, match=f"no scheduled message {numbers[1]}") as refused:
            rig.queue.cancel_scheduled(numbers)
        assert refused.value.condition == MESSAGE_NOT_FOUND
    assert rig.queue.counts()["scheduled"] == 1


def test_an_activated_message_cannot_be_cancelled() -> None:
    rig = Rig()
    numbers = rig.send("a", at=START + 60)
    rig.passes(60)
    with pytest.raises(ServiceBusError, match="no scheduled message"):
        rig.queue.cancel_scheduled(numbers)


# --- peek --------------------------------------------------------------------------------------------------------


def test_peek_returns_messages_in_every_state_in_order_and_changes_nothing() -> None:
    rig = Rig()
    rig.send("deferred", "locked", "waiting")
    rig.send("scheduled", at=START + 60)
    receiver = rig.receiver(2)
    rig.queue.defer(token(receiver.received[0]), {})
    before = rig.queue.counts()
    found = rig.queue.peek(1, 100, None)
    assert [body(one) for one in found] == [b"deferred", b"locked", b"waiting", b"scheduled"]
    assert [one.state for one in found] == [
        MessageState.DEFERRED,
        MessageState.ACTIVE,
        MessageState.ACTIVE,
        MessageState.SCHEDULED,
    ]
    assert [one.delivery_count for one in found] == [1, 0, 0, 0]  # the deferral is counted, peeking is not
    assert rig.queue.counts() == before


def test_peek_starts_at_a_sequence_number_and_is_limited_by_a_count() -> None:
    rig = Rig()
    rig.send(*"abcde")
    assert [body(one) for one in rig.queue.peek(2, 3, None)] == [b"b", b"c", b"d"]
    assert rig.queue.peek(6, 3, None) == []


def test_peek_can_be_limited_to_one_session() -> None:
    rig = Rig(requires_session=True)
    rig.send("a", "b", session_id="one")
    rig.send("c", session_id="two")
    assert [body(one) for one in rig.queue.peek(1, 9, "two")] == [b"c"]
    assert len(rig.queue.peek(1, 9, None)) == 3


def test_peek_works_after_thousands_of_deleted_messages() -> None:
    rig = Rig()
    rig.send(*("x" for _ in range(5000)))
    receiver = rig.receiver(4999, peek_lock=False)
    assert len(receiver.received) == 4999
    assert [one.sequence_number for one in rig.queue.peek(1, 9, None)] == [5000]
