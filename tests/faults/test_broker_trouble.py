"""The broker drops connections, freezes, refuses replies, loses locks, goes away and comes back."""

from __future__ import annotations

import asyncio
import time

import pytest
from pydantic import JsonValue

from flow_contracts.result import FlowResult
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST
from servicebus_emulator.servicebus.faults import At
from tests.support.stage import WAIT, Stage, running_stage, short_lock, until

QUOTE: JsonValue = {"customer": "Contoso", "amount": 1}


def outcome(result: FlowResult) -> tuple[str, str | None]:
    return result.status, result.error.code if result.error else None


async def test_connections_dropped_while_idle_are_made_anew(stage: Stage) -> None:
    async with stage.worker() as supervisor, stage.client() as client:
        stage.emulator.amqp.drop_connections()
        await until(lambda: not supervisor.health.report()["ready"])
        await until(lambda: bool(supervisor.health.report()["ready"]))
        sent = await client.submit("create-quote", QUOTE, claim=stage.claim())
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_connections_dropped_during_a_call_lose_neither_its_answer_nor_call_it_again(stage: Stage) -> None:
    async with stage.worker(), stage.client() as client:
        sent = await client.submit("slow-report", {}, claim=stage.claim())
        await until_called(stage, "slow-report")
        stage.emulator.amqp.drop_connections()
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)
        await until(lambda: stage.depth("active") == 0)
    assert len(await stage.calls("slow-report")) == 1


async def test_links_detached_by_the_service_are_made_anew(stage: Stage) -> None:
    async with stage.worker(), stage.client() as client:
        for _ in range(3):
            stage.emulator.amqp.force_detach("flow-requests")
            stage.emulator.amqp.force_detach("flow-replies")
            sent = await client.submit("create-quote", QUOTE, claim=stage.claim())
            assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_a_frozen_broker_is_noticed_and_left_for_a_new_connection(stage: Stage) -> None:
    async with stage.worker() as supervisor, stage.client() as client:
        stage.emulator.amqp.freeze()
        await until(lambda: not supervisor.health.report()["ready"])
        stage.emulator.amqp.thaw()
        await until(lambda: bool(supervisor.health.report()["ready"]))
        sent = await client.submit("create-quote", QUOTE, claim=stage.claim())
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_a_reply_queue_that_refuses_keeps_the_result_until_it_takes_it(stage: Stage) -> None:
    faults = stage.emulator.broker.faults
    faults.refuse(At.SEND, "com.microsoft:server-busy", queue="flow-replies")
    async with stage.worker(), stage.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=stage.claim())
        await until_called(stage, "create-quote")
        assert stage.depth("active") == 1  # not completed while its result is nowhere
        faults.refusals.clear()
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)
        await until(lambda: stage.depth("active") == 0)
    assert len(await stage.calls("create-quote")) == 1


async def test_a_refused_settlement_is_not_taken_for_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_stage(monkeypatch, short_lock(5)) as stage:
        stage.flows["create-quote"] = {"idempotent": True}
        async with stage.worker(), stage.client() as client, client.background() as background:
            stage.emulator.broker.faults.refuse(At.SETTLE, MESSAGE_LOCK_LOST, times=1)
            result = await background.request("create-quote", QUOTE, WAIT, claim=stage.claim())
            assert outcome(result) == ("succeeded", None)
            await until(lambda: stage.depth("active") == 0)
            assert background is not None
        assert stage.emulator.broker.faults.refusals == []


async def test_a_worker_told_to_stop_finishes_the_request_at_hand(stage: Stage) -> None:
    async with stage.client() as client:
        async with stage.worker():
            sent = await client.submit("slow-report", {}, claim=stage.claim())
            await until_called(stage, "slow-report")
        assert stage.depth("active") == 0
        assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_a_worker_out_of_grace_tells_that_the_outcome_is_unknown(stage: Stage) -> None:
    await stage.put("flows/slow-report", {"delay_seconds": 20})
    settings = stage.settings(shutdown_grace_seconds=0.2)
    async with stage.client() as client:
        began = time.monotonic()
        async with stage.worker(settings):
            sent = await client.submit("slow-report", {}, claim=stage.claim())
            await until_called(stage, "slow-report")
        assert time.monotonic() - began < 15
        assert outcome(await client.wait(sent, WAIT)) == ("unknown", "interrupted")
        assert stage.depth("active") == 0


async def test_a_worker_out_of_grace_gives_an_idempotent_flows_request_back(stage: Stage) -> None:
    stage.flows["slow-report"] = {"idempotent": True}
    await stage.put("flows/slow-report", {"delay_seconds": 20})
    async with stage.client() as client:
        async with stage.worker(stage.settings(shutdown_grace_seconds=0.2)):
            sent = await client.submit("slow-report", {}, claim=stage.claim())
            await until_called(stage, "slow-report")
        assert stage.depth("active") == 1
        await stage.put("flows/slow-report", {"delay_seconds": 0})
        async with stage.worker():
            assert outcome(await client.wait(sent, WAIT)) == ("succeeded", None)


async def test_a_missing_queue_is_named_and_waited_for(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    queues = [{"name": "flow-requests", "lanes": 1}, {"name": "not-there", "lanes": 1}]
    settings = stage.settings(request_queues=queues)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(4), stage.worker(settings):
            pytest.fail("a worker without one of its queues must not be ready")
    assert "there is no such queue; create it, or correct its name in the settings" in caplog.text


async def until_called(stage: Stage, flow: str) -> None:
    """Wait until the flow has seen a call."""
    async with asyncio.timeout(WAIT):
        while not await stage.calls(flow):  # noqa: ASYNC110 - the flow is another program: it can only be asked
            await asyncio.sleep(0.02)
