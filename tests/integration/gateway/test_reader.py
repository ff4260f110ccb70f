"""Results and states from a real reply queue reach the store and the callers that wait, whichever replica gets them."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flow_contracts.gateway_replies import UNPROVEN_PROPERTY, RequestProgress
from flow_contracts.message import Message
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import ConnectionString, Deadlines, ServiceBus
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.changes import ChangeFeed
from flow_worker.gateway.reader import ReplyReader
from flow_worker.gateway.store import PrincipalId, PutResult, RequestRecord, Retention, Standing, StoredResult
from flow_worker.gateway.store.sqlite import SqliteGatewayStore
from flow_worker.gateway.unknown_results import UnknownResults
from flow_worker.gateway.waiters import Waiters
from flow_worker.journal.sqlite_file import SqliteLimits
from flow_worker.runtime.supervisor import Service
from flow_worker.telemetry.health import LaneHealth
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from tests.support.emulator import Bus, emulator
from tests.support.system import until

pytestmark = pytest.mark.timeout(180)

QUEUE = "flow-replies-gateway"
NOW = datetime.now(UTC)
DEADLINES = Deadlines(receive_wait_seconds=0.3)
LOCK_SECONDS = 2.0


class Store(SqliteGatewayStore):
    """A store that can be unavailable."""

    is_down = False
    puts = 0

    async def put_result(
        self, request_id: str, result: StoredResult, *, standing: Standing = Standing.FIRST
    ) -> PutResult:
        self.puts += 1
        if self.is_down:
            raise TemporarilyUnavailable("unavailable", "the store is down for the test")
        return await super().put_result(request_id, result, standing=standing)


@dataclass
class Replica:
    """One gateway process' part below HTTP."""

    store: Store
    waiters: Waiters
    health: LaneHealth
    readers: list[ReplyReader] = field(default_factory=list)

    async def result(self, request_id: str, seconds: float = 10) -> bytes:
        """Wait for a result as a long poll does."""
        async with asyncio.timeout(seconds), self.waiters.watch(request_id) as watch:
            while True:
                stored = await self.store.get(request_id)
                assert stored is not None
                if stored.result is not None:
                    return stored.result.body
                await watch.changed(seconds)


@dataclass
class World:
    """A broker with a reply queue, and replicas that share a store."""

    bus: Bus
    client: ServiceBus
    path: Path

    @asynccontextmanager
    async def replica(self, *, readers: int = 1, lost_bus: str | None = None) -> AsyncIterator[Replica]:
        limits = SqliteLimits(busy_seconds=5, max_log_bytes=16 << 20, reserve_bytes=0)
        store = await Store.open(self.path, limits, Retention(timedelta(days=1)), setting="gateway.store.path")
        replica = Replica(store, Waiters(max_count=100), LaneHealth(QUEUE))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.aclose)
            connection = ConnectionString(lost_bus or self.bus.connection_string)
            bus = await stack.enter_async_context(ServiceBus(connection, deadlines=DEADLINES))
            feed = ChangeFeed(store, replica.waiters)
            replica.readers = [
                ReplyReader(
                    f"{QUEUE}#{number}",
                    QUEUE,
                    bus=bus,
                    store=store,
                    waiters=replica.waiters,
                    health=replica.health,
                    reconnect_max_seconds=1,
                )
                for number in range(readers)
            ]
            services: list[Service] = [feed, *replica.readers]
            tasks = [asyncio.create_task(service.run()) for service in services]
            try:
                yield replica
            finally:
                for service in services:
                    service.stop()
                for reader in replica.readers:
                    reader.interrupt()
                await asyncio.gather(*tasks)

    def depth(self, state: str = "active") -> int:
        return self.bus.broker.counts()[QUEUE][state]

    async def send(self, *messages: Message) -> None:
        for message in messages:
            await self.client.send(QUEUE, message)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    queue = QueueSettings(QUEUE, lock_seconds=LOCK_SECONDS, max_message_bytes=4 << 20)
    async with emulator(queue) as bus, ServiceBus(ConnectionString(bus.connection_string)) as client:
        yield World(bus, client, tmp_path / "gateway.sqlite3")


