"""Links that receive from message sessions."""

from __future__ import annotations

import pytest

from servicebus_emulator.amqp import (
    Described,
    Rejected,
    Symbol,
    ULong,
)
from servicebus_emulator.amqp.performatives import Attach, Detach
from servicebus_emulator.amqp.sections import (
    DATA,
)
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from tests.unit.emulator.servicebus.client import (
    SESSION_FILTER,
    Namespace,
    namespace,
    session_filter,
)
from tests.unit.emulator.servicebus.rig import START, message


@pytest.mark.parametrize("value", ["s", Described(ULong(0x137000000C), "s"), Described(Symbol("x"), "s"), ""])
def test_a_session_filter_may_be_bare_or_described(value: object) -> None:
    client = namespace(requires_session=True, lock_seconds=60.0).client()
    client.receive("amqps://host/q", filters=session_filter(value))
    answer = client.only(Attach)
    assert answer.source is not None
    assert (answer.source.address, answer.source.filter) == ("amqps://host/q", {SESSION_FILTER: "s" if value else ""})
    assert answer.properties == {"com.microsoft:locked-until-utc": 621_355_968_000_000_000 + int(START + 60) * 10**7}


@pytest.mark.parametrize("wrong", [1, b"s", "s" * 129])
def test_a_session_id_must_be_a_string_of_limited_length(wrong: object) -> None:
    client = namespace(requires_session=True).client()
    client.receive("q", filters=session_filter(wrong))
    assert client.refused().condition == "com.microsoft:argument-error"


def test_a_session_that_another_receiver_holds_is_refused_at_once() -> None:
    bus = namespace(requires_session=True)
    first, second = bus.client(), bus.client()
    first.receive("q", filters=session_filter("s"))
    second.receive("q", filters=session_filter("s"))
    assert second.refused().condition == "com.microsoft:session-cannot-be-locked"
    first.endpoint.close()
    second.receive("q", 1, filters=session_filter("s"))
    assert second.only(Attach).source is not None


@pytest.mark.parametrize(("asked", "seconds"), [({"com.microsoft:timeout": 5_000}, 5), ({}, 60)])
def test_waiting_for_the_next_session_times_out_as_the_client_says(asked: dict[str, object], seconds: int) -> None:
    bus = namespace(requires_session=True)
    client = bus.client()
    client.receive("q", filters=session_filter(None), properties=asked)
    bus.passes(seconds - 1)
    assert client.heard(Attach) == []
    bus.passes(1)
    assert client.refused().condition == "com.microsoft:timeout"


def test_the_next_session_is_granted_when_its_first_message_arrives() -> None:
    bus = namespace(requires_session=True)
    client = bus.client()
    client.receive("q", filters=session_filter(None), credit=5)
    bus.broker.find("q").send([message("a", session_id="late")])
    source = client.only(Attach).source
    assert source is not None
    assert source.filter == {SESSION_FILTER: "late"}
    (got,) = client.deliveries()
    assert got.section(DATA) == b"a"


def test_a_link_that_is_closed_while_it_waits_gets_no_session_later() -> None:
    bus = namespace(requires_session=True)
    client, other = bus.client(), bus.client()
    client.receive("q", filters=session_filter(None))
    client.say(Detach(0, closed=True))
    client.heard(Attach)
    bus.broker.find("q").send([message("a", session_id="s")])
    bus.passes(120)
    assert client.heard(Attach) == []
    other.receive("q", filters=session_filter("s"))
    assert other.only(Attach).source is not None


def test_when_a_sessions_lock_ends_its_link_is_detached_and_its_message_locks_are_lost() -> None:
    bus = namespace(requires_session=True, lock_seconds=30.0)
    bus.broker.find("q").send([message("a", session_id="s")])
    client = bus.client()
    client.receive("q", filters=session_filter("s"), credit=5)
    bus.clock.now += 30
    client.settle(0)
    ((_, _, state),) = client.settled()
    assert isinstance(state, Rejected)
    assert state.error is not None
    assert state.error.condition == "com.microsoft:session-lock-lost"
    bus.passes(0)
    detach = client.only(Detach)
    assert detach.error is not None
    assert (detach.closed, detach.error.condition) == (True, "com.microsoft:session-lock-lost")


def test_a_session_filter_is_required_exactly_for_queues_with_sessions() -> None:
    bus = Namespace(QueueSettings("plain"), QueueSettings("sessions", requires_session=True))
    client = bus.client()
    client.receive("plain", 0, filters=session_filter("s"))
    assert client.refused().condition == "amqp:not-allowed"
    client.receive("sessions", 1)
    assert client.refused().condition == "amqp:not-allowed"
    client.receive("sessions/$DeadLetterQueue", 2, filters=session_filter("s"))
    assert client.refused().condition == "amqp:not-allowed"
    client.receive("sessions/$DeadLetterQueue", 3)
    assert client.only(Attach).source is not None
