"""The broker drops connections, freezes, refuses replies, loses locks, goes away and comes back."""

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


async def test_connections_dropped_while_idle_are_made_anew(system: System) -> None:
    async with system.worker() as supervisor, system.client() as client:
        system.emulator.amqp.drop_connections()
        await until(lambda: not supervisor.health.report()["ready"])
        await until(lambda: bool(supervisor.health.report()["ready"]))
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_connections_dropped_during_a_call_lose_neither_its_answer_nor_call_it_again(system: System) -> None:
    async with system.worker(), system.client() as client:
        sent = await client.submit("slow-report", {}, claim=system.claim())
        await until_called(system, "slow-report")
        system.emulator.amqp.drop_connections()
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)
        await until(lambda: system.depth("active") == 0)
    assert len(await system.calls("slow-report")) == 1


async def test_links_detached_by_the_service_are_made_anew(system: System) -> None:
    async with system.worker(), system.client() as client:
        for _ in range(3):
            system.emulator.amqp.force_detach("flow-requests")
            system.emulator.amqp.force_detach("flow-replies")
            sent = await client.submit("create-quote", QUOTE, claim=system.claim())
            assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_a_frozen_broker_is_noticed_and_left_for_a_new_connection(system: System) -> None:
    async with system.worker() as supervisor, system.client() as client:
        system.emulator.amqp.freeze()
        await until(lambda: not supervisor.health.report()["ready"])
        system.emulator.amqp.thaw()
        await until(lambda: bool(supervisor.health.report()["ready"]))
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_a_reply_queue_that_refuses_keeps_the_result_until_it_takes_it(system: System) -> None:
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


async def test_a_refused_settlement_is_not_taken_for_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(monkeypatch, short_lock(5)) as system:
        system.flows["create-quote"] = {"idempotent": True}
        async with system.worker(), system.client() as client, client.background() as background:
            system.emulator.broker.faults.refuse(FaultPoint.SETTLE, MESSAGE_LOCK_LOST, times=1)
            result = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
            assert outcome(result) == ("succeeded", None)
            await until(lambda: system.depth("active") == 0)
            assert background is not None
        assert system.emulator.broker.faults.refusals == []


async def test_a_worker_told_to_stop_finishes_the_request_at_hand(system: System) -> None:
    async with system.client() as client:
        async with system.worker():
            sent = await client.submit("slow-report", {}, claim=system.claim())
            await until_called(system, "slow-report")
        assert system.depth("active") == 0
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_a_worker_out_of_grace_tells_that_the_outcome_is_unknown(system: System) -> None:
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


async def test_a_worker_out_of_grace_gives_an_idempotent_flows_request_back(system: System) -> None:
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


async def test_a_missing_queue_is_named_and_waited_for(system: System, caplog: pytest.LogCaptureFixture) -> None:
    queues = [{"name": "flow-requests", "lanes": 1}, {"name": "not-there", "lanes": 1}]
    settings = system.settings(request_queues=queues)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(4), system.worker(settings):
            pytest.fail("a worker without one of its queues must not be ready")
    assert "there is no such queue; create it, or correct its name in the settings" in caplog.text


async def until_called(system: System, flow: str) -> None:
    """Wait until the flow has seen a call."""
    async with asyncio.timeout(WAIT):
        while not await system.calls(flow):  # noqa: ASYNC110 - the flow is another program: it can only be asked
            await asyncio.sleep(0.02)
