"""What the demo's senders ask, and what must come back."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import JsonValue, SecretStr

from contracts.client import FlowClient
from contracts.message import Message
from contracts.request import CONTRACT
from contracts.result import FlowResult
from worker.demo.stage import ROLE, Emulator

WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Scene:
    """One request: who asks what, and the status and error code it must end with."""

    title: str
    flow: str
    input: JsonValue
    claim: SecretStr | None
    status: str
    code: str | None = None
    note: str = ""


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


def scenes(emulator: Emulator) -> list[Scene]:
    """The single requests, in the order they are played."""
    ada = SecretStr(emulator.mint("ada", ROLE))
    quote: JsonValue = {"customer": "Contoso", "amount": 1250}
    wrong: JsonValue = {"customer": "Contoso", "amount": -1}
    return [
        Scene("a front end asks for a quote", "create-quote", quote, ada, "succeeded"),
        Scene("a flow without a response", "notify-team", {"text": "hello"}, ada, "succeeded"),
        Scene("a flow that takes its time", "slow-report", {"month": "2026-11"}, ada, "succeeded"),
        Scene("a sender without the role", "create-quote", quote, _claim(emulator, "bob"), "refused", "role_missing"),
        Scene("a sender without a claim", "create-quote", quote, None, "refused", "claim_missing"),
        Scene("a forged claim", "create-quote", quote, _forged(emulator), "refused", "claim_invalid"),
        Scene("a flow nobody registered", "delete-everything", None, ada, "refused", "unknown_flow"),
        Scene("input the worker's schema refuses", "create-quote", wrong, ada, "refused", "input_schema_mismatch"),
        Scene(
            "input the flow's schema refuses",
            "create-quote-unchecked",
            wrong,
            ada,
            "failed",
            "TriggerInputSchemaMismatch",
        ),
        Scene("a flow that breaks down", "broken-approval", {"id": 7}, ada, "failed", "NoResponse"),
    ]


async def play_scene(client: FlowClient, scene: Scene, correlation_id: str) -> Ended:
    """Send the scene's request and wait for its result."""
    began = time.perf_counter()
    await client.submit(scene.flow, scene.input, claim=scene.claim, correlation_id=correlation_id)
    result = await client.wait(correlation_id, timeout=WAIT_SECONDS)
    seconds = time.perf_counter() - began
    code = result.error.code if result.error else None
    ok = (result.status, code) == (scene.status, scene.code)
    came_back = result.status if code is None else f"{result.status}: {code}"
    return Ended(correlation_id, f"{scene.title}: {scene.flow}", came_back, _detail(result), seconds, ok, result)


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
        f"{name}-b1 … b{count}",
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


def _claim(emulator: Emulator, user: str, *roles: str) -> SecretStr:
    return SecretStr(emulator.mint(user, *roles))


def _forged(emulator: Emulator) -> SecretStr:
    return SecretStr(emulator.mint("mallory", ROLE, forged=True))


def _detail(result: FlowResult) -> str:
    if result.error:
        return result.error.message
    if result.output is not None:
        return str(result.output)
    return f"HTTP {result.http_status}, no output"
