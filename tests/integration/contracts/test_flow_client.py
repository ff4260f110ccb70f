from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from azure.servicebus.aio import ServiceBusClient

from flow_contracts.client import (
    Deadlines,
    FlowClient,
    MessageTooLarge,
    ResultTimeout,
    ServiceBusMisconfigured,
    ServiceBusUnavailable,
    SessionInUse,
)
from flow_contracts.message import Message
from flow_contracts.request import FlowRequest, InvalidRequest
from flow_contracts.result import FlowResult, InvalidResult, Status
from flow_contracts.servicebus.conversion import to_sdk
from tests.integration.contracts.broker_thread import SILENT, BrokerThread, WorkerThread, echo

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The SDK leaves its socket open after an interrupted handshake; `sockets_left_by_the_sdk` collects it.
ignore_sockets_left_by_the_sdk = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


async def publish(broker: BrokerThread, *messages: Message) -> None:
    """Send messages to the reply queue unchanged."""
    async with (
        ServiceBusClient.from_connection_string(broker.connection_string) as sdk,
        sdk.get_queue_sender("flow-replies") as sender,
    ):
        for message in messages:
            await sender.send_messages(to_sdk(message))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition changes in another thread
            await asyncio.sleep(0.02)


async def test_a_result_can_be_polled_repeatedly_and_taken_once(client: FlowClient, answering: WorkerThread) -> None:
    correlation_id = await client.submit("create-quote", {"amount": 7}, claim="token", on_behalf_of="ada")
    waited = await client.wait(correlation_id, timeout=60)
    assert waited.status is Status.SUCCEEDED
    assert waited.output == {"amount": 7}
    assert await client.poll(correlation_id) == waited
    assert await client.poll(correlation_id) == waited
    assert await client.take(correlation_id) == waited
    assert await client.poll(correlation_id) is None
    assert await client.take(correlation_id) is None
    request = next(one for one in answering.seen if one.correlation_id == correlation_id)
    assert (request.flow, request.on_behalf_of, request.reply_to) == ("create-quote", "ada", "flow-replies")
    assert request.claim is not None
    assert request.claim.get_secret_value() == "token"


@pytest.mark.usefixtures("answering")
async def test_a_client_that_only_knows_the_correlation_id_can_take_the_result(
    broker: BrokerThread, client: FlowClient
) -> None:
    name = f"order-{uuid.uuid4()}"
    assert await client.submit("f", correlation_id=name, message_id=f"{name}-m") == name
    async with FlowClient.from_connection_string(broker.connection_string) as other:
        taken = await other.take(name, timeout=60)
    assert taken is not None
    assert (taken.correlation_id, taken.request_message_id) == (name, f"{name}-m")


async def test_a_timeout_names_the_correlation_id_and_the_seconds(client: FlowClient) -> None:
    with pytest.raises(ResultTimeout, match=r"correlation ID 'nothing-came' within 1\.5 s$"):
        await client.wait("nothing-came", timeout=1.5)
    assert await client.take("nothing-came", timeout=0.2) is None


async def test_a_wait_longer_than_the_session_lock_renews_the_lock(broker: BrokerThread, client: FlowClient) -> None:
    waiting = asyncio.create_task(client.wait("late", timeout=30))
    await asyncio.sleep(5)  # longer than the queue's lock duration, which is under test
    rival = FlowClient.from_connection_string(broker.connection_string, deadlines=Deadlines(session_seconds=0))
    async with rival:
        with pytest.raises(SessionInUse, match=r"'late'.*another reader holds it"):
            await rival.poll("late")
    request = FlowRequest(flow="f", message_id="late", correlation_id="late", reply_to_session_id="late")
    await publish(broker, echo(request).to_message("late", timedelta(minutes=1)))
    assert (await waiting).correlation_id == "late"


async def test_a_poll_waits_for_the_other_reader_of_the_session(client: FlowClient) -> None:
    first, second = await asyncio.gather(client.poll("shared"), client.poll("shared"))
    assert (first, second) == (None, None)


async def test_concurrent_first_submits_all_arrive(broker: BrokerThread, answering: WorkerThread) -> None:
    async with FlowClient.from_connection_string(broker.connection_string, senders=8) as cold:
        sent = set(await asyncio.gather(*(cold.submit(SILENT, number) for number in range(40))))
    assert len(sent) == 40
    await until(lambda: sent <= {request.correlation_id for request in answering.seen})


async def test_a_request_posted_twice_under_one_message_id_arrives_once(
    client: FlowClient, answering: WorkerThread
) -> None:
    for _ in range(2):
        await client.submit(SILENT, message_id="order-7", correlation_id="order-7")
    last = await client.submit(SILENT)
    await until(lambda: any(request.correlation_id == last for request in answering.seen))
    assert [request.message_id for request in answering.seen].count("order-7") == 1


