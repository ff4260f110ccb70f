from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from azure.servicebus.aio import ServiceBusClient

from flow_contracts.client import FlowClient, NotOutstanding, ResultTimeout, ServiceBusFailure, ServiceBusMisconfigured
from flow_contracts.message import Message
from flow_contracts.request import FlowRequest
from flow_contracts.servicebus.conversion import to_sdk
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST
from servicebus_emulator.servicebus.faults import FaultPoint
from tests.integration.contracts.broker_thread import SILENT, BrokerThread, WorkerThread, echo
from tests.support.receiving import receive

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_500_waiters_get_their_results_over_one_session(
    broker: BrokerThread, client: FlowClient, answering: WorkerThread
) -> None:
    async with client.background() as background:
        results = await asyncio.gather(*(background.request("f", number, timeout=50) for number in range(500)))
        assert [result.output for result in results] == list(range(500))
        assert {request.reply_to_session_id for request in answering.seen} == {background.session_id}
    assert broker.count("flow-replies")["active"] == 0


@pytest.mark.usefixtures("answering")
async def test_a_caller_may_wait_long_after_submitting_and_gets_a_result_once(client: FlowClient) -> None:
    async with client.background() as background:
        sent = [await background.submit("f", number) for number in range(3)]
        for number, correlation_id in reversed(list(enumerate(sent))):
            assert (await background.wait(correlation_id, timeout=60)).output == number
        with pytest.raises(NotOutstanding):
            await background.wait(sent[0], timeout=60)


@pytest.mark.usefixtures("answering")
async def test_a_missing_result_does_not_delay_the_other_results(client: FlowClient) -> None:
    async with client.background() as background:
        correlation_id = await background.submit(SILENT)
        with pytest.raises(ResultTimeout, match=correlation_id):
            await background.wait(correlation_id, timeout=0.2)
        assert (await background.request("f", 1, timeout=60)).output == 1


@pytest.mark.usefixtures("answering")
async def test_messages_without_an_outstanding_request_are_dead_lettered_with_a_reason(
    broker: BrokerThread, client: FlowClient
) -> None:
    async with (
        client.background() as background,
        ServiceBusClient.from_connection_string(broker.connection_string) as sdk,
    ):
        strange = FlowRequest(flow="f", message_id="m", correlation_id="x", reply_to_session_id=background.session_id)
        async with sdk.get_queue_sender("flow-replies") as sender:
            await sender.send_messages(to_sdk(Message(body=b"hello", session_id=background.session_id)))
            foreign = echo(strange).to_message(background.session_id, timedelta(minutes=1))
            await sender.send_messages(to_sdk(foreign))
        assert (await background.request("f", 1, timeout=60)).output == 1
        async with sdk.get_queue_receiver("flow-replies", sub_queue="deadletter") as dead:
            dead_letters = await receive(dead, 2)
            assert [one.dead_letter_reason for one in dead_letters] == ["invalid_result", "unexpected_result"]
            assert "contract" in (dead_letters[0].dead_letter_error_description or "")
            for one in dead_letters:
                await dead.complete_message(one)


# The SDK leaves its socket open after an interrupted handshake; `sockets_left_by_the_sdk` collects it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("answering", "sockets_left_by_the_sdk")
async def test_results_arrive_in_the_same_session_after_a_restart_of_the_broker(
    broker: BrokerThread, client: FlowClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "flow_contracts.client")
    async with client.background() as background:
        assert (await background.request("f", "before", timeout=60)).output == "before"
        await asyncio.to_thread(broker.down)
        asking = [asyncio.create_task(background.request("f", number, timeout=40)) for number in range(5)]
        await asyncio.to_thread(broker.up)
        results = await asyncio.gather(*asking)
    assert [result.output for result in results] == list(range(5))
    assert f"reply session {background.session_id} was lost and is opened again" in caplog.text


@pytest.mark.usefixtures("answering")
async def test_a_lost_settlement_neither_repeats_nor_loses_a_result(broker: BrokerThread, client: FlowClient) -> None:
    before = broker.count("flow-replies")
    async with client.background() as background:
        broker.call(lambda: broker.broker.faults.refuse(FaultPoint.SETTLE, MESSAGE_LOCK_LOST, times=2))
        results = await asyncio.gather(*(background.request("f", number, timeout=40) for number in range(20)))
        assert [result.output for result in results] == list(range(20))
        assert (await background.request("f", "again", timeout=40)).output == "again"
    assert broker.count("flow-replies") == before


async def test_closing_ends_every_wait_with_an_error(client: FlowClient) -> None:
    async with client.background() as background:
        waiting = asyncio.create_task(background.wait(await background.submit(SILENT), timeout=50))
        await asyncio.sleep(0)
    with pytest.raises(ServiceBusFailure, match="closed before a result came"):
        await waiting


async def test_a_wrong_reply_queue_raises_an_error_on_entering(broker: BrokerThread) -> None:
    async with FlowClient.from_connection_string(broker.connection_string, reply_queue="none") as client:
        with pytest.raises(ServiceBusMisconfigured, match=r"'none'.*no such queue"):
            async with client.background():
                pass
