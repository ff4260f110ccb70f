"""An emulator with `--data` on a full disk: it accepts nothing that it cannot save, and recovers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusError

from servicebus_emulator import config
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from servicebus_emulator.servicebus.storage.sqlite import SqliteMessageStorage
from tests.support.system import until

QUEUE = "flow-requests"
ANYWHERE = Endpoints("127.0.0.1", 0, 0)


def fill_disk(emulator: Emulator) -> None:
    """Stop the database from growing."""
    _limit_pages(emulator, 1)  # SQLite raises a lower limit to the present number of pages


def free_disk(emulator: Emulator) -> None:
    _limit_pages(emulator, 1_000_000)


def _limit_pages(emulator: Emulator, maximum: int) -> None:
    store = emulator.broker.storage
    assert isinstance(store, SqliteMessageStorage)
    store._database.execute(f"PRAGMA max_page_count = {maximum}")


async def test_a_send_that_cannot_be_saved_is_not_accepted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    accepted = []
    async with running_emulator(config.load(None), ANYWHERE, data=tmp_path) as emulator:
        client = ServiceBusClient.from_connection_string(emulator.connection_string, retry_total=0)
        async with client, client.get_queue_sender(QUEUE) as sender:
            for name, act in (("before", None), ("full", fill_disk), ("after", free_disk)):
                if act is not None:
                    act(emulator)
                with contextlib.suppress(ServiceBusError):
                    await sender.send_messages(ServiceBusMessage(b"x" * 100_000, message_id=name))
                    accepted.append(name)
    assert accepted == ["before", "after"]
    assert (
        "The emulator cannot save messages: database or disk is full." in caplog.text
    )  # the client gets the same text
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR and "emulator" in record.name]
    assert [record.name for record in errors] == ["servicebus_emulator.servicebus.storage.sqlite"]
    async with running_emulator(config.load(None), ANYWHERE, data=tmp_path) as emulator:
        there = [message.message_id for message in emulator.broker.find(QUEUE).peek(0, 9, None)]
    assert set(accepted) <= set(there)


async def test_work_that_falls_due_while_the_disk_is_full_is_done_and_saved_later(tmp_path: Path) -> None:
    async with running_emulator(config.load(None), ANYWHERE, data=tmp_path) as emulator:
        queue = emulator.broker.find(QUEUE)
        client = ServiceBusClient.from_connection_string(emulator.connection_string)
        async with client, client.get_queue_sender(QUEUE) as sender, client.get_queue_receiver(QUEUE) as receiver:
            soon = datetime.now(UTC) + timedelta(seconds=1)
            await sender.schedule_messages([ServiceBusMessage(b"x" * 100_000) for _ in range(3)], soon)
            fill_disk(emulator)
            await until(lambda: queue.counts()["active"] == 3)
            await asyncio.sleep(0.3)  # time for a retry
            free_disk(emulator)
            received = 0
            while received < 3:
                received += len(await receiver.receive_messages(3, max_wait_time=5))
