"""The sequence numbers of dead letters: kept, as the service seems to do, or assigned anew."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.storage.sqlite import SqliteMessageStorage
from tests.unit.emulator.servicebus.rig import RecordingReceiver, Rig, body, message, token

ORDERS = QueueSettings("orders")
both = pytest.mark.parametrize("renumber", [False, True], ids=["kept", "renumbered"])


def dead_letter(rig: Rig, *order: int) -> list[BrokeredMessage]:
    """Dead-letter the messages with these numbers in this order, and return all dead letters as a peek does."""
    rig.receiver()
    by_number = {locked.sequence_number: locked for locked in rig.queue.locked_messages()}
    for number in order:
        rig.queue.dead_letter(token(by_number[number]), "a reason", None, {})
    return rig.dead.peek(1, 100, None)


@both
def test_a_dead_letter_keeps_its_number_unless_the_settings_say_otherwise(renumber: bool) -> None:
    rig = Rig(renumber_dead_letters=renumber)
    rig.send("a", "b", "c", "d")
    found = [(one.sequence_number, body(one)) for one in dead_letter(rig, 4, 2, 1)]
    assert found == ([(1, b"d"), (2, b"b"), (3, b"a")] if renumber else [(1, b"a"), (2, b"b"), (4, b"d")])


@both
def test_a_dead_letter_keeps_its_enqueued_time(renumber: bool) -> None:
    rig = Rig(renumber_dead_letters=renumber)
    rig.send("a")
    rig.clock.now += 10
    [dead] = dead_letter(rig, 1)
    assert dead.enqueued_at == rig.clock.now - 10


def test_a_dead_letter_whose_number_is_taken_gets_the_next_one() -> None:
    """The settings changed while the queue had dead letters."""
    rig = Rig(renumber_dead_letters=True)
    rig.send("a", "b")
    dead_letter(rig, 2)
    rig.queue.update(QueueSettings("q"))
    assert [(one.sequence_number, body(one)) for one in dead_letter(rig, 1)] == [(1, b"b"), (2, b"a")]


def test_a_peek_from_a_number_finds_the_dead_letters_behind_it_in_order() -> None:
    rig = Rig()
    rig.send(*"abcd")
    dead_letter(rig, 3, 1, 4, 2)
    assert [one.sequence_number for one in rig.dead.peek(2, 2, None)] == [2, 3]


def test_a_removed_number_that_comes_again_is_found_once() -> None:
    rig = Rig()
    rig.send("a")
    [dead] = dead_letter(rig, 1)
    receiver = RecordingReceiver()
    rig.dead.subscribe(receiver)
    rig.dead.complete(token(receiver.received[0]))
    rig.dead.add_dead_letter(dead)
    assert [one.sequence_number for one in rig.dead.peek(1, 9, None)] == [1]


def test_kept_numbers_survive_a_restart(tmp_path: Path) -> None:
    with closing(SqliteMessageStorage(tmp_path)) as store:
        broker = Broker([ORDERS], storage=store)
        orders = broker.find("orders")
        orders.send([message("a"), message("b")])
        receiver = RecordingReceiver()
        orders.subscribe(receiver)
        orders.dead_letter(token(receiver.received[1]), "a reason", None, {})
        store.flush()
    with closing(SqliteMessageStorage(tmp_path)) as store:
        broker = Broker([], storage=store)
        store.restore(broker, (ORDERS,))
        dead = broker.find("orders/$deadletterqueue")
        assert [one.sequence_number for one in dead.peek(1, 9, None)] == [2]
