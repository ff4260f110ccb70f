"""The AMQP links of clients: attach, deliveries, settlement, sessions, drain, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from servicebus_emulator.amqp import (
    Accepted,
    Described,
    Error,
    Modified,
    Outcome,
    Received,
    Rejected,
    Released,
    Source,
    Symbol,
    Target,
    Timestamp,
    ULong,
)
from servicebus_emulator.amqp.performatives import Attach, Coordinator, Detach, Disposition, End, Flow
from servicebus_emulator.amqp.sections import (
    APPLICATION_PROPERTIES,
    DATA,
    DELIVERY_ANNOTATIONS,
    HEADER,
    MESSAGE_ANNOTATIONS,
)
from servicebus_emulator.servicebus.entities.message_encoding import BATCH_FORMAT
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings, QueueStatus
from tests.unit.emulator.servicebus.client import SESSION_FILTER, Namespace
from tests.unit.emulator.servicebus.rig import START, message, section

EMPTY = {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 0}


def namespace(**rules: object) -> Namespace:
    """A namespace with one queue `q` with these settings."""
    return Namespace(QueueSettings("q", **rules))  # type: ignore[arg-type]  # each test names settings


def filled(*texts: str, **rules: object) -> Namespace:
    """The queue `q` with messages in it."""
    bus = namespace(**rules)
    bus.broker.find("q").send([message(text) for text in texts])
    return bus


def counts(bus: Namespace) -> dict[str, int]:
    return bus.broker.find("q").counts()


def session(value: object) -> dict[str, object]:
    """Return a receiver's filter for a session."""
    return {SESSION_FILTER: value}


# --- attach ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["q", "Q", "/q", "amqps://127.0.0.1:5672/q"])
def test_addresses_are_echoed_as_the_client_wrote_them(address: str) -> None:
    client = namespace().client()
    client.receive(address)
    answer = client.only(Attach)
    assert answer.source == Source(address)
    assert (answer.role, answer.initial_delivery_count, answer.max_message_size) == (False, 0, 262_144)


@pytest.mark.parametrize(("most", "batch"), [(262_144, 262_144), (1_048_576, 1_048_576), (100_000_000, 1_048_576)])
def test_the_attach_reply_states_the_limits_of_messages_and_batches(most: int, batch: int) -> None:
    client = namespace(max_message_bytes=most).client()
    client.send_to(Target("q"))
    answer = client.only(Attach)
    assert (answer.source, answer.target, answer.max_message_size) == (Source("here"), Target("q"), most)
    assert answer.properties == {"com.microsoft:max-message-batch-size": batch}
    assert client.only(Flow).link_credit == 1000


def test_a_batch_above_the_batch_limit_is_rejected_although_a_message_of_its_size_is_accepted() -> None:
    bus = namespace(max_message_bytes=4_000_000)
    client = bus.client()
    client.send_to(Target("q"))
    large = section(DATA, b"x" * 1_100_000)
    client.transfer(0, 0, large)
    client.transfer(0, 1, section(DATA, large), message_format=BATCH_FORMAT)
    first, second = client.heard(Disposition)
    assert first.state == Accepted()
    assert isinstance(second.state, Rejected)
    assert second.state.error is not None
    assert second.state.error.condition == "amqp:link:message-size-exceeded"
    assert second.state.error.info == {}
    assert counts(bus) == EMPTY | {"active": 1}


# --- deliveries --------------------------------------------------------------------------------------------------


def test_a_peek_lock_delivery_has_the_services_sections() -> None:
    bus = namespace(lock_seconds=30.0)
    sent = message("body", message_id="m", ttl=60, partition_key="p")
    bus.broker.find("q").send([sent])
    client = bus.client()
    client.receive("q", credit=1)
    (got,) = client.deliveries()
    assert got.transfer.settled is False
    assert got.section(HEADER) == [None, None, 60_000, None, 0]
    assert got.section(DELIVERY_ANNOTATIONS) == {"x-opt-lock-token": got.token}
    assert got.section(MESSAGE_ANNOTATIONS) == {
        "x-opt-partition-key": "p",
        "x-opt-enqueued-time": Timestamp(int(START * 1000)),
        "x-opt-sequence-number": 1,
        "x-opt-locked-until": Timestamp(int((START + 30) * 1000)),
    }
    assert got.section(DATA) == b"body"


def test_a_receive_and_delete_delivery_is_settled_and_has_empty_delivery_annotations() -> None:
    client = filled("a").client()
    client.receive("q", credit=1, deletes=True)
    (got,) = client.deliveries()
    assert got.transfer.settled is True
    assert got.section(DELIVERY_ANNOTATIONS) == {}
    assert "x-opt-locked-until" not in str(got.section(MESSAGE_ANNOTATIONS))


