"""What the demo's senders ask, and what must come back."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import JsonValue, SecretStr

from flow_contracts.client import FlowClient, ResultTimeout
from flow_contracts.message import Message
from flow_contracts.request import CONTRACT
from flow_contracts.result import FlowResult
from flow_worker.demo.environment import ROLE, EmulatorClient, FlowActivity

WAIT_SECONDS = 60.0

_QUOTE: JsonValue = {"customer": "Contoso", "amount": 1250}
_WRONG: JsonValue = {"customer": "Contoso", "amount": -1}


@dataclass(frozen=True, slots=True)
class Scene:
    """One request: who asks what, and the status and error code it must end with after so many calls of the flow."""

    title: str
    flow: str
    input: JsonValue
    claim: SecretStr | None
    status: str
    code: str | None = None
    calls: int = 1
    polls: int = 0
    """Of a run's status URL."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one request, or a burst of them, ended. `ok` tells whether it ended as it should."""

    correlation_id: str
    asked: str
    came_back: str
    detail: str
    seconds: float
    ok: bool
    result: FlowResult | None = None
    seen: FlowActivity | None = None
    """What the flow saw of it; None: nobody looked."""


def scenes(emulator: EmulatorClient) -> list[Scene]:
    """The single requests."""
    ada = _claim(emulator, "ada", ROLE)
    return [*_answers(ada), *_refusals(emulator, ada), *_troubles(ada)]


def _answers(ada: SecretStr) -> list[Scene]:
    return [
        Scene("a front end asks for a quote", "create-quote", _QUOTE, ada, "succeeded"),
        Scene("a flow without a response", "notify-team", {"text": "hello"}, ada, "succeeded"),
        Scene("a flow that takes its time", "slow-report", {"month": "2026-11"}, ada, "succeeded"),
        Scene("a flow that answers by status URL", "long-approval", {"id": 7}, ada, "succeeded", polls=3),
    ]


def _refusals(emulator: EmulatorClient, ada: SecretStr) -> list[Scene]:
    def refused(title: str, flow: str, value: JsonValue, claim: SecretStr | None, code: str) -> Scene:
        return Scene(title, flow, value, claim, "refused", code, calls=0)

    forged = SecretStr(emulator.mint("mallory", ROLE, forged=True))
    return [
        refused("a sender without the role", "create-quote", _QUOTE, _claim(emulator, "bob"), "role_missing"),
        refused("a sender without a claim", "create-quote", _QUOTE, None, "claim_missing"),
        refused("a forged claim", "create-quote", _QUOTE, forged, "claim_invalid"),
        refused("a flow nobody registered", "delete-everything", None, ada, "unknown_flow"),
        refused("input the worker's schema refuses", "create-quote", _WRONG, ada, "input_schema_mismatch"),
    ]


def _troubles(ada: SecretStr) -> list[Scene]:
    unchecked = "create-quote-unchecked"
    return [
        Scene("input the flow's schema refuses", unchecked, _WRONG, ada, "failed", "TriggerInputSchemaMismatch"),
        Scene("a flow that breaks down", "broken-approval", {"id": 7}, ada, "unknown", "NoResponse"),
        Scene("a throttled flow, called again", "throttled-sync", {"id": 7}, ada, "succeeded", calls=3),
        Scene("an answer lost, not to be called twice", "charge-card", {"id": 7}, ada, "unknown", "flow_no_answer"),
        Scene("an answer lost, called again", "rebuild-index", {"id": 7}, ada, "succeeded", calls=2),
    ]


async def play_scene(emulator: EmulatorClient, client: FlowClient, scene: Scene, correlation_id: str) -> Ended:
    """Send the scene's request and wait for its result."""
    began = time.perf_counter()
    await client.submit(scene.flow, scene.input, claim=scene.claim, correlation_id=correlation_id)
    return await awaited(emulator, client, scene, correlation_id, began)


async def awaited(
    emulator: EmulatorClient, client: FlowClient, scene: Scene, correlation_id: str, began: float
) -> Ended:
    """Wait for the scene's result, which stays where it is, and judge it by what the flow has seen.

    `began` is when the scene did, by `time.perf_counter`.
    """
    asked = f"{scene.title}: {scene.flow}"
    try:
        result = await client.wait(correlation_id, timeout=WAIT_SECONDS)
    except ResultTimeout as error:
        return Ended(correlation_id, asked, "no result", str(error), time.perf_counter() - began, ok=False)
    seconds = time.perf_counter() - began
    code = result.error.code if result.error else None
    seen = await asyncio.to_thread(emulator.activity, scene.flow, correlation_id)
    ok = (result.status, code, seen.calls, seen.polls) == (scene.status, scene.code, scene.calls, scene.polls)
    came_back = result.status if code is None else f"{result.status}: {code}"
    return Ended(correlation_id, asked, came_back, _detail(result), seconds, ok, result, seen)


async def play_burst(client: FlowClient, claim: SecretStr, count: int, name: str, step: Callable[[], None]) -> Ended:
    """Send `count` requests at once from a background integration; one reply session takes all results."""
    began = time.perf_counter()
    async with client.background() as background:

        async def one(number: int) -> bool:
            value: JsonValue = {"customer": f"Customer {number}", "amount": number}
            correlation_id = await background.submit(
                "create-quote", value, claim=claim, correlation_id=f"{name}-b{number}"
            )
            result = await background.wait(correlation_id, timeout=WAIT_SECONDS + count / 10)
            step()
            return result.status == "succeeded" and result.correlation_id == correlation_id

        ended = await asyncio.gather(*(one(number) for number in range(1, count + 1)))
    seconds = time.perf_counter() - began
    succeeded = sum(ended)
    return Ended(
        f"{name}-b…",
        f"a burst of {count}: create-quote",
        f"{succeeded} of {count} succeeded",
        f"{count / seconds:.0f} requests/s",
        seconds,
        succeeded == count,
    )


def unanswerable() -> Message:
    """A request that names no usable place for its result: only the dead-letter queue can take it."""
    return Message(
        body=b'{"flow": "create-quote"}',
        content_type="application/json",
        message_id=str(uuid.uuid4()),
        correlation_id="x" * 200,
        application_properties={"contract": CONTRACT},
    )


def _claim(emulator: EmulatorClient, user: str, *roles: str) -> SecretStr:
    return SecretStr(emulator.mint(user, *roles))


def _detail(result: FlowResult) -> str:
    if result.error:
        return result.error.message
    if result.output is not None:
        return json.dumps(result.output, ensure_ascii=False)
    return f"HTTP {result.http_status}, no output"
