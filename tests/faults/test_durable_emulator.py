"""An emulator with `--data` is killed, and has every accepted message after its restart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusError

from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.timeout(120)
QUEUE = "flow-continuations"


@contextmanager
def serving(data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its connection string. The end kills the process with SIGKILL."""
    command = [
        sys.executable,
        "-m",
        "servicebus_emulator",
        "serve",
        "--amqp-port",
        "0",
        "--http-port",
        "0",
        "--data",
        str(data),
    ]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready "), line
        yield process, json.loads(line.removeprefix("ready "))["connection_string"]
    finally:
        process.kill()
        process.communicate()


def test_every_accepted_send_survives_kill_9(tmp_path: Path) -> None:
    accepted: list[str] = []
    with serving(tmp_path) as (process, connection_string):
        client = ServiceBusClient.from_connection_string(connection_string, retry_total=0)
        with client, client.get_queue_sender(QUEUE) as sender:
            try:
                for number in range(100_000):
                    if number == 300:
                        process.kill()
                    sender.send_messages(ServiceBusMessage(str(number), message_id=str(number)), timeout=5)
                    accepted.append(str(number))
            except ServiceBusError:
                pass  # the broker was killed
    assert len(accepted) >= 300
    with serving(tmp_path) as (_, connection_string):
        client = ServiceBusClient.from_connection_string(connection_string)
        with client, client.get_queue_receiver(QUEUE) as receiver:
            there = [str(one) for one in receiver.peek_messages(max_message_count=1000)]
    assert there[: len(accepted)] == accepted
    assert len(there) <= len(accepted) + 1  # the broker may have stored the last one without acknowledging it


def test_a_completed_message_is_not_delivered_again(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, connection_string):
        client = ServiceBusClient.from_connection_string(connection_string)
        with client, client.get_queue_sender(QUEUE) as sender, client.get_queue_receiver(QUEUE) as receiver:
            sender.send_messages([ServiceBusMessage(str(number)) for number in range(20)])
            for message in receiver.receive_messages(max_message_count=10, max_wait_time=5):
                receiver.complete_message(message)
    with serving(tmp_path) as (_, connection_string):
        client = ServiceBusClient.from_connection_string(connection_string)
        with client, client.get_queue_receiver(QUEUE) as receiver:
            there = [str(one) for one in receiver.peek_messages(max_message_count=100)]
    assert there == [str(number) for number in range(10, 20)]
