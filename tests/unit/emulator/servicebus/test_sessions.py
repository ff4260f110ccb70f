"""Message sessions: order, locks, waiting receivers and state."""

from __future__ import annotations

import pytest

from servicebus_emulator.servicebus.errors import (
    MESSAGE_LOCK_LOST,
    MESSAGE_NOT_FOUND,
    SESSION_CANNOT_BE_LOCKED,
    SESSION_LOCK_LOST,
    ServiceBusError,
)
from tests.unit.emulator.servicebus.rig import START, RecordingReceiver, Rig, properties, token


@pytest.fixture
def rig() -> Rig:
    return Rig(requires_session=True, lock_seconds=30.0, max_delivery_count=3)


# --- accept and release ------------------------------------------------------------------------------------------


def test_a_session_delivers_its_own_messages_in_order(rig: Rig) -> None:
    rig.send("a", session_id="one")
    rig.send("x", session_id="two")
    rig.send("b", session_id="one")
    _, receiver = rig.session("one")
    rig.send("c", session_id="one")
    assert receiver.bodies == [b"a", b"b", b"c"]


def test_a_session_without_messages_can_be_accepted_and_receives_later_ones(rig: Rig) -> None:
    _, receiver = rig.session("one")
    rig.send("a", session_id="one")
    assert receiver.bodies == [b"a"]


def test_the_empty_text_is_a_valid_session_id(rig: Rig) -> None:
    rig.send("a", session_id="")
    _, receiver = rig.session("")
    assert receiver.bodies == [b"a"]


def test_a_locked_session_cannot_be_accepted(rig: Rig) -> None:
    rig.session("one")
    rig.session("two")
    with pytest.raises(ServiceBusError, match="session 'one' is locked by another receiver") as refused:
        rig.session("one")
    assert refused.value.condition == SESSION_CANNOT_BE_LOCKED


def test_an_abandoned_message_is_delivered_again_before_the_next_one(rig: Rig) -> None:
    rig.send("a", "b", session_id="one")
    _, receiver = rig.session("one", credit=1)
    rig.queue.abandon(token(receiver.last), {})
    receiver.credit = 2
    rig.queue.credit_granted(rig.queue.sessions.accept("two"))  # credit of another session delivers nothing here
    assert receiver.bodies == [b"a"]
    rig.send("c", session_id="one")
    assert receiver.bodies == [b"a", b"a", b"b"]


def test_closing_a_session_unlocks_its_messages_without_counting_a_delivery(rig: Rig) -> None:
    rig.send("a", "b", session_id="one")
    for _ in range(10):
        session, receiver = rig.session("one")
        assert receiver.bodies == [b"a", b"b"]
        assert [one.delivery_count for one in receiver.received] == [0, 0]
        rig.queue.sessions.release(session)


def test_a_second_release_does_not_release_the_new_holders_session(rig: Rig) -> None:
    session, _ = rig.session("one")
    rig.queue.sessions.release(session)
    rig.session("one")
    rig.queue.sessions.release(session)
    with pytest.raises(ServiceBusError, match="locked by another"):
        rig.session("one")


def test_a_completed_message_is_not_delivered_again(rig: Rig) -> None:
    rig.send("a", "b", session_id="one")
    session, receiver = rig.session("one")
    rig.queue.complete(token(receiver.received[0]))
    rig.queue.sessions.release(session)
    assert rig.session("one")[1].bodies == [b"b"]


# --- the session's lock ------------------------------------------------------------------------------------------


def test_when_a_sessions_lock_ends_its_receiver_is_notified_and_a_delivery_is_counted(rig: Rig) -> None:
    rig.send("a", session_id="one")
    session, receiver = rig.session("one")
    assert session.locked_until == receiver.last.locked_until == START + 30
    rig.passes(30)
    assert receiver.lost_session
    assert not rig.session("one")[1].lost_session
    assert receiver.last.delivery_count == 1


