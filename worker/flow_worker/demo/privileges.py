"""Requests that take a privilege in Dataverse: native messages, a plug-in that asks for a user, an outage."""

from __future__ import annotations

import asyncio
import time
import uuid

from pydantic import JsonValue, SecretStr

from flow_contracts.client import FlowClient
from flow_worker.demo.environment import ON_BEHALF, EmulatorClient
from flow_worker.demo.scenarios import Ended, Scene, awaited

FLOW = "private-quote"
MESSAGE = "new_StartQuote"
"""The Custom API whose native messages start the flow."""
_QUOTE: dict[str, JsonValue] = {"customer": "Contoso", "amount": 1250}


async def play_privileges(emulator: EmulatorClient, client: FlowClient, name: str) -> list[Ended]:
    """All of them; the outage at the end, when the others need no answer of Dataverse's any more."""
    ended = await asyncio.gather(
        _native(emulator, client, "ada", "a native Dataverse message", "succeeded"),
        _native(emulator, client, "bob", "one whose user lacks the privilege", "refused", "privilege_missing"),
        _asserted(emulator, client, f"{name}-asserted"),
    )
    return [*ended, await _through_an_outage(emulator, client)]


async def _native(
    emulator: EmulatorClient, client: FlowClient, user: str, title: str, status: str, code: str | None = None
) -> Ended:
    """Have Dataverse post the call of a Custom API; its result comes under the operation's correlation ID."""
    correlation_id = str(uuid.uuid4())
    calls = 1 if status == "succeeded" else 0
    scene = Scene(title, FLOW, _QUOTE, None, status, code, calls=calls)
    began = time.perf_counter()
    post: dict[str, JsonValue] = {"user": user, "message": MESSAGE, "input": _QUOTE, "correlation_id": correlation_id}
    await asyncio.to_thread(emulator.control, "POST", "dataverse/post", post)
    return await awaited(emulator, client, scene, correlation_id, began)


async def _asserted(emulator: EmulatorClient, client: FlowClient, correlation_id: str) -> Ended:
    """A plug-in with a token of its own asks for ada, whom Dataverse knows."""
    app: dict[str, JsonValue] = {"scp": None, "idtyp": "app"}
    claim = SecretStr(emulator.mint("quotes-plug-in", ON_BEHALF, claims=app))
    scene = Scene("a plug-in that asks for a user", FLOW, _QUOTE, claim, "succeeded")
    began = time.perf_counter()
    ada = await asyncio.to_thread(emulator.object_id, "ada")
    await client.submit(FLOW, _QUOTE, claim=claim, on_behalf_of=ada, correlation_id=correlation_id)
    return await awaited(emulator, client, scene, correlation_id, began)


async def _through_an_outage(emulator: EmulatorClient, client: FlowClient) -> Ended:
    """Neither run nor denied while Dataverse does not answer; run when it does."""
    fault: JsonValue = {"kind": "throttle", "retry_after": "1", "next_calls": 2}
    await asyncio.to_thread(emulator.control, "PUT", "dataverse", {"faults": [fault]})
    return await _native(emulator, client, "grace", "one that waits out an outage of Dataverse", "succeeded")