def record(request_id: str) -> RequestRecord:
    return RequestRecord(request_id, PrincipalId("tenant", "ada"), None, "create-quote", "digest", NOW)


def result(request_id: str, output: object = None, **changes: object) -> FlowResult:
    values = {"status": Status.SUCCEEDED, "output": output, "correlation_id": request_id}
    return FlowResult.model_validate({"request_message_id": request_id} | values | changes)


def message(answer: FlowResult) -> Message:
    return answer.to_message(answer.correlation_id, timedelta(hours=1))


async def test_a_result_wakes_the_callers_of_every_replica_within_a_second(world: World) -> None:
    async with world.replica() as one, world.replica() as other:
        for number in range(10):
            request_id = f"request-{number}"
            await one.store.add(record(request_id))
            waiting = [asyncio.create_task(replica.result(request_id)) for replica in (one, other)]
            await until(lambda: one.waiters.count == other.waiters.count == 1)
            await world.send(message(result(request_id, number)))
            async with asyncio.timeout(1):
                bodies = await asyncio.gather(*waiting)
            assert [json.loads(body)["output"] for body in bodies] == [number, number]
        await until(lambda: world.depth() == 0)


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
@pytest.mark.parametrize("point", ["before", "after"])
async def test_a_killed_replica_holds_up_a_result_for_no_longer_than_its_lock(world: World, point: str) -> None:
    async with AsyncExitStack() as stack:
        survivor = await stack.enter_async_context(world.replica(readers=0))
        await survivor.store.add(record("request"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.reply_reader_process"),
            *(world.bus.connection_string, QUEUE, str(world.path), point),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await world.send(message(result("request", "once")))
            assert process.stdout is not None
            assert await process.stdout.readline() == b"holding\n"
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        if point == "after":  # readable although its replica died
            assert json.loads(await survivor.result("request", 1))["output"] == "once"
        reading = await stack.enter_async_context(world.replica())
        assert json.loads(await reading.result("request", LOCK_SECONDS + 8))["output"] == "once"
        await until(lambda: world.depth() == 0)
        assert reading.store.puts == 1


async def test_messages_wait_in_the_queue_while_the_store_is_away(world: World) -> None:
    """For longer than their locks, and without a delivery more: ten deliveries would end in the dead-letter queue."""
    async with world.replica() as replica:
        await replica.store.add(record("request"))
        replica.store.is_down = True
        await world.send(message(result("request", "late")))
        await until(lambda: replica.store.puts > 2)
        await asyncio.sleep(1.5 * LOCK_SECONDS)
        assert world.depth() == 1
        replica.store.is_down = False
        assert json.loads(await replica.result("request"))["output"] == "late"
        await until(lambda: world.depth() == 0)
    assert world.depth("dead_lettered") == 0


async def test_a_replica_that_stops_without_its_store_leaves_the_message_to_another(world: World) -> None:
    async with world.replica() as stopping:
        await stopping.store.add(record("request"))
        stopping.store.is_down = True
        await world.send(message(result("request", 1)))
        await until(lambda: stopping.store.puts > 0)
    async with world.replica() as other:
        async with asyncio.timeout(LOCK_SECONDS):  # abandoned, not left to its lock
            assert json.loads(await other.result("request"))["output"] == 1


async def test_each_message_of_the_queue_ends_where_it_belongs(world: World, caplog: pytest.LogCaptureFixture) -> None:
    first = message(result("plain", "first"))
    state = RequestProgress(request="plain", state="waiting", at=NOW + timedelta(hours=1), code="flow_throttled")
    broken = Message(body=b"{", application_properties={"contract": "flow-result/1"})
    later = Message(body=first.body, application_properties={"contract": "flow-result/2"})
    broken_state = Message(body=b"[]", application_properties={"fw-kind": "state"})
    unproven = message(result("forged", "forged")).with_property(UNPROVEN_PROPERTY, True)
    huge = message(result("huge", "x" * 3_000_000))
    async with world.replica(readers=2) as replica:
        for request_id in ("plain", "replayed", "forged", "huge", "waiting"):
            await replica.store.add(record(request_id))
        await world.send(
            unproven,
            first,
            message(result("plain", "second")),  # not a duplicate for the broker: the queue has no detection here
            state.to_message(),  # after its result
            RequestProgress(request="waiting", state="waiting", at=NOW + timedelta(hours=2)).to_message(),
            RequestProgress(request="waiting", state="calling", at=NOW + timedelta(hours=1)).to_message(),
            RequestProgress(request="nobody", state="calling", at=NOW).to_message(),
            message(result("nobody", "lost")),
            *(broken, later, broken_state, Message(body=b"\xff")),
            message(result("replayed", "dead")),
            huge,
        )
        await until(lambda: world.depth() == 0)
        newest = result("replay-id", "newest", correlation_id="replayed", replay_of="replayed")
        await world.send(message(newest), message(result("forged", "genuine")))
        await until(lambda: world.depth() == 0)
        await world.send(message(result("replayed", "dead")), unproven)  # redelivered late
        await until(lambda: world.depth() == 0)
        outputs = {
            request_id: json.loads(await replica.result(request_id))["output"]
            for request_id in ("plain", "replayed", "forged", "huge")
        }
        assert outputs == {"plain": "first", "replayed": "newest", "forged": "genuine", "huge": "x" * 3_000_000}
        waiting = await replica.store.get("waiting")
        assert waiting is not None
        assert waiting.state.state == "waiting"
        assert await replica.store.get("nobody") is None
    assert world.depth("dead_lettered") == 5
    events = [getattr(each, "event", "") for each in caplog.records]
    assert events.count("gateway.result_unknown") == 1
    assert events.count("gateway.reply_unreadable") == 4


async def test_a_dead_lettered_result_comes_back_once_the_store_has_its_request(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Gateways with different stores shared the queue, or the store was lost; then it was mended."""
    caplog.set_level(logging.INFO, "flow_worker")
    async with world.replica() as replica:
        await world.send(*(message(result(request_id, request_id)) for request_id in ("lost", "other", "gone")))
        await world.send(Message(body=b"\xff"))  # a dead letter with another reason stays, too
        await until(lambda: world.depth("dead_lettered") == 4)
        unknown = UnknownResults(QUEUE, bus=world.client, store=replica.store, waiters=replica.waiters)
        await unknown.recover()
        assert world.depth("dead_lettered") == 4
        for request_id in ("lost", "gone"):
            await replica.store.add(record(request_id))
        await replica.store.put_result("gone", StoredResult(b"{}", NOW))  # somebody was faster
        waiting = asyncio.create_task(replica.result("lost"))
        await unknown.recover()
        assert json.loads(await waiting)["output"] == "lost"
        assert await replica.result("gone") == b"{}"
        assert world.depth("dead_lettered") == 2
        await unknown.recover()
        assert world.depth("dead_lettered") == 2
    events = [each for each in caplog.records if getattr(each, "event", "") == "gateway.results_recovered"]
    assert len(events) == 1


async def test_a_lost_connection_is_reported_and_rebuilt(world: World) -> None:
    async with world.replica() as replica:
        await until(lambda: replica.health.is_connected)
        port = world.bus.port
        await world.bus.server.stop()
        await until(lambda: not replica.health.is_connected)
        await world.bus.server.start("127.0.0.1", port)
        await until(lambda: replica.health.is_connected)
        await replica.store.add(record("request"))
        await until_sent(world, message(result("request", 1)))
        assert json.loads(await replica.result("request"))["output"] == 1


async def until_sent(world: World, what: Message) -> None:
    async with ServiceBus(ConnectionString(world.bus.connection_string)) as bus:
        await bus.send(QUEUE, what)
