"""Messages that azure-servicebus cannot decode are answered or dead-lettered at their first delivery."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio
from pydantic import JsonValue

from flow_contracts.result import FlowResult
from flow_contracts.servicebus import Receiver, ServiceBus
from flow_contracts.servicebus.tolerant_transport import MAX_PAYLOAD_BYTES
from flow_worker.service_bus import open_service_bus
from servicebus_emulator.amqp import Char
from servicebus_emulator.amqp.sections import AMQP_VALUE, DATA
from tests.support.poison import (
    BAD_BODIES,
    BAD_PROPERTIES,
    BAD_TRACES,
    TRACE_PROPERTIES,
    deep,
    forwarded,
    request_payload,
    section,
)
from tests.support.system import WAIT, System, configured, dead_letters, running_system, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SESSION = "results-of-poison"
POISON = 200
QUOTE: JsonValue = {"customer": "Contoso", "amount": 1}


@pytest_asyncio.fixture(loop_scope="module")
async def system(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    premium = configured({"flow-requests": {"MaxMessageSizeInKilobytes": 10_240}})
    async with running_system(monkeypatch, premium) as running:
        yield running


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the receivers that the worker opens, by queue."""
    counts: Counter[str] = Counter()
    open_receiver = ServiceBus.receiver

    def counting(bus: ServiceBus, queue: str) -> AbstractAsyncContextManager[Receiver]:
        counts[queue] += 1
        return open_receiver(bus, queue)

    monkeypatch.setattr(ServiceBus, "receiver", counting)
    return counts


async def test_poison_messages_cost_one_delivery_each_and_no_connection(
    system: System, opened: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each kind of bad body many times, with the good requests of others behind and between them.

    The numbers are those of deliveries and connections. Each message that broke a link took a connection and waited
    for its lock, so 200 of them delayed everyone by half a minute.
    """
    caplog.set_level(logging.WARNING)
    good = json.dumps({"flow": "create-quote", "input": QUOTE, "claim": system.claim()}).encode()
    bad = forwarded(
        request_payload(f"bad-{kind}-{number}", body, reply_session=SESSION)
        for number in range(1 + POISON // 15)
        for kind, body in BAD_BODIES.items()
        if len(body) < 1 << 16
    )
    marred = forwarded(
        request_payload(f"good-{kind}", section(DATA, good), bad_property=value, reply_session=SESSION)
        for kind, value in BAD_PROPERTIES.items()
    )
    traced = [(name, value) for name in TRACE_PROPERTIES for value in BAD_TRACES.values()]
    marred += forwarded(
        request_payload(
            f"good-trace-{number}", section(DATA, good), name=name, bad_property=value, reply_session=SESSION
        )
        for number, (name, value) in enumerate(traced)
    )
    large = forwarded([request_payload("large", section(AMQP_VALUE, "x" * 200_000), reply_session=SESSION)])
    large += forwarded([request_payload("large-2", section(DATA, bytes(MAX_PAYLOAD_BYTES)), reply_session=SESSION)])
    nameless = forwarded(request_payload(name, section(DATA, good)) for name in ([], deep(5), {"a": Char("b")}))
    traced_nameless = forwarded(
        request_payload(["trace", number], section(DATA, good), name=name, bad_property=value)
        for number, (name, value) in enumerate(traced)
    )
    assert len(bad) >= POISON
    assert (len(marred), len(large), len(nameless)) == (len(BAD_PROPERTIES) + len(traced), 2, 3)
    queue = system.emulator.broker.find("flow-requests")
    queue.send([*bad[:100], *marred, *large, *nameless, *traced_nameless, *bad[100:]])

    async with system.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        async with system.worker():
            assert (await client.wait(sent, WAIT)).status == "succeeded"
            results = await _results(system, len(bad) + len(marred) + len(large))
        assert opened == {"flow-requests": 2, "flow-continuations": 1}, "one receiver for each lane"

    codes = {kind: Counter(_code(result) for result in of_kind) for kind, of_kind in results.items()}
    assert codes == {
        "bad": {"malformed_request": len(bad)},
        "good": {"succeeded": len(marred)},
        "large": {"malformed_request": 2},
    }
    assert len(await system.calls("create-quote")) == len(marred) + 1
    async with open_service_bus(system.settings().servicebus) as bus:
        dead = await dead_letters(bus, "flow-requests")
        assert [one.reason for one in dead] == ["message_id_missing"] * len(nameless + traced_nameless)
        async with bus.dead_letter_queue("flow-requests") as queue_of_dead:
            async for delivery in queue_of_dead.take(one.message.sequence_number for one in dead):
                await queue_of_dead.complete(delivery)
        assert await dead_letters(bus, "flow-requests") == []
    logged = Counter(event for record in caplog.records if (event := getattr(record, "event", None)))
    undecodable = len(bad) + len(BAD_PROPERTIES) + len(nameless + traced_nameless) + 1 + len(TRACE_PROPERTIES)
    assert logged["request.undecodable"] == undecodable, "each was delivered once"
    assert not logged.keys() & {"lane.reconnecting", "request.lock_lost", "request.internal_error"}


async def _results(system: System, count: int) -> dict[str, list[FlowResult]]:
    """Return the results in the session, by the first word of the requests' message IDs."""
    results: dict[str, list[FlowResult]] = {}
    await until(lambda: system.depth("active", "flow-replies") >= count)
    async with (
        open_service_bus(system.settings().servicebus) as bus,
        bus.session_receiver("flow-replies", SESSION, prefetch=50) as session,
    ):
        for _ in range(count):
            delivery = await session.receive(5)
            assert delivery is not None
            result = FlowResult.from_message(delivery.message)
            results.setdefault((result.request_message_id or "").split("-")[0], []).append(result)
            await session.complete(delivery)
    return results


def _code(result: FlowResult) -> str:
    return result.error.code if result.error else result.status
