"""Runs a gateway in the test's process, beside the system of an emulator and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from flow_worker.gateway.app import Gateway, assembled
from flow_worker.settings import Settings
from flow_worker.settings.gateway_process import GatewayProcess
from servicebus_emulator import config
from tests.support.system import JsonObject, System, configured, until, worker_settings

REQUESTS, REPLIES = "flow-requests-gateway", "flow-replies-gateway"
QUEUES: Mapping[str, JsonObject] = {
    REQUESTS: {"RequiresDuplicateDetection": True, "LockDuration": "PT5M", "MaxDeliveryCount": 10},
    REPLIES: {"RequiresDuplicateDetection": True, "LockDuration": "PT5S"},
}


def gateway_queues() -> config.Config:
    """Return the emulator's configuration with the queues of the gateway."""
    return configured(QUEUES)


def worker_of_gateway(system: System, **changes: Any) -> Settings:
    """Return the settings of a worker that takes requests of a gateway, too."""
    queues = [
        {"name": "flow-requests", "lanes": 2},
        {"name": REQUESTS, "lanes": 2, "authority": "gateway", "reply_to": REPLIES},
    ]
    return system.settings(request_queues=queues, statements=_statements(system), **changes)


def gateway_settings(system: System, **changes: Any) -> GatewayProcess:
    """Return the settings of a gateway with short waits. `changes` replace settings of the group `gateway`."""
    return GatewayProcess.model_validate(gateway_document(system, **changes))


def gateway_document(system: System, **changes: Any) -> JsonObject:
    """Return the same as plain data, which another process can validate."""
    document = worker_settings(system.emulator, system.flows)
    names = ("servicebus", "claims", "plain_http_hosts")
    gateway = {
        "port": 0,
        "health_port": 0,
        "store": {"path": str(system.folder / "gateway.sqlite3")},
    }
    flows = {
        name: {key: value for key, value in flow.items() if key != "url"} for name, flow in document["flows"].items()
    }
    return (
        {name: document[name] for name in names}
        | {"flows": flows, "statements": _statements(system), "gateway": gateway | changes}
        | {"shutdown_grace_seconds": 5}
    )


def _statements(system: System) -> JsonObject:
    return {"key_path": str(system.folder / "gateway-key.pem")}


@asynccontextmanager
async def running_gateway(settings: GatewayProcess) -> AsyncIterator[Gateway]:
    """Run a gateway until the block ends: ready at the start, drained at the end."""
    async with assembled(settings) as gateway:
        task = asyncio.create_task(gateway.supervisor.run(), name="gateway")
        try:
            await until(lambda: bool(gateway.supervisor.health.report()["ready"]))
            yield gateway
        finally:
            gateway.supervisor.stop()
            await task