async def test_a_message_that_is_no_result_raises_an_error_and_take_dead_letters_it(
    broker: BrokerThread, client: FlowClient
) -> None:
    stranger = Message(body=b"hello", session_id="strange", correlation_id="another", message_id="strange-0")
    bad = Message(body=b"hello", session_id="strange", correlation_id="strange", message_id="strange-1")
    await publish(broker, stranger, bad)
    before = broker.count("flow-replies")
    with pytest.raises(InvalidResult, match="contract"):
        await client.poll("strange")
    with pytest.raises(InvalidResult, match="contract"):
        await client.take("strange")
    assert await client.poll("strange") is None
    after = broker.count("flow-replies")
    assert (after["active"], after["dead_lettered"]) == (before["active"] - 1, before["dead_lettered"] + 1)


async def test_the_client_still_works_after_it_refused_an_invalid_request(client: FlowClient) -> None:
    with pytest.raises(InvalidRequest, match="field 'correlation_id'"):
        await client.submit("f", correlation_id="x" * 129)
    with pytest.raises(MessageTooLarge, match="flow-requests"):
        await client.submit("f", "x" * 2_000_000)
    assert await client.submit(SILENT, "small enough")


async def test_the_error_for_a_missing_queue_names_the_queue(broker: BrokerThread) -> None:
    async with FlowClient.from_connection_string(
        broker.connection_string, request_queue="requests-of-old", reply_queue="replies-of-old"
    ) as lost:
        with pytest.raises(ServiceBusMisconfigured, match=r"'requests-of-old'.*no such queue"):
            await lost.submit("f")
        with pytest.raises(ServiceBusMisconfigured, match=r"'replies-of-old'.*no such queue"):
            await lost.wait("c", timeout=60)


@ignore_sockets_left_by_the_sdk
@pytest.mark.usefixtures("sockets_left_by_the_sdk")
async def test_a_silent_broker_ends_every_call_at_its_deadline() -> None:
    broker = BrokerThread()
    broker.set_fault(frozen=True)
    brief = Deadlines(open_seconds=1, send_seconds=1, settle_seconds=1, renew_seconds=1, session_seconds=1)
    try:
        async with FlowClient.from_connection_string(broker.connection_string, deadlines=brief) as hasty:
            with pytest.raises(ServiceBusUnavailable, match="within 1 s"):
                await hasty.submit("f")
            with pytest.raises(ServiceBusUnavailable, match="within 1 s"):
                await hasty.poll("c")
            with pytest.raises(ResultTimeout, match="Service Bus could not be reached"):
                await hasty.wait("c", timeout=3)
    finally:
        broker.close()


@ignore_sockets_left_by_the_sdk
@pytest.mark.usefixtures("answering", "sockets_left_by_the_sdk")
async def test_submit_and_wait_survive_a_restart_of_the_broker(broker: BrokerThread) -> None:
    async with FlowClient.from_connection_string(broker.connection_string) as client:
        await client.submit(SILENT)  # the restart breaks this open sender
        waiting = asyncio.create_task(client.wait("after-restart", timeout=40))
        await asyncio.sleep(1)  # by now it holds the session
        await asyncio.to_thread(broker.down)
        submitting = asyncio.create_task(client.submit("f", correlation_id="after-restart"))
        await asyncio.sleep(0.5)  # both find a closed port
        await asyncio.to_thread(broker.up)
        assert await submitting == "after-restart"
        assert (await waiting).correlation_id == "after-restart"


@pytest.mark.usefixtures("answering")
async def test_a_result_of_another_senders_request_in_the_session_is_ignored(
    broker: BrokerThread, client: FlowClient
) -> None:
    """Any sender can name any session for its result."""
    name = str(uuid.uuid4())
    forged = FlowResult(status=Status.SUCCEEDED, correlation_id=name, request_message_id="forged")
    await publish(broker, forged.to_message(name, timedelta(minutes=1)))
    await client.submit("f", correlation_id=name, message_id=f"{name}-mine")
    assert (await client.wait(name, 20)).request_message_id == f"{name}-mine"
    async with FlowClient.from_connection_string(broker.connection_string) as other:
        found = await other.poll(name, message_id=f"{name}-mine")
        any_of_that_correlation_id = await other.poll(name)
    assert found is not None
    assert found.request_message_id == f"{name}-mine"
    assert any_of_that_correlation_id is not None
    assert any_of_that_correlation_id.request_message_id == "forged"
