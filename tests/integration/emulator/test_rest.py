"""The REST data plane: what a program sends and takes over HTTP, and what an SDK on the other side sees of it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient

from emulator.admin.rest import BATCH_TYPE
from emulator.admin.server import running_admin
from emulator.servicebus.config import QueueSettings, Status
from emulator.servicebus.errors import SERVER_BUSY
from emulator.servicebus.faults import At
from tests.support.emulator import Bus, emulator

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUES = (
    QueueSettings("plain", max_delivery_count=3),
    QueueSettings("sessions", requires_session=True),
    QueueSettings("forwarding", forward_to="target"),
    QueueSettings("target"),
    QueueSettings("closed", status=Status.DISABLED),
    QueueSettings("short", lock_seconds=0.2, max_delivery_count=100),
    QueueSettings("small", max_message_bytes=1024),
    QueueSettings("a/b c"),
)
TOKEN = {"Authorization": "SharedAccessSignature sr=sb%3A%2F%2Flocalhost&sig=abc&se=4102444800&skn=Root"}

JsonObject = dict[str, Any]  # whatever JSON is in a header


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[Bus]:
    async with emulator(*QUEUES) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(bus: Bus) -> AsyncIterator[str]:
    async with running_admin(bus.broker, "127.0.0.1", 0) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sdk(bus: Bus) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def http(url: str, bus: Bus) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers=TOKEN, timeout=10) as one:
        yield one
    for queue in bus.broker.entities():
        for below in (queue, *queue.below()):
            below.purge(1000, before=float("inf"), session_id=None)


async def received(sdk: ServiceBusClient, queue: str, **options: Any) -> ServiceBusReceivedMessage:
    async with sdk.get_queue_receiver(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE, **options) as one:
        (message,) = await one.receive_messages(1, max_wait_time=5)
        return message


def said(answer: httpx.Response) -> JsonObject:
    found: JsonObject = json.loads(answer.headers["BrokerProperties"])
    return found


async def test_what_is_posted_arrives_with_all_its_properties(http: httpx.AsyncClient, sdk: ServiceBusClient) -> None:
    properties = {
        "MessageId": "m-1",
        "CorrelationId": "c-1",
        "SessionId": "s-1",
        "PartitionKey": "s-1",
        "ReplyTo": "answers",
        "ReplyToSessionId": "s-2",
        "To": "somebody",
        "Label": "order",
        "TimeToLive": 90,
        "NoSuchProperty": [1],
    }
    headers = {"BrokerProperties": json.dumps(properties), "Content-Type": "application/json; charset=utf-8"}
    answer = await http.post("/sessions/messages", content=b'{"a": 1}', headers=headers)
    assert (answer.status_code, answer.content) == (201, b"")

    message = await received(sdk, "sessions", session_id="s-1")

    assert b"".join(message.body) == b'{"a": 1}'
    assert (message.message_id, message.correlation_id, message.session_id) == ("m-1", "c-1", "s-1")
    assert (message.partition_key, message.reply_to, message.reply_to_session_id) == ("s-1", "answers", "s-2")
    assert (message.to, message.subject, message.content_type) == (
        "somebody",
        "order",
        "application/json; charset=utf-8",
    )
    assert message.time_to_live == timedelta(seconds=90)


async def test_headers_become_application_properties_of_the_type_they_look_like(
    http: httpx.AsyncClient, sdk: ServiceBusClient
) -> None:
    headers = {
        "Priority": '"High"',
        "Quoted": r'"say \"hi\" in C:\\dir"',
        "Number": "-42",
        "Big": str(2**62),
        "Price": "299.98",
        "Yes": "true",
        "OrderTime": '"Fri, 04 Mar 2011 08:49:37 GMT"',
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-ms-retrypolicy": "NoRetry",
        "Umlaut": '"Grüße"'.encode(),
    }
    await http.post("/plain/messages", content=b"x", headers=[(n, v) for n, v in headers.items()])  # type: ignore[arg-type]

    message = await received(sdk, "plain")

    assert message.application_properties == {
        b"Priority": b"High",
        b"Quoted": rb'say "hi" in C:\dir',
        b"Number": -42,
        b"Big": 2**62,
        b"Price": 299.98,
        b"Yes": True,
        b"OrderTime": int(datetime(2011, 3, 4, 8, 49, 37, tzinfo=UTC).timestamp() * 1000),
        b"Umlaut": "Grüße".encode(),
    }
