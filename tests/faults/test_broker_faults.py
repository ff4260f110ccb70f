"""Faults of the broker: dropped connections, freezes, refused sends and settlements, missing queues."""

from __future__ import annotations

import asyncio
import time

import pytest
from pydantic import JsonValue

from flow_contracts.result import FlowResult
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST
from servicebus_emulator.servicebus.faults import FaultPoint
from tests.support.system import WAIT, System, running_system, short_lock, until

QUOTE: JsonValue = {"customer": "Contoso", "amount": 1}


def outcome(result: FlowResult) -> tuple[str, str | None]:
    return result.status, result.error.code if result.error else None


async def test_the_worker_reconnects_after_idle_connections_drop(system: System) -> None:
    async with system.worker() as supervisor, system.client() as client:
        system.emulator.amqp.drop_connections()
        await until(lambda: not supervisor.health.report()["ready"])
        await until(lambda: bool(supervisor.health.report()["ready"]))
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_connections_that_drop_during_a_call_cost_neither_its_answer_nor_a_second_call(system: System) -> None:
    async with system.worker(), system.client() as client:
        sent = await client.submit("slow-report", {}, claim=system.claim())
        await until_called(system, "slow-report")
        system.emulator.amqp.drop_connections()
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)
        await until(lambda: system.depth("active") == 0)
    assert len(await system.calls("slow-report")) == 1


async def test_the_worker_reopens_links_that_the_service_detached(system: System) -> None:
    async with system.worker(), system.client() as client:
        for _ in range(3):
            system.emulator.amqp.force_detach("flow-requests")
            system.emulator.amqp.force_detach("flow-replies")
            sent = await client.submit("create-quote", QUOTE, claim=system.claim())
            assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_a_frozen_broker_makes_the_worker_unready_until_it_reconnects(system: System) -> None:
    async with system.worker() as supervisor, system.client() as client:
        system.emulator.amqp.freeze()
        await until(lambda: not supervisor.health.report()["ready"])
        system.emulator.amqp.thaw()
        await until(lambda: bool(supervisor.health.report()["ready"]))
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_a_request_is_not_completed_until_the_reply_queue_accepts_its_result(system: System) -> None:
    faults = system.emulator.broker.faults
    faults.refuse(FaultPoint.SEND, "com.microsoft:server-busy", queue="flow-replies")
    async with system.worker(), system.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        await until_called(system, "create-quote")
        assert system.depth("active") == 1  # not completed while its result is nowhere
        faults.refusals.clear()
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)
        await until(lambda: system.depth("active") == 0)
    assert len(await system.calls("create-quote")) == 1


async def test_a_request_whose_settlement_was_refused_is_delivered_again_and_completed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_system(monkeypatch, short_lock(5)) as system:
        system.flows["create-quote"] = {"idempotent": True}
        async with system.worker(), system.client() as client, client.background() as background:
            system.emulator.broker.faults.refuse(FaultPoint.SETTLE, MESSAGE_LOCK_LOST, times=1)
            result = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
            assert outcome(result) == ("succeeded", None)
            await until(lambda: system.depth("active") == 0)
            assert background is not None
        assert system.emulator.broker.faults.refusals == []


async def test_a_stopping_worker_finishes_its_current_request(system: System) -> None:
    async with system.client() as client:
        async with system.worker():
            sent = await client.submit("slow-report", {}, claim=system.claim())
            await until_called(system, "slow-report")
        assert system.depth("active") == 0
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_after_the_grace_period_an_interrupted_request_ends_unknown(system: System) -> None:
    await system.put("flows/slow-report", {"delay_seconds": 20})
    settings = system.settings(shutdown_grace_seconds=0.2)
    async with system.client() as client:
        began = time.monotonic()
        async with system.worker(settings):
            sent = await client.submit("slow-report", {}, claim=system.claim())
            await until_called(system, "slow-report")
        assert time.monotonic() - began < 15
        assert outcome(await client.wait(sent, WAIT)) == ("unknown", "interrupted")
        assert system.depth("active") == 0


async def test_after_the_grace_period_a_request_of_an_idempotent_flow_is_abandoned(system: System) -> None:
    system.flows["slow-report"] = {"idempotent": True}
    await system.put("flows/slow-report", {"delay_seconds": 20})
    async with system.client() as client:
        async with system.worker(system.settings(shutdown_grace_seconds=0.2)):
            sent = await client.submit("slow-report", {}, claim=system.claim())
            await until_called(system, "slow-report")
        assert system.depth("active") == 1
        await system.put("flows/slow-report", {"delay_seconds": 0})
        async with system.worker():
            assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_the_worker_names_a_missing_queue_and_waits_for_it(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    queues = [{"name": "flow-requests", "lanes": 1}, {"name": "not-there", "lanes": 1}]
    settings = system.settings(request_queues=queues)

    async def become_ready() -> None:
        async with system.worker(settings):
            pytest.fail("a worker without one of its queues must not be ready")

    waiting = asyncio.create_task(become_ready())
    await until(lambda: "there is no such queue; create it, or correct its name in the settings" in caplog.text)
    await asyncio.sleep(1)  # a worker that ignores the missing queue is ready by now
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def until_called(system: System, flow: str) -> None:
    """Wait until the flow has seen a call."""
    async with asyncio.timeout(WAIT):
        while not await system.calls(flow):  # noqa: ASYNC110 - the flow is another program and has no event to wait for
            await asyncio.sleep(0.02)