def test_a_senders_delivery_annotations_are_passed_on_without_a_forged_lock_token() -> None:
    bus = namespace()
    client = bus.client()
    client.send_to(Target("q"))
    theirs = section(DELIVERY_ANNOTATIONS, {Symbol("x-mine"): 1, Symbol("x-opt-lock-token"): "forged"})
    client.transfer(0, 0, section(DATA, b"x") + theirs)
    client.receive("q", 1, credit=1)
    (got,) = client.deliveries()
    assert got.section(DELIVERY_ANNOTATIONS) == {"x-mine": 1, "x-opt-lock-token": got.token}


# --- settlement --------------------------------------------------------------------------------------------------


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


# --- sessions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["s", Described(ULong(0x137000000C), "s"), Described(Symbol("x"), "s"), ""])
def test_a_session_filter_may_be_bare_or_described(value: object) -> None:
    client = namespace(requires_session=True, lock_seconds=60.0).client()
    client.receive("amqps://host/q", filters=session(value))
    answer = client.only(Attach)
    assert answer.source is not None
    assert (answer.source.address, answer.source.filter) == ("amqps://host/q", {SESSION_FILTER: "s" if value else ""})
    assert answer.properties == {"com.microsoft:locked-until-utc": 621_355_968_000_000_000 + int(START + 60) * 10**7}


@pytest.mark.parametrize("wrong", [1, b"s", "s" * 129])
def test_a_session_id_must_be_a_string_of_limited_length(wrong: object) -> None:
    client = namespace(requires_session=True).client()
    client.receive("q", filters=session(wrong))
    assert client.refused().condition == "com.microsoft:argument-error"


def test_a_session_that_another_receiver_holds_is_refused_at_once() -> None:
    bus = namespace(requires_session=True)
    first, second = bus.client(), bus.client()
    first.receive("q", filters=session("s"))
    second.receive("q", filters=session("s"))
    assert second.refused().condition == "com.microsoft:session-cannot-be-locked"
    first.endpoint.close()
    second.receive("q", 1, filters=session("s"))
    assert second.only(Attach).source is not None


@pytest.mark.parametrize(("asked", "seconds"), [({"com.microsoft:timeout": 5_000}, 5), ({}, 60)])
def test_waiting_for_the_next_session_times_out_as_the_client_says(asked: dict[str, object], seconds: int) -> None:
    bus = namespace(requires_session=True)
    client = bus.client()
    client.receive("q", filters=session(None), properties=asked)
    bus.passes(seconds - 1)
    assert client.heard(Attach) == []
    bus.passes(1)
    assert client.refused().condition == "com.microsoft:timeout"


def test_the_next_session_is_granted_when_its_first_message_arrives() -> None:
    bus = namespace(requires_session=True)
    client = bus.client()
    client.receive("q", filters=session(None), credit=5)
    bus.broker.find("q").send([message("a", session_id="late")])
    source = client.only(Attach).source
    assert source is not None
    assert source.filter == {SESSION_FILTER: "late"}
    (got,) = client.deliveries()
    assert got.section(DATA) == b"a"


def test_a_link_that_is_closed_while_it_waits_gets_no_session_later() -> None:
    bus = namespace(requires_session=True)
    client, other = bus.client(), bus.client()
    client.receive("q", filters=session(None))
    client.say(Detach(0, closed=True))
    client.heard(Attach)
    bus.broker.find("q").send([message("a", session_id="s")])
    bus.passes(120)
    assert client.heard(Attach) == []
    other.receive("q", filters=session("s"))
    assert other.only(Attach).source is not None


def test_when_a_sessions_lock_ends_its_link_is_detached_and_its_message_locks_are_lost() -> None:
    bus = namespace(requires_session=True, lock_seconds=30.0)
    bus.broker.find("q").send([message("a", session_id="s")])
    client = bus.client()
    client.receive("q", filters=session("s"), credit=5)
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
    client.receive("plain", 0, filters=session("s"))
    assert client.refused().condition == "amqp:not-allowed"
    client.receive("sessions", 1)
    assert client.refused().condition == "amqp:not-allowed"
    client.receive("sessions/$DeadLetterQueue", 2, filters=session("s"))
    assert client.refused().condition == "amqp:not-allowed"
    client.receive("sessions/$DeadLetterQueue", 3)
    assert client.only(Attach).source is not None


# --- credit ------------------------------------------------------------------------------------------------------


