"""Generates the requests: 2 KB each, with the claim of one of 20 users."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from azure.servicebus.aio import ServiceBusClient
from pydantic import JsonValue, SecretStr

from bench.worker.baselines import REQUESTS
from bench.worker.environment import FLOW
from flow_contracts.request import FlowRequest
from flow_contracts.servicebus.conversion import to_sdk
from flow_worker.demo.environment import ROLE, EmulatorClient

USERS = 20
BATCH = 50
INPUT: JsonValue = {"customer": "Contoso", "note": "x" * 2000}


def claims(emulator: EmulatorClient) -> list[SecretStr]:
    """Return a new token for each user."""
    return [SecretStr(emulator.mint(f"user-{number}", ROLE)) for number in range(USERS)]


def new_request(claim: SecretStr, session_id: str | None = None) -> FlowRequest:
    """Return a request with a new ID. The reply session is its correlation ID unless one is given."""
    identifier = str(uuid.uuid4())
    return FlowRequest(
        flow=FLOW,
        input=INPUT,
        claim=claim,
        message_id=identifier,
        correlation_id=identifier,
        reply_to_session_id=session_id or identifier,
    )


async def fill_queue(emulator: EmulatorClient, count: int, tokens: Sequence[SecretStr] = ()) -> None:
    """Send requests to the request queue as fast as the broker accepts them.

    Without `tokens`, they carry new claims. A long run passes the same tokens each time: the worker caches the claims
    that it knows, and new ones would show as growing memory.
    """
    tokens = tokens or claims(emulator)
    async with (
        ServiceBusClient.from_connection_string(emulator.connection_string) as client,
        client.get_queue_sender(REQUESTS) as sender,
    ):
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            requests = [new_request(tokens[number % len(tokens)]) for number in numbers]
            await sender.send_messages([to_sdk(request.to_message()) for request in requests])
