"""Requests whose bodies other SDKs encoded arrive over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage

from flow_contracts.client import FlowClient
from tests.support.system import WAIT, System

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUOTE = {"customer": "Zoë", "amount": 1}


async def test_every_form_of_the_body_is_the_same_request(system: System, client: FlowClient) -> None:
    document = {"flow": "create-quote", "input": QUOTE, "claim": system.claim()}
    text = json.dumps(document, ensure_ascii=False)
    long = text.encode()
    binary_xml = b"@\x06string\x083http://schemas.microsoft.com/2003/10/Serialization/\x9b"
    bodies: dict[str, dict[str, Any]] = {
        "utf-16": {"data_body": text.encode("utf-16")},
        "gzip": {"data_body": gzip.compress(long), "content_encoding": "gzip"},
        "string": {"data_body": json.dumps(text).encode()},
        "dotnet": {"data_body": binary_xml + len(long).to_bytes(2, "little") + long},
        "sections": {"data_body": [long[:50], long[50:]]},
        "value": {"value_body": document},
        "text": {"value_body": text},
        "sequence": {"sequence_body": [[document]]},
    }
    sdk = ServiceBusClient.from_connection_string(system.emulator.connection_string)
    async with sdk, sdk.get_queue_sender("flow-requests") as sender:
        for name, body in bodies.items():
            properties = {"message_id": f"body-{name}", "content_encoding": body.pop("content_encoding", None)}
            message: Any = AmqpAnnotatedMessage(
                **body, properties=properties, application_properties={"contract": "flow-request/1"}
            )
            await sender.send_messages(message)
        await sender.send_messages(
            ServiceBusMessage(
                json.dumps([document]), message_id="body-array", application_properties={"contract": "flow-request/1"}
            )
        )
    names = (*bodies, "array")
    waits = [client.wait(f"body-{name}", WAIT) for name in names]
    results = dict(zip(names, await asyncio.gather(*waits), strict=True))
    refused = results.pop("array")
    assert {name: result.status for name, result in results.items()} == dict.fromkeys(bodies, "succeeded")
    assert refused.error is not None
    assert "is an array; send its element alone" in refused.error.message