def test_a_new_credit_replaces_the_remaining_one() -> None:
    client = filled(*"abcdefgh").client()
    client.receive("q")
    for _ in range(3):
        client.flow(0, 2)
    assert len(client.deliveries()) == 2
    client.flow(0, 3, count=2)
    client.flow(0, 3, count=2)
    assert len(client.deliveries()) == 3


def test_a_drain_delivers_the_available_messages_and_uses_up_the_credit() -> None:
    bus = filled("a", "b")
    client = bus.client()
    client.receive("q")
    client.flow(0, 10, drain=True)
    assert len(client.deliveries()) == 2
    answer = client.only(Flow)
    assert (answer.delivery_count, answer.link_credit, answer.drain) == (10, 0, True)
    bus.broker.find("q").send([message("c")])
    assert client.deliveries() == []
    client.flow(0, 1, count=10)
    assert len(client.deliveries()) == 1


def test_a_drain_without_credit_is_answered() -> None:
    client = filled("a").client()
    client.receive("q", credit=1)
    client.flow(0, 0, count=1, drain=True)
    answer = client.only(Flow)
    assert (answer.delivery_count, answer.link_credit, answer.drain) == (1, 0, True)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "properties", "reason"),
    [
        (Coordinator(("amqp:local-transactions",)), {}, "Transactions"),
        (Target("q"), {"com.microsoft:transfer-destination-address": "other"}, "via another entity"),
        (Target("t/Subscriptions/s"), {}, "Topics, subscriptions"),
    ],
)
def test_unsupported_features_are_refused_by_name(
    target: Target | Coordinator, properties: dict[str, object], reason: str
) -> None:
    client = namespace().client()
    client.send_to(target, properties=properties)
    error = client.refused()
    assert error.condition == "amqp:not-implemented"
    assert reason in str(error.description)


@pytest.mark.parametrize("address", ["t/Subscriptions/s", "amqps://host/t/subscriptions/s/$DeadLetterQueue"])
def test_subscriptions_and_their_management_nodes_are_refused_by_name(address: str) -> None:
    client = namespace().client()
    client.receive(address)
    assert client.refused().condition == "amqp:not-implemented"
    client.receive(f"{address}/$management", 1)
    assert client.refused().condition == "amqp:not-implemented"


@pytest.mark.parametrize("address", ["nobody", "", "nobody/$management", "nobody/$DeadLetterQueue"])
def test_a_link_to_a_missing_entity_is_refused_with_not_found(address: str) -> None:
    client = namespace().client()
    client.receive(address)
    assert client.refused().condition == "amqp:not-found"


@pytest.mark.parametrize("below", ["$DeadLetterQueue", "$Transfer/$DeadLetterQueue"])
def test_a_dead_letter_queue_can_be_received_from_and_not_sent_to(below: str) -> None:
    client = namespace().client()
    client.receive(f"q/{below}")
    assert client.only(Attach).source is not None
    client.send_to(Target(f"q/{below}"), 1)
    assert client.refused().condition == "amqp:not-allowed"


@pytest.mark.parametrize(
    ("status", "sends", "receives"),
    [
        (QueueStatus.DISABLED, False, False),
        (QueueStatus.SEND_DISABLED, False, True),
        (QueueStatus.RECEIVE_DISABLED, True, False),
    ],
)
def test_links_to_a_disabled_queue_are_refused_for_the_disabled_operation(
    status: QueueStatus, sends: bool, receives: bool
) -> None:
    bus = namespace()
    bus.broker.update(replace(bus.broker.find("q").settings, status=status))
    client = bus.client()
    for handle, allowed in ((0, sends), (1, receives)):
        if handle == 0:
            client.send_to(Target("q"), handle)
        else:
            client.receive("q", handle)
        if allowed:
            assert client.only(Attach).target is not None
        else:
            assert client.refused().condition == "com.microsoft:entity-disabled"


def test_forced_detaches_reach_the_links_of_all_clients_with_the_reason() -> None:
    bus = namespace(requires_session=True)
    holding, waiting = bus.client(), bus.client()
    holding.receive("q", filters=session("s"))
    waiting.receive("q", filters=session(None))
    holding.heard(Attach)
    for client in (holding, waiting):
        client.endpoint.force_detach("q")
    for detach in (holding.only(Detach), waiting.only(Detach)):
        assert detach.error is not None
        assert (detach.closed, detach.error.condition) == (True, "amqp:link:detach-forced")


def test_the_end_of_an_amqp_session_releases_the_message_sessions_of_its_links() -> None:
    bus = namespace(requires_session=True)
    client = bus.client()
    client.receive("q", filters=session("s"))
    client.say(End())
    other = bus.client()
    other.receive("q", filters=session("s"))
    assert other.only(Attach).source is not None
