"""The scenarios that need a Dataverse privilege: native messages, a plug-in acting for a user, an outage."""

from __future__ import annotations

import asyncio
import time
import uuid

from pydantic import JsonValue, SecretStr

from flow_contracts.client import FlowClient
from flow_worker.demo.environment import ON_BEHALF, EmulatorClient
from flow_worker.demo.scenarios import Scenario, ScenarioOutcome, wait_for_outcome
from flow_worker.demo.sinks import run_sink_scenarios

FLOW = "private-quote"
MESSAGE = "new_StartQuote"
"""The Custom API whose native messages start the flow."""
_QUOTE: dict[str, JsonValue] = {"customer": "Contoso", "amount": 1250}


async def run_privilege_scenarios(emulator: EmulatorClient, client: FlowClient, name: str) -> list[ScenarioOutcome]:
    """Run all of them."""
    # The outage comes last: it would also delay the privilege queries of the other scenarios.
    with_sinks, refused, on_behalf = await asyncio.gather(
        _native_with_sinks(emulator, client),
        _native(
            emulator,
            client,
            "bob",
            "A native Dataverse message; its user lacks the privilege",
            "Dataverse message, no privilege",
            "refused",
            "privilege_missing",
        ),
        _on_behalf(emulator, client, f"{name}-behalf"),
    )
    return [*with_sinks, refused, on_behalf, await _outage(emulator, client)]


async def _native_with_sinks(emulator: EmulatorClient, client: FlowClient) -> list[ScenarioOutcome]:
    title = "A native Dataverse message; its user holds the privilege"
    native = await _native(emulator, client, "ada", title, "Dataverse message", "succeeded")
    return [native, *await run_sink_scenarios(emulator, native, "ada")] if native.ok else [native]


async def _native(
    emulator: EmulatorClient,
    client: FlowClient,
    user: str,
    title: str,
    brief: str,
    status: str,
    code: str | None = None,
) -> ScenarioOutcome:
    """Let Dataverse post the call of a Custom API; its result has the operation's correlation ID."""
    correlation_id = str(uuid.uuid4())
    calls = 1 if status == "succeeded" else 0
    scenario = Scenario(title, FLOW, _QUOTE, None, status, code, calls=calls, brief=brief)
    began = time.perf_counter()
    post: dict[str, JsonValue] = {"user": user, "message": MESSAGE, "input": _QUOTE, "correlation_id": correlation_id}
    await asyncio.to_thread(emulator.control, "POST", "dataverse/post", post)
    return await wait_for_outcome(emulator, client, scenario, correlation_id, began)


async def _on_behalf(emulator: EmulatorClient, client: FlowClient, correlation_id: str) -> ScenarioOutcome:
    """A plug-in sends with its own app-only token and names the user ada."""
    app_only: dict[str, JsonValue] = {"scp": None, "idtyp": "app"}
    claim = SecretStr(emulator.mint("quotes-plug-in", ON_BEHALF, claims=app_only))
    title = "A plug-in sends a request on behalf of a user"
    scenario = Scenario(title, FLOW, _QUOTE, claim, "succeeded", brief="plug-in on behalf of a user")
    began = time.perf_counter()
    ada = await asyncio.to_thread(emulator.object_id, "ada")
    await client.submit(FLOW, _QUOTE, claim=claim, on_behalf_of=ada, correlation_id=correlation_id)
    return await wait_for_outcome(emulator, client, scenario, correlation_id, began)


async def _outage(emulator: EmulatorClient, client: FlowClient) -> ScenarioOutcome:
    """The worker neither runs nor refuses the request while Dataverse is unavailable; it runs it afterwards."""
    # Only the privilege queries: the rows of earlier requests must not use the outage up.
    path = "RetrieveAadUserSetOfPrivilegesByNames"
    fault: JsonValue = {"kind": "throttle", "retry_after": "1", "next_calls": 2, "path": path}
    await asyncio.to_thread(emulator.control, "PUT", "dataverse", {"faults": [fault]})
    return await _native(
        emulator,
        client,
        "grace",
        "Dataverse is unavailable; the request waits",
        "Dataverse outage: request waits",
        "succeeded",
    )
