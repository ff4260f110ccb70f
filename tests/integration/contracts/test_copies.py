"""The same result twice in a session, and results of a later version: each client returns a result once."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio
from azure.servicebus.aio import ServiceBusClient

from flow_contracts.client import FlowClient, ResultTimeout
from flow_contracts.message import Message
from flow_contracts.reply_key import new_reply_key, result_mac
from flow_contracts.result import FlowResult, Status, UnsupportedResult
from flow_contracts.servicebus.conversion import to_sdk
from tests.integration.contracts.broker_thread import SILENT, BrokerThread

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = new_reply_key()
QUEUE = "copied-replies"
"""A reply queue without duplicate detection, as if its window had passed between the copies."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(broker: BrokerThread) -> AsyncIterator[FlowClient]:
    async with FlowClient.from_connection_string(broker.connection_string, reply_queue=QUEUE) as client:
        yield client


async def publish(broker: BrokerThread, *messages: Message) -> None:
    async with (
        ServiceBusClient.from_connection_string(broker.connection_string) as sdk,
        sdk.get_queue_sender(QUEUE) as sender,
    ):
        for message in messages:
            await sender.send_messages(to_sdk(message))


def result_of(name: str, message_id: str = "m", session: str | None = None) -> Message:
    result = FlowResult(status=Status.SUCCEEDED, correlation_id=name, request_message_id=message_id)
    return result.to_message(session or name, timedelta(hours=1), reply_key=KEY)


def later(message: Message) -> Message:
    contract = "flow-result/2"
    mac = result_mac(KEY, contract, message.message_id or "", message.body)
    return replace(message, application_properties={"contract": contract, "reply_mac": mac})


async def test_take_returns_a_result_once_and_deletes_its_copies(broker: BrokerThread, client: FlowClient) -> None:
    name, before = str(uuid.uuid4()), broker.count(QUEUE)
    other = Message(body=b"hello", session_id=name, correlation_id="another", message_id="another")
    await publish(broker, other, result_of(name), result_of(name), result_of(name))
    assert await client.take(name) is not None
    assert broker.count(QUEUE)["active"] == before["active"] + 1, "the other message stays"
    assert await client.take(name) is None
    await publish(broker, result_of(name))  # a worker that was frozen sends it once more
    assert await client.poll(name) is None
    with pytest.raises(ResultTimeout):
        await client.wait(name, timeout=1)
    assert await client.take(name) is None
    assert broker.count(QUEUE)["active"] == before["active"] + 1


async def test_a_copy_does_not_hide_the_result_of_the_next_request_in_its_session(
    broker: BrokerThread, client: FlowClient
) -> None:
    name = str(uuid.uuid4())
    await publish(broker, result_of(name, "first"))
    assert await client.take(name) is not None
    await publish(broker, result_of(name, "first"), result_of(name, "second"))
    taken = await client.take(name)
    assert taken is not None
    assert taken.request_message_id == "second"


async def test_a_sender_that_sends_the_same_request_again_takes_its_result_again(
    broker: BrokerThread, client: FlowClient
) -> None:
    name = str(uuid.uuid4())
    for _ in range(2):
        await client.submit(SILENT, correlation_id=name, message_id="m", reply_key=KEY)
        await publish(broker, result_of(name))
        assert await client.take(name) is not None


async def test_a_background_client_completes_copies_of_results_it_returned(
    broker: BrokerThread, client: FlowClient
) -> None:
    before = broker.count(QUEUE)
    async with client.background() as background:
        first = result_of("again", "first", background.session_id)
        second = result_of("again", "second", background.session_id)
        last = result_of("last", "last", background.session_id)
        await background.submit(SILENT, correlation_id="again", message_id="first", reply_key=KEY)
        await publish(broker, first, first)
        assert (await background.wait("again", timeout=60)).request_message_id == "first"
        await background.submit(SILENT, correlation_id="again", message_id="second", reply_key=KEY)
        await background.submit(SILENT, correlation_id="last", message_id="last", reply_key=KEY)
        await publish(broker, first, second, first, last)
        assert (await background.wait("again", timeout=60)).request_message_id == "second"
        await background.wait("last", timeout=60)
    assert broker.count(QUEUE) == before, "each copy is completed; none is dead-lettered"


async def test_a_result_of_a_later_version_names_the_versions_and_stays_in_the_queue(
    broker: BrokerThread, client: FlowClient
) -> None:
    name, before = str(uuid.uuid4()), broker.count(QUEUE)
    await publish(broker, later(result_of(name)))
    for read in (client.poll(name), client.wait(name, timeout=60), client.take(name)):
        with pytest.raises(UnsupportedResult, match=r"'flow-result/2'.*reads 'flow-result/1'"):
            await read
    after = broker.count(QUEUE)
    assert (after["active"], after["dead_lettered"]) == (before["active"] + 1, before["dead_lettered"])


async def test_a_background_client_raises_and_dead_letters_a_result_of_a_later_version(
    broker: BrokerThread, client: FlowClient
) -> None:
    before = broker.count(QUEUE)
    async with client.background() as background:
        sent = await background.submit(SILENT, reply_key=KEY)
        await publish(broker, later(result_of(sent, session=background.session_id)))
        with pytest.raises(UnsupportedResult, match="flow-result/2"):
            await background.wait(sent, timeout=60)
    assert broker.count(QUEUE)["dead_lettered"] == before["dead_lettered"] + 1
