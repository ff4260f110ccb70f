"""The broker's timer: a failure in one queue does not affect the others."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

import pytest

from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from tests.unit.emulator.servicebus.rig import RecordingReceiver, message


@dataclass(eq=False)
class FailingReceiver(RecordingReceiver):
    """A receiver that fails on the first message."""

    failed: bool = False

    def deliver(self, message: BrokeredMessage) -> None:
        if not self.failed:
            self.failed = True
            raise RuntimeError("the receiver failed")
        super().deliver(message)


async def test_a_failing_timer_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker((QueueSettings(name="a"), QueueSettings(name="b")))
    failing, other = FailingReceiver(), RecordingReceiver()
    broker.find("a").subscribe(failing)
    broker.find("b").subscribe(other)
    soon = time.time() + 0.05
    broker.find("a").send([message("1", at=soon), message("2", at=soon + 0.05)])
    broker.find("b").send([message("3", at=soon)])
    async with asyncio.timeout(5):
        while not (failing.received and other.received):  # noqa: ASYNC110 - a receiver without events
            await asyncio.sleep(0.01)
    broker.close()
    assert (failing.bodies, other.bodies) == ([b"2"], [b"3"])
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["A timer of queue 'a' failed."]
