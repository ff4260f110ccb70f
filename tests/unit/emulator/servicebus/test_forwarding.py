"""Forwarding, disabled and full queues, and the creation, update and deletion of queues."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from servicebus_emulator.servicebus.configuration.fields import ConfigError
from servicebus_emulator.servicebus.configuration.queues import parse_queues
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings, QueueStatus
from servicebus_emulator.servicebus.errors import ServiceBusError
from tests.unit.emulator.servicebus.rig import START, Clock, RecordingReceiver, body, message


def broker(*queues: QueueSettings, clock: Clock | None = None) -> Broker:
    return Broker(queues, clock=clock or Clock())


def bodies(queue: Queue) -> list[bytes]:
    return [body(one) for one in queue.peek(0, 100, None)]


def buried(queue: Queue, *texts: str) -> None:
    """Dead-letter messages with these bodies."""
    queue.send(message(text) for text in texts)
    receiver = RecordingReceiver()
    queue.subscribe(receiver)
    queue.unsubscribe(receiver)
    for one in receiver.received:
        assert one.lock_token is not None
        queue.dead_letter(one.lock_token, "bad", None, {})


def only(queue: Queue) -> BrokeredMessage:
    (one,) = queue.peek(0, 10, None)
    return one


def test_a_message_forwarded_through_a_chain_keeps_its_first_sequence_number() -> None:
    bus = broker(QueueSettings("a", forward_to="b"), QueueSettings("b", forward_to="C"), QueueSettings("c"))
    bus.find("c").send([message("already there")])
    bus.find("a").send([message("first"), message("second")])
    assert bodies(bus.find("a")) == bodies(bus.find("b")) == []
    assert bodies(bus.find("c")) == [b"already there", b"first", b"second"]
    assert [one.enqueue_sequence_number for one in bus.find("c").peek(2, 9, None)] == [1, 2]


def test_a_scheduled_message_is_forwarded_when_it_is_due() -> None:
    clock = Clock()
    bus = broker(QueueSettings("a", forward_to="b"), QueueSettings("b"), clock=clock)
    bus.find("a").send([message("later", at=START + 10)])
    assert (bodies(bus.find("a")), bodies(bus.find("b"))) == ([b"later"], [])
    clock.now += 11
    bus.find("a").tick()
    assert (bodies(bus.find("a")), bodies(bus.find("b"))) == ([], [b"later"])


def test_a_message_that_cannot_be_forwarded_moves_to_the_transfer_dead_letter_queue_with_the_reason() -> None:
    bus = broker(QueueSettings("a", forward_to="b"), QueueSettings("b", requires_session=True))
    bus.find("a").send([message("no session"), message("with one", session_id="s")])
    assert bodies(bus.find("b")) == [b"with one"]
    assert bodies(bus.find("a/$Transfer/$DeadLetterQueue")) == [b"no session"]
    assert b"requires sessions" in only(bus.find("a/$transfer/$deadletterqueue")).application_properties
    assert bodies(bus.find("a/$deadletterqueue")) == []


@pytest.mark.parametrize(("hops", "arrives"), [(4, True), (5, False)])
def test_a_message_is_forwarded_four_times_at_most(hops: int, *, arrives: bool) -> None:
    names = "abcdef"[: hops + 1]
    bus = broker(*(QueueSettings(one) for one in names))
    for one, to in itertools.pairwise(names):
        bus.update(QueueSettings(one, forward_to=to))
    bus.find("a").send([message("x")])
    assert bodies(bus.find(names[-1])) == ([b"x"] if arrives else [])
    stranded = bus.find(f"{names[-2]}/$transfer/$deadletterqueue")
    assert [b"MaxTransferHopCountExceeded" in one.application_properties for one in stranded.peek(0, 9, None)] == (
        [] if arrives else [True]
    )


def test_a_queue_may_forward_to_itself_and_its_messages_are_dead_lettered() -> None:
    bus = broker(QueueSettings("a"))
    bus.update(QueueSettings("a", forward_to="A"))
    bus.find("a").send([message("x"), message("y")])
    assert bodies(bus.find("a")) == []
    assert bodies(bus.find("a/$transfer/$deadletterqueue")) == [b"x", b"y"]


def test_a_queue_with_sessions_may_forward() -> None:
    bus = broker(QueueSettings("b"))
    bus.create(QueueSettings("a", requires_session=True, forward_to="b"))
    bus.find("a").send([message("x", session_id="s")])
    assert bodies(bus.find("b")) == [b"x"]


def test_dead_letters_forwarded_to_their_own_queue_return_four_times() -> None:
    bus = broker(QueueSettings("a"))
    bus.update(QueueSettings("a", forward_dead_letters_to="a"))
    queue, receiver = bus.find("a"), RecordingReceiver()
    queue.subscribe(receiver)
    queue.send([message("x")])
    for _ in range(5):
        assert receiver.last.lock_token is not None
        queue.dead_letter(receiver.last.lock_token, "bad", None, {})
    assert receiver.bodies == [b"x"] * 5
    assert bodies(bus.find("a/$deadletterqueue")) == [b"x"]


def test_forwarded_dead_letters_name_their_source() -> None:
    bus = broker(QueueSettings("a", forward_dead_letters_to="dead"), QueueSettings("dead"))
    buried(bus.find("a"), "x")
    assert only(bus.find("dead")).dead_letter_source == "a"
    assert b"bad" in only(bus.find("dead")).application_properties
    assert bus.find("a").counts()["dead_lettered"] == 0


def test_dead_letters_that_the_target_rejects_stay() -> None:
    bus = broker(
        QueueSettings("a", forward_dead_letters_to="dead"), QueueSettings("dead", status=QueueStatus.SEND_DISABLED)
    )
    buried(bus.find("a"), "x")
    assert bodies(bus.find("a/$deadletterqueue")) == [b"x"]


@pytest.mark.parametrize(
    ("status", "sends", "receives"),
    [
        (QueueStatus.ACTIVE, True, True),
        (QueueStatus.SEND_DISABLED, False, True),
        (QueueStatus.RECEIVE_DISABLED, True, False),
        (QueueStatus.DISABLED, False, False),
    ],
)
def test_a_queue_status_disables_sending_or_receiving(status: QueueStatus, *, sends: bool, receives: bool) -> None:
    bus = broker(QueueSettings("q"))
    queue = bus.find("q")
    queue.send([message("before")])
    bus.update(QueueSettings("q", status=status))
    receiver = RecordingReceiver()
    queue.subscribe(receiver)
    assert bool(receiver.received) is receives
    for allowed, attempt in ((sends, lambda: queue.send([message("x")])), (receives, queue.require_receivable)):
        if allowed:
            attempt()
        else:
            with pytest.raises(ServiceBusError) as refused:
                attempt()
            assert refused.value.condition == "com.microsoft:entity-disabled"
    bus.update(QueueSettings("q"))
    assert receiver.received


def test_a_queue_that_forwards_cannot_be_received_from() -> None:
    bus = broker(QueueSettings("a", forward_to="b"), QueueSettings("b"))
    with pytest.raises(ServiceBusError, match="forwards to 'b'"):
        bus.find("a").require_receivable()


def test_a_full_queue_rejects_messages_until_one_is_removed() -> None:
    queue = broker(QueueSettings("q", max_size_mb=1)).find("q")
    large = "x" * 250_000
    queue.send(message(large) for _ in range(4))
    with pytest.raises(ServiceBusError) as full:
        queue.send([message(large)])
    assert full.value.condition == "amqp:resource-limit-exceeded"
    receiver = RecordingReceiver(credit=1, peek_lock=False)
    queue.subscribe(receiver)
    queue.send([message(large)])
    assert queue.size_bytes() == sum(one.size for one in queue.peek(0, 9, None))


def test_entities_are_created_updated_and_deleted() -> None:
    bus = broker(QueueSettings("a"))
    broken: list[tuple[str, str]] = []
    bus.add_link_breaker(lambda entity, error: broken.append((entity, error.condition)))
    bus.create(QueueSettings("New", forward_to="a"))
    bus.find("new").send([message("x")])
    assert bodies(bus.find("a")) == [b"x"]
    for attempt, condition in (
        (lambda: bus.create(QueueSettings("NEW")), "com.microsoft:entity-already-exists"),
        (lambda: bus.create(QueueSettings("b", forward_to="absent")), "com.microsoft:argument-error"),
        (lambda: bus.update(QueueSettings("a", requires_session=True)), "com.microsoft:argument-error"),
        (lambda: bus.update(QueueSettings("absent")), "amqp:not-found"),
        (lambda: bus.delete("absent"), "amqp:not-found"),
        (lambda: bus.delete("a/$deadletterqueue"), "com.microsoft:argument-error"),
    ):
        with pytest.raises(ServiceBusError) as refused:
            attempt()
        assert refused.value.condition == condition
    bus.delete("a")
    assert ("a", "amqp:not-found") in broken
    assert ("a/$deadletterqueue", "amqp:not-found") in broken
    assert [queue.settings.name for queue in bus.entities()] == ["New"]
    bus.find("new").send([message("y")])
    assert bodies(bus.find("new/$transfer/$deadletterqueue")) == [b"y"]


async def test_an_idle_queue_is_deleted_and_a_queue_in_use_is_not() -> None:
    bus = Broker([QueueSettings("idle", auto_delete_seconds=0.05), QueueSettings("used", auto_delete_seconds=0.05)])
    bus.find("used").subscribe(RecordingReceiver())
    bus.update(QueueSettings("idle", auto_delete_seconds=0.05))
    async with asyncio.timeout(5):
        while [queue.settings.name for queue in bus.entities()] != ["used"]:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
    bus.close()


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"ForwardTo": "q"}, "forwards to itself"),
        ({"ForwardDeadLetteredMessagesTo": "absent"}, "which is no queue"),
        ({"ForwardTo": "one", "RequiresSession": True}, "requires sessions, so it cannot forward"),
        ({"Status": "Asleep"}, "Status: must be one of Active, Disabled, SendDisabled, ReceiveDisabled"),
        ({"MaxSizeInMegabytes": 0}, "MaxSizeInMegabytes: must be a whole number from 1 to 81920"),
        ({"UserMetadata": 5}, "UserMetadata: must be a text"),
    ],
)
def test_a_configuration_with_invalid_forwarding_is_rejected(properties: dict[str, object], reason: str) -> None:
    chain = [{"Name": name, "Properties": {"ForwardTo": to}} for name, to in (("one", "two"), ("two", ""))]
    queues = [{"Name": "q", "Properties": properties}, *chain]
    with pytest.raises(ConfigError) as error:
        parse_queues({"UserConfig": {"Namespaces": [{"Queues": queues}]}})
    assert reason in str(error.value)


def test_forwarding_circles_and_long_chains_are_rejected() -> None:
    names = "abcdef"
    chain = [{"Name": one, "Properties": {"ForwardTo": to}} for one, to in zip(names, names[1:] + "b", strict=True)]
    with pytest.raises(ConfigError, match="more than 4 queues, or in a circle"):
        parse_queues({"UserConfig": {"Namespaces": [{"Queues": chain}]}})
