"""The one timer of the broker: what is due in one queue is nothing to the others."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

import pytest

from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message import Message
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from tests.unit.emulator.servicebus.rig import RecordingReceiver, message


@dataclass(eq=False)
class Clumsy(RecordingReceiver):
    """Stumbles over the first message."""

    stumbled: bool = False

    def deliver(self, message: Message) -> None:
        if not self.stumbled:
            self.stumbled = True
            raise RuntimeError("stumbled")
        super().deliver(message)


async def test_a_failing_timer_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker((QueueSettings(name="a"), QueueSettings(name="b")))
    clumsy, other = Clumsy(), RecordingReceiver()
    broker.find("a").subscribe(clumsy)
    broker.find("b").subscribe(other)
    soon = time.time() + 0.05
    broker.find("a").send([message("1", at=soon), message("2", at=soon + 0.05)])
    broker.find("b").send([message("3", at=soon)])
    async with asyncio.timeout(5):
        while not (clumsy.received and other.received):  # noqa: ASYNC110 - a consumer without events of its own
            await asyncio.sleep(0.01)
    broker.close()
    assert (clumsy.bodies, other.bodies) == ([b"2"], [b"3"])
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["A timer of queue 'a' failed."]
