"""Runs an emulator and a worker in the test's process and event loop, with real sockets between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from flow_contracts.client import FlowClient
from flow_contracts.servicebus import DeadLetteredMessage, ServiceBus
from flow_worker.app import assembled
from flow_worker.runtime.supervisor import Supervisor
from flow_worker.settings import Settings
from servicebus_emulator import config
from servicebus_emulator.cloud.entra.issuer import TokenRequest
from servicebus_emulator.host import Emulator, Endpoints, running_emulator

ROLE = "Quotes.Create"
WAIT = 45.0
SEAL_KEY = "the key of the workers of the tests"
"""For workers with a table journal; one with an SQLite journal makes its own."""

JsonObject = dict[str, Any]  # a document of the emulator's control endpoints, whose fields the tests choose


@dataclass
class System:
    """A running emulator; starts workers and senders that use it."""

    emulator: Emulator
    folder: Path
    """Holds the worker's journal, so that a second worker can continue it."""
    flows: dict[str, JsonObject] = field(default_factory=dict)
    """The flows in the worker's settings by name, each with its changes to the default settings of a flow."""

    def claim(self, *roles: str, user: str = "ada", **changes: object) -> str:
        """Return a token for the worker's audience, with the role that may start the flows unless `roles` are given."""
        token = {"user": user, "roles": list(roles) or [ROLE]} | changes
        return self.emulator.web.tokens.mint(TokenRequest.model_validate(token))

    def depth(self, state: str, queue: str = "flow-requests") -> int:
        """Return the number of messages in a state: `active`, `deferred`, `scheduled` or `dead_lettered`."""
        return self.emulator.broker.counts()[queue][state]

    async def put(self, path: str, change: JsonObject) -> None:
        """Change a flow (`flows/NAME`), the `identity` endpoint or the `issuer` while they run."""
        async with httpx.AsyncClient() as client:
            response = await client.put(f"{self.emulator.web.url}/emulator/{path}", json=change)
            response.raise_for_status()

    async def calls(self, flow: str) -> list[JsonObject]:
        """Return the calls that a flow has received."""
        return self.emulator.web.flows.calls(flow)

    def settings(self, **changes: object) -> Settings:
        """Return settings for this emulator with short waits. `changes` replace top-level TOML values."""
        journal = {"path": str(self.folder / "journal.sqlite3")}
        return Settings.model_validate(worker_settings(self.emulator, self.flows) | {"journal": journal} | changes)

    @asynccontextmanager
    async def worker(self, settings: Settings | None = None) -> AsyncIterator[Supervisor]:
        """Run a worker until the block ends: ready at the start, drained at the end."""
        async with assembled(settings or self.settings()) as supervisor:
            task = asyncio.create_task(supervisor.run(), name="worker")
            try:
                await until(lambda: bool(supervisor.health.report()["ready"]))
                yield supervisor
            finally:
                supervisor.stop()
                await task

    def client(self) -> FlowClient:
        """Return a sender's client."""
        return FlowClient.from_connection_string(self.emulator.connection_string)


def worker_settings(emulator: Emulator, flows: JsonObject) -> JsonObject:
    """Return a worker's settings for this emulator in the form of its TOML file.

    The waits are short, so that a test sees an outage, a retry or a stop within a second or two.
    """
    web = emulator.web
    flow: JsonObject = {"role": ROLE, "timeout_seconds": 20}
    return {
        "servicebus": {
            "connection_string": emulator.connection_string,
            "receive_wait_seconds": 0.5,
            "send_seconds": 5,
            "settle_seconds": 5,
            "renew_seconds": 5,
            "open_seconds": 10,
            "probe_interval_seconds": 2,
            "reconnect_max_seconds": 1,
        },
        "request_queues": [{"name": "flow-requests", "lanes": 2}],
        "continuations": {"lanes": 1},
        "claims": {"authority": web.url, "tenants": [str(web.tenant_id)], "audiences": [web.audience]},
        "flows": {name: flow | {"url": web.flow_url(name)} | more for name, more in flows.items()},
        "retry": {"base_seconds": 0.2, "max_pause_seconds": 1, "poll_seconds": 0.2},
        "dead_letters": {"interval_seconds": 0.3},
        "plain_http_hosts": [web.url.split("/")[2]],
        "health": {"port": 0},
        "shutdown_grace_seconds": 10,
    }


async def until(condition: Callable[..., bool], seconds: float = WAIT) -> None:
    """Poll a condition without arguments until it holds. Raise `TimeoutError` after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event announces the condition
            await asyncio.sleep(0.02)


def short_lock(seconds: int) -> config.Config:
    """Return the default configuration with a short lock on the queues that the worker receives from."""
    return configured(
        {"flow-requests": {"LockDuration": f"PT{seconds}S"}, "flow-continuations": {"LockDuration": f"PT{seconds}S"}}
    )


def configured(changes: Mapping[str, JsonObject]) -> config.Config:
    """Return the default configuration with changed queue properties, or with further queues."""
    document = json.loads(config.DEFAULT.read_text(encoding="utf-8"))
    queues = {queue["Name"]: queue for queue in document["UserConfig"]["Namespaces"][0]["Queues"]}
    for name, properties in changes.items():
        queues.setdefault(name, {"Name": name, "Properties": {}})["Properties"] |= properties
    document["UserConfig"]["Namespaces"][0]["Queues"] = list(queues.values())
    return config.parse(json.dumps(document))


@asynccontextmanager
async def running_system(
    monkeypatch: pytest.MonkeyPatch, configuration: config.Config | None = None, port: int = 0
) -> AsyncIterator[System]:
    """Run an emulator on free ports; the environment variables direct azure-identity to it."""
    with TemporaryDirectory(prefix="flow-worker-system-") as folder:
        async with running_emulator(configuration or config.load(None), Endpoints("127.0.0.1", port, 0)) as emulator:
            yield system_of(emulator, Path(folder), monkeypatch)


async def dead_letters(bus: ServiceBus, queue: str) -> list[DeadLetteredMessage]:
    """Return the messages of the queue's dead-letter queue, without removing them."""
    async with bus.dead_letter_queue(queue) as dead:
        return [message async for message in dead.peek()]


def system_of(emulator: Emulator, folder: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """Return the system of a running emulator; the environment variables direct azure-identity to it."""
    for name, value in emulator.web.environment().items():
        monkeypatch.setenv(name, value)
    flows: dict[str, JsonObject] = {
        "create-quote": {},
        "notify-team": {},
        "slow-report": {},
        "broken-approval": {},
        "typed": {},
    }
    return System(emulator, folder, flows)
