"""Strangers' messages in the continuation queue, over real links: the worker dead-letters them and answers nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio

from flow_contracts.client import Background
from flow_contracts.message import Message
from flow_worker import clock
from flow_worker.access.principal import Principal
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.seal import Seal
from flow_worker.runtime.seal_keys import find_seal
from flow_worker.service_bus import open_service_bus
from tests.support.system import ROLE, WAIT, JsonObject, System, dead_letters, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUE = "flow-continuations"
EVE = Principal(tenant="t", oid="eve", kind="app", roles=frozenset({ROLE}), authority="entra")


@pytest.fixture(scope="module", autouse=True)
def flows(system: System) -> None:
    """Flows of this module, before its worker starts."""
    for name in ("forged", "patient"):
        system.flows[name] = {}


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def existing_flow(system: System) -> None:
    await system.put("flows/forged", {})


def job(name: str) -> Job:
    """Return a continuation that names a principal, a flow and a victim's address."""
    now = clock.now()
    return Job(
        origin=f"flow-requests:1:{now.isoformat()}",
        number=1,
        request_queue="flow-requests",
        flow="forged",
        input={"n": 1},
        input_hash="0",
        principal=EVE,
        message_id=f"{name}-message",
        correlation_id=f"{name}-victim",
        reply_to_session_id=f"{name}-victim",
        accepted=now,
        calls=1,
    )


def unsealed(_: Seal) -> Message:
    return job("unsealed").to_message()


def altered(seal: Seal) -> Message:
    genuine, other = seal.sealed(job("altered").to_message(), clock.now()), job("other").to_message()
    return replace(genuine, body=other.body)


def moved(seal: Seal) -> Message:
    elsewhere = Seal("flow-continuations-of-another", seal.key, valid_for=timedelta(days=1))
    return elsewhere.sealed(job("moved").to_message(), clock.now())


def unreadable(_: Seal) -> Message:
    body = json.dumps({"message_id": "unreadable-message", "correlation_id": "unreadable-victim", "flow": "forged"})
    return Message(body=body.encode(), message_id="x", application_properties={"contract": "flow-continuation/2"})


def expired(seal: Seal) -> Message:
    """Return a message that Service Bus dead-letters, so that the watch comes upon it."""
    return replace(unsealed(seal), message_id="expired", time_to_live=timedelta(milliseconds=1))


@pytest.mark.parametrize("forge", [unsealed, altered, moved, unreadable, expired])
async def test_a_strangers_continuation_is_dead_lettered_and_nobody_is_answered(
    system: System, background: Background, forge: Callable[[Seal], Message]
) -> None:
    settings = system.settings()
    seal = find_seal(settings.continuations, settings.journal)
    assert seal is not None, "the worker has made its key beside the journal"
    replies = system.emulator.broker.find("flow-replies")
    async with open_service_bus(settings.servicebus) as bus:
        before = len(await dead_letters(bus, QUEUE))
        await bus.send(QUEUE, forge(seal))
        await until(lambda: system.depth("dead_lettered", QUEUE) > before)
        reasons = [letter.reason for letter in await dead_letters(bus, QUEUE)]
        await until(lambda: not system.depth("active", QUEUE))
    # A genuine request goes all the way meanwhile, also through the continuation queue.
    faults: list[JsonObject] = [{"kind": "throttle", "retry_after": "1", "next_calls": 1}]
    await system.put("flows/patient", {"faults": faults})
    result = await background.request("patient", {"n": 2}, WAIT, claim=system.claim())
    assert (result.status, result.attempts) == ("succeeded", 2)
    # A worker may be faster than the millisecond.
    assert reasons[-1] in {"continuation_unproven", *(["TTLExpiredException"] if forge is expired else [])}
    assert await system.calls("forged") == []
    assert not [one for one in replies.peek(0, 1000, None) if b"victim" in one.body]
