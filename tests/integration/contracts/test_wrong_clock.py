"""Clients on a machine with a wrong clock settle and read sessions: the broker alone judges their locks."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from flow_contracts.client import FlowClient
from flow_contracts.message import Message
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import ConnectionString, ServiceBus
from servicebus_emulator import config
from servicebus_emulator.host import Endpoints, running_emulator

SKEWS = [75.0, 600.0, 3_600.0, 86_400.0, -600.0, -3_600.0, -86_400.0]


def skew_sdk(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Move the clock by which the SDK judges locks; signatures keep the right one."""
    moved = timedelta(seconds=seconds)
    for name, module in list(sys.modules.items()):
        if name.startswith("azure.servicebus") and "._pyamqp" not in name and hasattr(module, "utc_now"):
            monkeypatch.setattr(module, "utc_now", lambda: datetime.now(UTC) + moved)


@pytest.mark.parametrize("skew", SKEWS)
async def test_messages_are_renewed_settled_and_taken_from_the_dead_letter_queue(
    monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    skew_sdk(monkeypatch, skew)
    async with (
        running_emulator(config.load(None), Endpoints("127.0.0.1", 0, 0)) as emulator,
        ServiceBus(ConnectionString(emulator.connection_string)) as bus,
    ):
        for number in range(3):
            await bus.send("flow-requests", Message(body=b"{}", message_id=f"m-{number}"))
        async with bus.receiver("flow-requests") as receiver:
            for settle in ("complete", "abandon", "dead_letter"):
                delivery = await receiver.receive()
                assert delivery is not None
                await receiver.renew(delivery)
                arguments = ("reason", "text") if settle == "dead_letter" else ()
                await getattr(receiver, settle)(delivery, *arguments)
        async with bus.dead_letter_queue("flow-requests") as dead_letters:
            numbers = [dead.message.sequence_number async for dead in dead_letters.peek()]
            async for taken in dead_letters.take(numbers):
                await dead_letters.complete(taken)
        counts = emulator.broker.counts()["flow-requests"]
        assert (counts["active"], counts["dead_lettered"]) == (1, 0)


@pytest.mark.parametrize("skew", SKEWS)
async def test_a_client_waits_for_a_result_and_takes_it(monkeypatch: pytest.MonkeyPatch, skew: float) -> None:
    skew_sdk(monkeypatch, skew)
    result = FlowResult(request_message_id="m-1", correlation_id="c-1", flow="f", status=Status.SUCCEEDED, output=1)
    async with (
        running_emulator(config.load(None), Endpoints("127.0.0.1", 0, 0)) as emulator,
        ServiceBus(ConnectionString(emulator.connection_string)) as bus,
        FlowClient.from_connection_string(emulator.connection_string) as client,
    ):
        await bus.send("flow-replies", result.to_message("c-1", timedelta(hours=1)))
        assert (await client.wait("c-1", 20)).output == 1
        taken = await client.take("c-1", 20)
        assert taken is not None
        assert taken.output == 1
        assert await client.poll("c-1") is None


@pytest.mark.parametrize("skew", [75.0, -75.0, 0.0])
async def test_a_client_with_a_wrong_clock_finds_a_fresh_result_and_says_the_skew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, skew: float
) -> None:
    skew_sdk(monkeypatch, skew)
    result = FlowResult(request_message_id="m-1", correlation_id="c-1", flow="f", status=Status.SUCCEEDED, output=1)
    async with (
        running_emulator(config.load(None), Endpoints("127.0.0.1", 0, 0)) as emulator,
        ServiceBus(ConnectionString(emulator.connection_string)) as bus,
        FlowClient.from_connection_string(emulator.connection_string) as client,
    ):
        client._skew._wall = lambda: time.time() + skew  # the emulator reads `time.time`, too
        waiting = asyncio.create_task(client.wait("c-1", 20))
        await asyncio.sleep(1.5)
        await bus.send("flow-replies", result.to_message("c-1", timedelta(hours=1)))
        assert (await waiting).output == 1
        assert client.clock_skew_seconds == pytest.approx(skew, abs=2.5)
    logged = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "clock.offset"]
    assert len(logged) in ((1, 2) if skew else (0,))  # a line for the skew, perhaps one for a better estimate