def test_repeatedly_expired_session_locks_dead_letter_the_message(rig: Rig) -> None:
    rig.send("a", session_id="one")
    for _ in range(3):
        rig.session("one")
        rig.passes(30)
    [dead] = rig.dead.peek(1, 9, None)
    assert properties(dead)["DeadLetterReason"] == "MaxDeliveryCountExceeded"


def test_an_expired_lock_is_lost_even_before_its_timer_runs(rig: Rig) -> None:
    rig.send("a", session_id="one")
    _, receiver = rig.session("one")
    rig.passes(30, unnoticed=True)
    with pytest.raises(ServiceBusError) as lost:
        rig.queue.complete(token(receiver.last))
    assert lost.value.condition == MESSAGE_LOCK_LOST
    for act in (
        lambda: rig.queue.sessions.renew("one"),
        lambda: rig.queue.sessions.get_state("one"),
        lambda: rig.queue.sessions.set_state("one", b"x"),
    ):
        with pytest.raises(ServiceBusError) as refused:
            act()
        assert refused.value.condition == SESSION_LOCK_LOST


def test_accepting_a_session_with_an_expired_lock_releases_the_old_holder_first(rig: Rig) -> None:
    rig.send("a", session_id="one")
    _, old = rig.session("one")
    old_lock = token(old.last)
    rig.passes(30, unnoticed=True)
    _, new = rig.session("one")
    assert (old.lost_session, new.bodies) == (True, [b"a"])
    with pytest.raises(ServiceBusError):
        rig.queue.complete(old_lock)
    rig.passes(29)
    rig.queue.complete(token(new.last))


def test_renewing_a_session_renews_the_locks_of_its_messages(rig: Rig) -> None:
    rig.send("a", session_id="one")
    _, receiver = rig.session("one")
    rig.passes(20)
    assert rig.queue.sessions.renew("one") == START + 50
    assert rig.queue.renew(token(receiver.last)) == START + 50
    rig.passes(29)
    rig.queue.complete(token(receiver.last))


def test_a_session_that_is_not_locked_cannot_be_renewed(rig: Rig) -> None:
    for name in ("one", None):
        with pytest.raises(ServiceBusError, match="accept the session again") as refused:
            rig.queue.sessions.renew(name)
        assert refused.value.condition == SESSION_LOCK_LOST


# --- the next session --------------------------------------------------------------------------------------------


def test_the_next_session_is_a_free_one_with_messages(rig: Rig) -> None:
    rig.send("a", session_id="one")
    rig.send("b", session_id="two")
    rig.session("one", credit=0)
    first, second = rig.next_session(), rig.next_session()
    assert first.receiver.bodies == [b"b"]
    assert second.session is None


def test_waiting_receivers_get_sessions_in_the_order_in_which_they_came(rig: Rig) -> None:
    first, second = rig.next_session(), rig.next_session()
    rig.passes(20)
    rig.send("a", session_id="one")
    rig.send("b", session_id="two")
    assert (first.receiver.bodies, second.receiver.bodies) == ([b"a"], [b"b"])
    assert first.session is not None
    assert first.session.locked_until == START + 50


def test_a_waiting_receiver_gets_a_session_that_another_releases(rig: Rig) -> None:
    rig.send("a", session_id="one")
    session, _ = rig.session("one")
    waiting = rig.next_session()
    rig.queue.sessions.release(session)
    assert waiting.receiver.bodies == [b"a"]


def test_a_waiting_receiver_gets_a_session_whose_lock_ends(rig: Rig) -> None:
    rig.send("a", session_id="one")
    rig.session("one")
    waiting = rig.next_session()
    rig.passes(30)
    assert waiting.receiver.bodies == [b"a"]


def test_a_wait_without_a_session_times_out(rig: Rig) -> None:
    waiting = rig.next_session(wait=10)
    rig.passes(20)
    assert waiting.gave_up_at == START + 10
    rig.send("a", session_id="one")
    assert waiting.session is None


