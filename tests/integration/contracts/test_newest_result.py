"""Several results of one request, after a replay: every client returns the newest, and `take` each of them once."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest
from pydantic import SecretStr

from flow_contracts.client import FlowClient, FlowClientSync, new_reply_key, result_search
from flow_contracts.message import Message
from flow_contracts.result import FlowError, FlowResult, Status
from flow_contracts.servicebus import ConnectionString, ServiceBus
from tests.integration.contracts.broker_thread import SILENT, BrokerThread

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = new_reply_key()
QUEUE = "copied-replies"
"""A reply queue without duplicate detection, as if its window had passed between the copies."""


def message(name: str, output: str, session: str | None = None, *, key: SecretStr | None = KEY) -> Message:
    """Return a result of the request with the message ID "m": the first one, or that of a replay."""
    replayed = output != "first"
    result = FlowResult(
        status=Status.SUCCEEDED if replayed else Status.FAILED,
        output=output,
        correlation_id=name,
        request_message_id=f"m-{output}" if replayed else "m",
        replay_of="m" if replayed else None,
    )
    return result.to_message(session or name, timedelta(hours=1), reply_key=key)


async def publish(broker: BrokerThread, *messages: Message) -> None:
    async with ServiceBus(ConnectionString(broker.connection_string)) as bus:
        for one in messages:
            await bus.send(QUEUE, one)


def outputs(*results: FlowResult | None) -> list[object]:
    return [result and result.output for result in results]


async def test_every_way_to_read_returns_the_newest_and_take_each_once(
    broker: BrokerThread, caplog: pytest.LogCaptureFixture
) -> None:
    name = str(uuid.uuid4())
    async with FlowClient.from_connection_string(broker.connection_string, reply_queue=QUEUE) as client:
        await client.submit(SILENT, correlation_id=name, message_id="m", reply_key=KEY)
        await publish(broker, message(name, "first"), message(name, "forged", key=None), message(name, "second"))
        # A copy of the first result, which a worker published once more after a crash, is not newer.
        await publish(broker, message(name, "first"), message(name, "forged", key=new_reply_key()))
        assert outputs(await client.poll(name), await client.wait(name, timeout=60)) == ["second", "second"]
        assert client.other_results == 1, "reported once"
        assert "There are 2 results for correlation ID" in caplog.text
        taken = [await client.take(name, timeout=60), await client.take(name), await client.take(name)]
        assert outputs(*taken) == ["second", "first", None]


async def test_another_process_with_the_key_and_one_without_it_do_so_too(broker: BrokerThread) -> None:
    name = str(uuid.uuid4())
    await publish(broker, message(name, "first"), message(name, "second"))

    def use() -> list[object]:
        with FlowClientSync.from_connection_string(broker.connection_string, reply_queue=QUEUE) as client:
            found = client.poll(name, reply_key=KEY), client.wait(name, timeout=60), client.take(name)
            assert client.other_results == 1
            return outputs(*found, client.take(name, reply_key=KEY), client.take(name))

    assert await asyncio.to_thread(use) == ["second", "second", "second", "first", None]


async def test_a_reader_that_accepts_results_without_a_mac_prefers_a_signed_one(broker: BrokerThread) -> None:
    name = str(uuid.uuid4())
    await publish(broker, message(name, "first"), message(name, "forged", key=None))
    async with FlowClient.from_connection_string(
        broker.connection_string, reply_queue=QUEUE, accept_unsigned_results=True
    ) as client:
        assert outputs(await client.poll(name, reply_key=KEY)) == ["first"]


async def test_a_refusal_of_a_reused_message_id_hides_no_result(broker: BrokerThread) -> None:
    name = str(uuid.uuid4())
    error = FlowError(code="message_id_conflict", message="")
    refusal = FlowResult(status=Status.REFUSED, error=error, correlation_id=name, request_message_id="m")
    await publish(broker, message(name, "first"))
    await publish(broker, refusal.to_message(name, timedelta(hours=1), variant="other", reply_key=KEY))
    async with FlowClient.from_connection_string(broker.connection_string, reply_queue=QUEUE) as client:
        assert outputs(await client.poll(name, reply_key=KEY)) == ["first"]


async def test_a_flood_behind_a_result_does_not_keep_a_reader_from_it(
    broker: BrokerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_search, "_MAX_BEHIND_RESULT", 3)
    name = str(uuid.uuid4())
    forged = [message(name, f"forged {number}", key=None) for number in range(5)]
    await publish(broker, message(name, "first"), *forged, message(name, "too late"))
    async with FlowClient.from_connection_string(broker.connection_string, reply_queue=QUEUE) as client:
        assert outputs(await client.poll(name, reply_key=KEY)) == ["first"]


async def test_a_background_client_returns_the_newest_and_that_of_a_later_replay(broker: BrokerThread) -> None:
    async with (
        FlowClient.from_connection_string(broker.connection_string, reply_queue=QUEUE) as client,
        client.background() as background,
    ):
        session = background.session_id
        for name in ("early", "end"):
            await background.submit(SILENT, correlation_id=name, message_id="m", reply_key=KEY)
        await publish(broker, message("early", "first", session), message("early", "second", session))
        await publish(broker, message("end", "first", session))
        await background.wait("end", timeout=60)
        assert outputs(await background.wait("early", timeout=60)) == ["second"]
        await publish(broker, message("end", "second", session), message("early", "third", session))
        async with asyncio.timeout(20):
            while client.other_results < 3:  # noqa: ASYNC110 - no event announces it
                await asyncio.sleep(0.02)
        assert outputs(await background.wait("end", timeout=0), await background.wait("early", timeout=0)) == [
            "second",
            "third",
        ]
