"""The requests that are worked off: 2 KB each, with a claim of one of several users."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from azure.servicebus.aio import ServiceBusClient
from pydantic import JsonValue, SecretStr

from bench.worker.stage import FLOW
from bench.worker.subjects import REQUESTS
from flow_contracts.request import FlowRequest
from flow_contracts.servicebus.conversion import to_sdk
from flow_worker.demo.environment import ROLE, EmulatorClient

USERS = 20
BATCH = 50
INPUT: JsonValue = {"customer": "Contoso", "note": "x" * 2000}


def claims(emulator: EmulatorClient) -> list[SecretStr]:
    """A token for each user."""
    return [SecretStr(emulator.mint(f"user-{number}", ROLE)) for number in range(USERS)]


def request(claim: SecretStr, session_id: str | None = None) -> FlowRequest:
    """One request. Its result goes to a session of its own, unless one is given."""
    identifier = str(uuid.uuid4())
    return FlowRequest(
        flow=FLOW,
        input=INPUT,
        claim=claim,
        message_id=identifier,
        correlation_id=identifier,
        reply_to_session_id=session_id or identifier,
    )


async def fill(emulator: EmulatorClient, count: int, tokens: Sequence[SecretStr] = ()) -> None:
    """Put so many requests into the queue, as fast as it takes them; with new claims, or with these."""
    tokens = tokens or claims(emulator)
    async with (
        ServiceBusClient.from_connection_string(emulator.connection_string) as client,
        client.get_queue_sender(REQUESTS) as sender,
    ):
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            await sender.send_messages([to_sdk(request(tokens[one % len(tokens)]).to_message()) for one in numbers])
