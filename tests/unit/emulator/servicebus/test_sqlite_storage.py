"""The SQLite storage restores queues after a restart."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from servicebus_emulator.amqp import decode, encode
from servicebus_emulator.servicebus.access.policies import Policy, Right
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message import MessageState
from servicebus_emulator.servicebus.entities.message_encoding import encode_delivery
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings, QueueStatus
from servicebus_emulator.servicebus.entities.storage import DataFolderError
from servicebus_emulator.servicebus.storage.sqlite import FILE, SqliteMessageStorage
from tests.unit.emulator.servicebus.rig import Clock, RecordingReceiver, body, message

Q = QueueSettings(name="Orders", requires_duplicate_detection=True, max_delivery_count=3)
S = QueueSettings(name="replies", requires_session=True)


@contextmanager
def broker(folder: Path, *configured: QueueSettings, clock: Clock | None = None) -> Iterator[Broker]:
    """One run of the emulator. It ends without a flush, so recorded changes may be lost."""
    with closing(SqliteMessageStorage(folder)) as store:
        one = Broker((), clock=clock or Clock(), storage=store)
        store.restore(one, configured)
        yield one


def received(queue: Queue, *, peek_lock: bool = True) -> RecordingReceiver:
    receiver = RecordingReceiver(peek_lock=peek_lock)
    queue.subscribe(receiver)
    queue.unsubscribe(receiver)
    return receiver


def test_messages_are_restored_byte_for_byte_and_in_order(tmp_path: Path) -> None:
    with broker(tmp_path, Q) as before:
        before.find("orders").send(message(text, message_id=text, ttl=60, partition_key="p") for text in "abc")
        sent = [encode_delivery(one, lock_token=None) for one in before.find("orders").peek(0, 9, None)]
    with broker(tmp_path, Q) as after:
        kept = [encode_delivery(one, lock_token=None) for one in after.find("orders").peek(0, 9, None)]
        assert kept == sent
        assert received(after.find("orders")).bodies == [b"a", b"b", b"c"]


def test_a_message_from_an_older_emulator_with_fewer_fields_is_restored(tmp_path: Path) -> None:
    forwarding = QueueSettings("a", forward_to="b"), QueueSettings("b")
    with broker(tmp_path, *forwarding) as before:
        before.find("a").send([message("x")])
    with broker(tmp_path, *forwarding) as after:
        assert [one.hops for one in after.find("b").peek(0, 9, None)] == [1]
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        (content,) = database.execute("SELECT content FROM message WHERE queue = 'b'").fetchone()
        known, _ = decode(content)
        assert isinstance(known, list)
        database.execute("UPDATE message SET content = ? WHERE queue = 'b'", (encode(known[:-1]),))
        database.commit()
    with broker(tmp_path, *forwarding) as older:
        assert [(body(one), one.hops) for one in older.find("b").peek(0, 9, None)] == [(b"x", 0)]


def test_settled_messages_are_gone_and_the_others_are_restored(tmp_path: Path) -> None:
    with broker(tmp_path, Q) as before:
        queue = before.find("orders")
        queue.send(message(text) for text in ("completed", "abandoned", "deferred", "dead", "locked"))
        tokens = {body(one): one.lock_token for one in received(queue).received}
        assert all(tokens.values())
        queue.complete(tokens[b"completed"])  # type: ignore[arg-type]  # just asserted
        queue.abandon(tokens[b"abandoned"], {"why": "later"})  # type: ignore[arg-type]
        queue.defer(tokens[b"deferred"], {})  # type: ignore[arg-type]
        queue.dead_letter(tokens[b"dead"], "bad", "very", {})  # type: ignore[arg-type]
    with broker(tmp_path, Q) as after:
        queue = after.find("orders")
        assert queue.counts() == {"active": 2, "deferred": 1, "scheduled": 0, "dead_lettered": 1}
        there = {body(one): one for one in queue.peek(0, 9, None)}
        assert there[b"abandoned"].delivery_count == 1
        assert there[b"deferred"].state is MessageState.DEFERRED
        assert b"later" in there[b"abandoned"].application_properties
        assert received(after.find("orders/$deadletterqueue")).bodies == [b"dead"]
        assert sorted(received(queue).bodies) == [b"abandoned", b"locked"]


def test_schedules_expiries_duplicate_keys_and_sequence_numbers_are_restored(tmp_path: Path) -> None:
    clock = Clock()
    with broker(tmp_path, replace(Q, dead_letter_on_expiration=True), clock=clock) as before:
        queue = before.find("orders")
        queue.send([message("later", message_id="later", at=clock.now + 50), message("short", ttl=20)])
        queue.send([message("once", message_id="once")])
        assert received(queue, peek_lock=False).bodies == [b"short", b"once"]
        queue.send([message("short", ttl=20)])
    clock.now += 30
    with broker(tmp_path, replace(Q, dead_letter_on_expiration=True), clock=clock) as after:
        queue = after.find("orders")
        queue.tick()
        assert queue.counts()["dead_lettered"] == 1
        assert queue.send([message("again", message_id="once")]) == [0]
        clock.now += 30
        queue.tick()
        assert received(queue).bodies == [b"later"]
        assert queue.send([message("new")])[0] > 4


def test_session_state_is_restored(tmp_path: Path) -> None:
    with broker(tmp_path, S) as before:
        queue = before.find("replies")
        for name, state in (("one", b"1"), ("two", b"2")):
            queue.sessions.accept(name)
            queue.sessions.set_state(name, state)
        queue.sessions.set_state("two", None)
        queue.send([message("x", session_id="three")])
    with broker(tmp_path, S) as after:
        queue = after.find("replies")
        assert queue.session_ids(0, 9) == ["one", "three"]
        queue.sessions.accept("one")
        assert queue.sessions.get_state("one") == b"1"


def test_created_queues_are_restored_and_configured_settings_replace_stored_ones(tmp_path: Path) -> None:
    with broker(tmp_path, Q) as before:
        before.create(QueueSettings(name="made", status=QueueStatus.SEND_DISABLED, forward_dead_letters_to="orders"))
        before.create(QueueSettings(name="gone"))
        before.find("gone").send([message("x")])
        before.delete("gone")
        before.update(replace(Q, max_delivery_count=5))
    with broker(tmp_path, replace(Q, max_delivery_count=7)) as after:
        assert [queue.settings.name for queue in after.entities()] == ["made", "Orders"]
        assert after.find("made").settings.status is QueueStatus.SEND_DISABLED
        assert after.find("orders").settings.max_delivery_count == 7
        assert after.create(QueueSettings(name="gone")).message_count() == 0


def test_policies_are_restored_and_a_queue_stored_without_them_is_read(tmp_path: Path) -> None:
    policy = Policy("portal", Right.SEND | Right.LISTEN, ("k1", "k2"), "made")
    with broker(tmp_path) as before:
        before.create(QueueSettings("Made", policies=(policy,)))
    with broker(tmp_path) as after:
        assert list(after.policies()) == [policy]
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("UPDATE entity SET rules = json_remove(rules, '$.policies')")
        database.commit()
    with broker(tmp_path) as older:
        assert list(older.policies()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no file modes")
def test_only_the_user_can_read_the_files_also_those_of_an_earlier_emulator(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with broker(folder, Q) as running:
        running.find("orders").send([message("secret", message_id="1")])
        running.storage.flush()
        assert folder.stat().st_mode & 0o777 == 0o700
        copies = {file.name: file.read_bytes() for file in folder.iterdir()}  # as a crash leaves them
    assert set(copies) == {FILE, f"{FILE}-wal"}  # in exclusive mode SQLite needs no `-shm`
    for name, content in {**copies, f"{FILE}-shm": b""}.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o644)
    with broker(folder, Q) as running:
        assert [one.message_id for one in running.find("orders").peek(0, 9, None)] == ["1"]
        assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


def test_an_unusable_data_folder_is_rejected_with_the_reason(tmp_path: Path) -> None:
    with broker(tmp_path, Q), pytest.raises(DataFolderError, match="another emulator"):
        SqliteMessageStorage(tmp_path)
    with (
        pytest.raises(DataFolderError, match="'Orders' is stored with requires_session = False"),
        broker(tmp_path, replace(Q, requires_session=True)),
    ):
        pass
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(DataFolderError, match="not a database"):
        SqliteMessageStorage(tmp_path)
