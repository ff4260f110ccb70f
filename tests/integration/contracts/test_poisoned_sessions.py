"""A message that cannot be decoded, in a reply session, hides no result from any kind of client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from flow_contracts.client import FlowClient, FlowClientSync
from flow_contracts.message import Message
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import ConnectionString, ServiceBus
from servicebus_emulator.amqp.sections import AMQP_VALUE, DATA, PROPERTIES
from tests.integration.contracts.broker_thread import BrokerThread
from tests.support.poison import BAD_BODIES, BAD_PROPERTIES, forwarded, request_payload, section

pytestmark = pytest.mark.asyncio(loop_scope="module")


def poison(broker: BrokerThread, session: str) -> int:
    """Put one message of each kind into the session; return their number."""
    payloads = [
        *(request_payload(f"{session}-{kind}", body) for kind, body in BAD_BODIES.items() if len(body) < 1 << 16),
        *(
            request_payload(f"{session}-with-{kind}", section(DATA, b"{}"), bad_property=value)
            for kind, value in BAD_PROPERTIES.items()
        ),
        section(PROPERTIES, [["no message ID", session], *[None] * 11]) + section(AMQP_VALUE, []),
    ]
    messages = forwarded(payloads)
    for message in messages:
        message.session_id = session
    broker.call(lambda: broker.broker.find("flow-replies").send(messages))
    return len(messages)


def result(correlation_id: str) -> FlowResult:
    return FlowResult(status=Status.SUCCEEDED, correlation_id=correlation_id, request_message_id=correlation_id)


async def put(broker: BrokerThread, message: Message) -> None:
    async with ServiceBus(ConnectionString(broker.connection_string)) as bus:
        await bus.send("flow-replies", message)


async def test_a_client_polls_waits_for_and_takes_a_result_among_poison(
    broker: BrokerThread, client: FlowClient
) -> None:
    count = poison(broker, "poisoned")
    assert await client.poll("poisoned") is None
    await put(broker, result("poisoned").to_message("poisoned", timedelta(hours=1)))
    poison(broker, "poisoned-2")
    assert await client.poll("poisoned") == result("poisoned")
    assert await client.wait("poisoned", timeout=60) == result("poisoned")
    assert await client.take("poisoned", timeout=60) == result("poisoned")
    assert await client.poll("poisoned") is None
    assert broker.count("flow-replies")["active"] == 2 * count, "the others stay"


async def test_a_blocking_client_does_so_too(broker: BrokerThread) -> None:
    poison(broker, "sync")
    await put(broker, result("sync").to_message("sync", timedelta(hours=1)))

    def use() -> list[FlowResult | None]:
        with FlowClientSync.from_connection_string(broker.connection_string) as client:
            calls: list[Callable[[], FlowResult | None]] = [
                lambda: client.poll("sync"),
                lambda: client.wait("sync", timeout=60),
                lambda: client.take("sync", timeout=60),
                lambda: client.poll("sync"),
            ]
            return [call() for call in calls]

    assert await asyncio.to_thread(use) == [result("sync")] * 3 + [None]


@pytest.mark.usefixtures("answering")
async def test_a_background_reader_dead_letters_poison_and_returns_the_results(
    broker: BrokerThread, client: FlowClient
) -> None:
    before = broker.count("flow-replies")["dead_lettered"]
    async with client.background() as background:
        count = poison(broker, background.session_id)
        results = await asyncio.gather(*(background.request("f", number, timeout=40) for number in range(20)))
        assert [one.output for one in results] == list(range(20))
    assert broker.count("flow-replies")["dead_lettered"] == before + count
