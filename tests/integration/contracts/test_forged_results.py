"""Forged results in a reply session: no client returns one, and none hides the true result."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from azure.servicebus.aio import ServiceBusClient
from pydantic import SecretStr

from flow_contracts.client import FlowClient, ResultTimeout, new_reply_key, sent_requests
from flow_contracts.client import background as background_module
from flow_contracts.client.background import Background
from flow_contracts.message import Message
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus.conversion import to_sdk
from tests.integration.contracts.broker_thread import SILENT, BrokerThread, WorkerThread

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = new_reply_key()


def result_of(name: str, session: str | None = None, *, key: SecretStr | None = KEY, output: str = "true") -> Message:
    result = FlowResult(status=Status.SUCCEEDED, output=output, correlation_id=name, request_message_id=f"{name}-m")
    return result.to_message(session or name, timedelta(hours=1), reply_key=key)


def forged(name: str, session: str | None = None) -> list[Message]:
    """Return messages that name the request, as a sender who guessed all of its IDs can cause them, and worse ones."""
    true = result_of(name, session)
    properties = true.application_properties
    return [
        result_of(name, session, key=None, output="forged"),
        result_of(name, session, key=new_reply_key(), output="forged"),
        replace(true, body=true.body.replace(b"true", b"forged"), message_id=str(uuid.uuid4())),
        replace(true, message_id=str(uuid.uuid4())),
        replace(true, body=b"[" * 100_000, message_id=str(uuid.uuid4())),
        replace(true, application_properties={**properties, "contract": "flow-result/9"}, message_id=str(uuid.uuid4())),
        replace(true, application_properties={}, message_id=str(uuid.uuid4())),
    ]


async def publish(broker: BrokerThread, *messages: Message) -> None:
    async with (
        ServiceBusClient.from_connection_string(broker.connection_string) as sdk,
        sdk.get_queue_sender("flow-replies") as sender,
    ):
        for message in messages:
            await sender.send_messages(to_sdk(message))


async def submitted(client: FlowClient | Background) -> str:
    name = str(uuid.uuid4())
    return await client.submit(SILENT, correlation_id=name, message_id=f"{name}-m", reply_key=KEY)


async def test_no_way_to_read_returns_a_forged_result(
    broker: BrokerThread, client: FlowClient, caplog: pytest.LogCaptureFixture
) -> None:
    name, before = await submitted(client), client.rejected_results
    forgeries = forged(name)
    await publish(broker, *forgeries)
    assert await client.poll(name) is None
    with pytest.raises(ResultTimeout):
        await client.wait(name, timeout=1)
    assert await client.take(name) is None
    assert client.rejected_results == before + len(forgeries), "each counts once, however often the client peeks at it"
    assert "has no MAC" in caplog.text or "a wrong MAC" in caplog.text
    assert KEY.get_secret_value() not in caplog.text


async def test_a_true_result_behind_forged_ones_is_read_and_taken(broker: BrokerThread, client: FlowClient) -> None:
    name, before = await submitted(client), broker.count("flow-replies")["active"]
    await publish(broker, *forged(name), result_of(name))
    for result in (await client.poll(name), await client.wait(name, timeout=60), await client.take(name)):
        assert result is not None
        assert result.output == "true"
    left = broker.count("flow-replies")["active"] - before
    assert left == 3, "take deletes the forgeries that name the request, and leaves what it cannot read"
    assert await client.take(name) is None


async def test_a_timeout_says_that_messages_were_ignored(broker: BrokerThread, client: FlowClient) -> None:
    name = await submitted(client)
    await publish(broker, result_of(name, key=None))
    with pytest.raises(ResultTimeout, match="1 messages without a valid MAC were ignored"):
        await client.wait(name, timeout=1)


async def test_another_process_needs_the_key(broker: BrokerThread, client: FlowClient) -> None:
    name = await submitted(client)
    await publish(broker, *forged(name)[:2], result_of(name))
    async with FlowClient.from_connection_string(broker.connection_string) as other:
        found = await other.poll(name, reply_key=KEY.get_secret_value())
        assert found is not None
        assert found.output == "true"
        assert await other.poll(name, reply_key=new_reply_key()) is None
        unchecked = await other.poll(name)
        assert unchecked is not None
        assert unchecked.output == "forged"
        with pytest.raises(ValueError, match="22 to 128") as refusal:
            await other.poll(name, reply_key="s3cret")
        assert "s3cret" not in str(refusal.value)


async def test_a_forgotten_request_does_not_accept_a_forged_result(
    broker: BrokerThread, answering: WorkerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_requests, "_MAX_REMEMBERED", 1)
    async with FlowClient.from_connection_string(broker.connection_string) as short, short.background() as background:
        name = str(uuid.uuid4())
        await publish(broker, *forged(name))
        await short.submit("echo", 1, correlation_id=name, message_id=f"{name}-m")
        unanswered = await short.submit(SILENT, correlation_id=f"{name}-2", message_id=f"{name}-2-m")
        elsewhere = await background.submit(SILENT, correlation_id=f"{name}-3", message_id=f"{name}-3-m")
        await publish(broker, *forged(unanswered), *forged(elsewhere))
        assert (await short.wait(name, timeout=60)).output != "forged"
        for result in (await short.poll(name), await short.take(name, message_id=f"{name}-m")):
            assert result is not None
            assert result.output != "forged"
        for other in (unanswered, elsewhere):
            assert await short.poll(other) is None
            assert await short.poll(other, message_id=f"{other}-m") is None


async def test_results_of_workers_without_reply_keys_need_a_consent(broker: BrokerThread) -> None:
    async with FlowClient.from_connection_string(broker.connection_string, accept_unsigned_results=True) as lenient:
        name = await submitted(lenient)
        unsigned, foreign = forged(name)[:2]
        await publish(broker, foreign)
        assert await lenient.poll(name) is None, "a wrong MAC is forged in any case"
        await publish(broker, unsigned)
        assert await lenient.poll(name) is not None


async def test_a_background_client_removes_forged_results_and_returns_the_true_one(
    broker: BrokerThread, client: FlowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_module, "_MAX_DEAD_LETTERED", 3)
    before = broker.count("flow-replies")
    async with client.background() as background:
        name = await submitted(background)
        await publish(broker, *forged(name, background.session_id), result_of(name, background.session_id))
        assert (await background.wait(name, timeout=60)).output == "true"
    after = broker.count("flow-replies")
    assert after["active"] == before["active"]
    assert after["dead_lettered"] == before["dead_lettered"] + 3, "a flood does not fill the queue with dead letters"


async def test_an_unreadable_message_does_not_hide_the_result_from_a_reader_without_the_key(
    broker: BrokerThread, client: FlowClient
) -> None:
    name = str(uuid.uuid4())
    bad = Message(body=b"hello", session_id=name, correlation_id=name, message_id=str(uuid.uuid4()))
    await publish(broker, bad, result_of(name))
    for result in (await client.poll(name), await client.wait(name, timeout=60), await client.take(name)):
        assert result is not None
        assert result.output == "true"