def test_a_cancelled_wait_gets_no_session(rig: Rig) -> None:
    gone, waiting = rig.next_session(), rig.next_session()
    rig.queue.sessions.cancel_accept(gone)
    rig.queue.sessions.cancel_accept(gone)
    rig.send("a", session_id="one")
    assert gone.session is None
    assert waiting.receiver.bodies == [b"a"]


def test_a_session_with_only_expired_deferred_or_scheduled_messages_is_not_granted(rig: Rig) -> None:
    rig.send("expired", session_id="one", ttl=5)
    rig.passes(5, unnoticed=True)
    rig.send("later", session_id="two", at=START + 1000)
    rig.send("deferred", session_id="three")
    session, receiver = rig.session("three")
    rig.queue.defer(token(receiver.last), {})
    rig.queue.sessions.release(session)
    assert rig.next_session().session is None


# --- deferred messages, state, listing ---------------------------------------------------------------------------


def test_a_deferred_message_is_received_through_its_own_session_only(rig: Rig) -> None:
    [number] = rig.send("a", session_id="one")
    _, receiver = rig.session("one")
    rig.queue.defer(token(receiver.last), {})
    rig.session("two")
    with pytest.raises(ServiceBusError, match="not of session 'two'") as refused:
        rig.queue.receive_deferred([number], peek_lock=True, session_id="two")
    assert refused.value.condition == MESSAGE_NOT_FOUND
    with pytest.raises(ServiceBusError) as refused:
        rig.queue.receive_deferred([number], peek_lock=True, session_id=None)
    assert refused.value.condition == SESSION_LOCK_LOST
    [found] = rig.queue.receive_deferred([number], peek_lock=True, session_id="one")
    assert found.locked_until == START + 30
    rig.queue.complete(token(found))


def test_session_state_outlives_receivers_and_messages_until_it_is_cleared(rig: Rig) -> None:
    session, _ = rig.session("one")
    assert rig.queue.sessions.get_state("one") is None
    rig.queue.sessions.set_state("one", b"state")
    rig.queue.sessions.release(session)
    session, _ = rig.session("one")
    assert rig.queue.sessions.get_state("one") == b"state"
    rig.queue.sessions.set_state("one", None)
    rig.queue.sessions.release(session)
    rig.session("one")
    assert rig.queue.sessions.get_state("one") is None


def test_sessions_with_active_messages_or_state_are_listed_by_page(rig: Rig) -> None:
    for name in ("d", "b", "c"):
        rig.send("x", session_id=name)
    rig.send("later", session_id="scheduled", at=START + 9)
    rig.session("held without anything")
    rig.session("a")
    rig.queue.sessions.set_state("a", b"")
    assert rig.queue.session_ids(0, 100) == ["a", "b", "c", "d"]
    assert rig.queue.session_ids(1, 2) == ["b", "c"]
    assert rig.queue.session_ids(4, 2) == []


def test_sessions_are_listed_by_the_time_their_state_was_set(rig: Rig) -> None:
    for name in ("early", "late"):
        rig.session(name)
        rig.queue.sessions.set_state(name, b"state")
        rig.passes(10)
    rig.send("x", session_id="without state")
    assert rig.queue.session_ids(0, 9, state_after=START) == ["late"]
    assert rig.queue.session_ids(0, 9, state_after=START - 1) == ["early", "late"]


def test_the_dead_letter_queue_of_a_queue_with_sessions_has_no_sessions(rig: Rig) -> None:
    rig.send("a", session_id="one")
    _, receiver = rig.session("one")
    rig.queue.dead_letter(token(receiver.last), "why", None, {})
    below = RecordingReceiver()
    rig.dead.subscribe(below)
    assert below.bodies == [b"a"]
    assert below.last.session_id == "one"
    rig.dead.complete(token(below.last))
