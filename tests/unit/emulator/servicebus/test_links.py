"""AMQP links of clients: attach, deliveries, credit and refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from servicebus_emulator.amqp import (
    Accepted,
    Rejected,
    Source,
    Symbol,
    Target,
    Timestamp,
)
from servicebus_emulator.amqp.performatives import Attach, Coordinator, Detach, Disposition, End, Flow
from servicebus_emulator.amqp.sections import (
    DATA,
    DELIVERY_ANNOTATIONS,
    HEADER,
    MESSAGE_ANNOTATIONS,
)
from servicebus_emulator.servicebus.entities.message_encoding import BATCH_FORMAT
from servicebus_emulator.servicebus.entities.queue_settings import QueueStatus
from tests.unit.emulator.servicebus.client import (
    EMPTY,
    counts,
    filled,
    namespace,
    session_filter,
)
from tests.unit.emulator.servicebus.rig import START, message, section

# --- attach ----------------------------------------------------------------------------------------------------------


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


# --- deliveries ------------------------------------------------------------------------------------------------------


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


# --- credit ----------------------------------------------------------------------------------------------------------


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


# --- refusals --------------------------------------------------------------------------------------------------------


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
    holding.receive("q", filters=session_filter("s"))
    waiting.receive("q", filters=session_filter(None))
    holding.heard(Attach)
    for client in (holding, waiting):
        client.endpoint.force_detach("q")
    for detach in (holding.only(Detach), waiting.only(Detach)):
        assert detach.error is not None
        assert (detach.closed, detach.error.condition) == (True, "amqp:link:detach-forced")


def test_the_end_of_an_amqp_session_releases_the_message_sessions_of_its_links() -> None:
    bus = namespace(requires_session=True)
    client = bus.client()
    client.receive("q", filters=session_filter("s"))
    client.say(End())
    other = bus.client()
    other.receive("q", filters=session_filter("s"))
    assert other.only(Attach).source is not None
