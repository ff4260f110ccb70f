"""The gateway's store under observation: deadlines, readiness, and what the log says of an outage."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store import PrincipalId, RequestRecord, StoredRequest
from flow_worker.gateway.store.observed import ObservedGatewayStore
from flow_worker.telemetry.health import JournalHealth
from tests.support.memory_gateway_store import MemoryGatewayStore
from tests.support.system import until

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
RECORD = RequestRecord("id", PrincipalId("tenant", "ada"), None, "flow", "digest", NOW)


class Hanging(MemoryGatewayStore):
    """A store whose reads hang."""

    async def get(self, request_id: str, *, reader: PrincipalId | None = None) -> StoredRequest | None:
        await asyncio.Event().wait()
        raise AssertionError


async def test_an_operation_without_an_answer_ends_with_its_deadline_and_readiness() -> None:
    health = JournalHealth()
    store = ObservedGatewayStore(Hanging(), health, deadline_seconds=0.05)
    with pytest.raises(TemporarilyUnavailable, match=r"within 0\.05 s") as raised:
        await store.get("id")
    assert raised.value.code == "unavailable"
    assert not health.is_available


async def test_an_outage_is_reported_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    memory, health = MemoryGatewayStore(), JournalHealth()
    store = ObservedGatewayStore(memory, health, deadline_seconds=1)
    probing = asyncio.create_task(store.keep_probing(0.02))
    try:
        memory.is_down = True
        for _ in range(3):
            with pytest.raises(TemporarilyUnavailable):
                await store.add(RECORD)
        assert not health.is_available
        memory.is_down = False
        await until(lambda: health.is_available)
    finally:
        probing.cancel()
        await asyncio.wait([probing])
    events = [getattr(each, "event", "") for each in caplog.records]
    assert [event for event in events if event.startswith("gateway_store")] == [
        "gateway_store.unavailable",
        "gateway_store.available",
    ]


async def test_a_starting_gateway_becomes_ready_with_the_first_check(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    health = JournalHealth()
    health.mark_unavailable("the gateway starts")
    store = ObservedGatewayStore(MemoryGatewayStore(), health, deadline_seconds=1)
    await store.check()
    assert health.is_available
    assert not caplog.records
