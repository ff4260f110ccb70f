"""Settlement by dispositions on a receiver's link."""

from __future__ import annotations

import pytest

from servicebus_emulator.amqp import (
    Accepted,
    Error,
    Modified,
    Outcome,
    Received,
    Rejected,
    Released,
    Symbol,
)
from servicebus_emulator.amqp.performatives import Detach, Disposition
from servicebus_emulator.amqp.sections import (
    APPLICATION_PROPERTIES,
    HEADER,
)
from tests.unit.emulator.servicebus.client import (
    EMPTY,
    counts,
    filled,
    namespace,
)
from tests.unit.emulator.servicebus.rig import message


@pytest.mark.parametrize(
    ("state", "answer", "left"),
    [
        (Accepted(), Accepted(), {}),
        (Released(), Released(), {"active": 1}),
        (Modified(), Modified(delivery_failed=True), {"active": 1}),
        (Modified(delivery_failed=True), Modified(delivery_failed=True), {"active": 1}),
        (Modified(undeliverable_here=True), Modified(delivery_failed=True, undeliverable_here=True), {"deferred": 1}),
        (Rejected(), Rejected(), {"dead_lettered": 1}),
        (Rejected(Error("com.microsoft:dead-letter", "x", {})), Rejected(), {"dead_lettered": 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_outcome_is_carried_out_and_echoed_without_an_error(
    state: Outcome, answer: Outcome, left: dict[str, int]
) -> None:
    bus = filled("a")
    client = bus.client()
    client.receive("q", credit=1)
    (got,) = client.deliveries()
    client.settle(got.id, state)
    assert client.settled() == [(got.id, got.id, answer)]
    assert counts(bus) == EMPTY | left


def test_a_range_of_deliveries_is_settled_and_answered_with_one_disposition() -> None:
    bus = filled(*"abcde")
    client = bus.client()
    client.receive("q", credit=5)
    assert [one.id for one in client.deliveries()] == [0, 1, 2, 3, 4]
    client.settle(2, Accepted())
    client.heard(Disposition)
    client.settle(0, Accepted(), last=3)
    assert client.settled() == [(0, 1, Accepted()), (3, 3, Accepted())]
    client.settle(0, Accepted(), last=2**31 - 2)
    assert client.settled() == [(4, 4, Accepted())]
    client.settle(4, Accepted(), last=0)
    assert client.settled() == []
    assert counts(bus) == EMPTY


def test_a_range_of_delivery_ids_may_wrap_around() -> None:
    bus = filled(*"abcd")
    client = bus.client()
    # Sending four billion messages instead would take too long.
    client.peer.connection.sessions[0]._next_delivery_id = 2**32 - 2
    client.receive("q", credit=4)
    assert [one.id for one in client.deliveries()] == [2**32 - 2, 2**32 - 1, 0, 1]
    client.settle(2**32 - 1, Accepted(), last=0)
    assert client.settled() == [(2**32 - 1, 0, Accepted())]
    client.settle(2**32 - 2, Accepted(), last=100)
    assert client.settled() == [(2**32 - 2, 2**32 - 2, Accepted()), (1, 1, Accepted())]
    assert counts(bus) == EMPTY


def test_a_settled_disposition_is_carried_out_without_an_answer() -> None:
    bus = filled("a")
    client = bus.client()
    client.receive("q", credit=1)
    client.settle(client.deliveries()[0].id, Accepted(), settled=True)
    assert client.heard(Disposition) == []
    assert counts(bus) == EMPTY


def test_a_settled_disposition_without_a_state_means_the_default_outcome() -> None:
    bus = filled("a", "b")
    client = bus.client()
    client.receive("q", credit=1, default_outcome=Accepted())
    client.receive("q", 1, credit=1)
    client.settle(0, last=1, settled=True)
    assert counts(bus) == EMPTY | {"active": 1}
    client.settle(1, Accepted())
    assert client.heard(Disposition) == []


def test_a_state_that_is_no_outcome_changes_nothing() -> None:
    bus = filled("a")
    client = bus.client()
    client.receive("q", credit=1)
    client.settle(0, Received(0, 0))
    assert client.heard(Disposition) == []
    client.settle(0, Accepted())
    assert client.settled() == [(0, 0, Accepted())]


@pytest.mark.parametrize("key", [Symbol("mark"), "mark"])
@pytest.mark.parametrize("deferred", [False, True])
def test_properties_to_modify_may_have_symbols_or_strings_as_keys(key: str, deferred: bool) -> None:
    bus = filled("a")
    client = bus.client()
    client.receive("q", credit=1)
    client.settle(0, Modified(False, deferred, {key: "new"}))
    (peeked,) = bus.broker.find("q").peek(1, 9, None)
    assert b"mark" in peeked.application_properties
    assert b"new" in peeked.application_properties


def test_a_dead_letter_has_the_reason_the_description_and_the_modified_properties() -> None:
    client = filled("a").client()
    client.receive("q", credit=1)
    info = {"DeadLetterReason": "bad", "DeadLetterErrorDescription": "very", "mark": 1}
    client.settle(0, Rejected(Error("com.microsoft:dead-letter", None, info)))
    client.receive("q/$DeadLetterQueue", 1, credit=1)
    assert client.deliveries()[-1].section(APPLICATION_PROPERTIES) == info


def test_a_lost_lock_is_reported_with_all_three_fields_of_an_error() -> None:
    bus = filled("a", lock_seconds=30.0)
    client = bus.client()
    client.receive("q", credit=1)
    bus.clock.now += 30
    client.settle(0)
    ((_, _, state),) = client.settled()
    assert isinstance(state, Rejected)
    assert state.error is not None
    assert (state.error.condition, state.error.info) == ("com.microsoft:message-lock-lost", {})
    assert state.error.description


def test_old_deliveries_settled_by_requests_are_forgotten_and_locked_ones_are_not() -> None:
    bus = namespace()
    client, queue = bus.client(), bus.broker.find("q")
    client.receive("q")
    held = None
    for number in range(0, 5000, 500):
        queue.send(message("x") for _ in range(500))
        client.flow(0, 500, count=number)
        came = client.deliveries()
        held = held or came[0]
        for delivery in came:
            if delivery is not held:
                queue.complete(delivery.token)
    assert held is not None
    client.settle(0, last=4999)
    dispositions = client.settled()
    assert dispositions[0] == (0, 0, Accepted())
    assert sum((last or first) - first + 1 for first, last, _ in dispositions) <= 2000
    _, last, state = dispositions[-1]
    assert last == 4999
    assert isinstance(state, Rejected)


def test_closing_a_link_settles_nothing() -> None:
    bus = filled("a", lock_seconds=30.0)
    client, other = bus.client(), bus.client()
    client.receive("q", credit=1)
    client.say(Detach(0, closed=True))
    other.receive("q", credit=1)
    assert other.deliveries() == []
    bus.passes(30)
    (again,) = other.deliveries()
    assert again.section(HEADER) == [None, None, None, None, 1]
