"""An emulator, a worker and a gateway in the test's event loop, for programs that use the gateway."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from flow_worker.gateway.app import Gateway
from servicebus_emulator import config
from tests.support.gateway import gateway_queues, gateway_settings, running_gateway, worker_of_gateway
from tests.support.system import JsonObject, System, running_system, worker_settings

PLUGIN = str(config.load(None).http.identity.managed_identity.object_id)
"""The identity of the plug-ins, which may act for users."""


@dataclass(frozen=True)
class Stage:
    """The running system, with a gateway."""

    system: System
    gateway: Gateway

    @property
    def url(self) -> str:
        """The gateway's URL."""
        return self.gateway.url

    def client(self, token: str) -> httpx.AsyncClient:
        """Return an HTTP client of a caller."""
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)


@asynccontextmanager
async def running_stage(flows: Mapping[str, JsonObject], *origins: str) -> AsyncIterator[Stage]:
    """Run everything until the block ends. Pages of the emulator and of these origins may call the gateway."""
    async with AsyncExitStack() as stack:
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        system = await stack.enter_async_context(running_system(monkeypatch, gateway_queues()))
        system.flows = dict(flows)
        claims = worker_settings(system.emulator, system.flows)["claims"] | {"asserters": [PLUGIN]}
        dataverse = {"url": system.emulator.web.dataverse_url}
        await stack.enter_async_context(system.worker(worker_of_gateway(system, claims=claims, dataverse=dataverse)))
        settings = gateway_settings(system, allowed_origins=[system.emulator.web.url, *origins])
        changes = {
            "claims": settings.claims.model_copy(update={"asserters": (PLUGIN,)}),
            "dataverse": settings.dataverse.model_copy(update=dataverse),
            "gateway": settings.gateway.model_copy(update={"check_privileges": True}),
        }
        gateway = await stack.enter_async_context(running_gateway(settings.model_copy(update=changes)))
        yield Stage(system, gateway)


@dataclass(frozen=True)
class Ended:
    """A program that ended."""

    status: int
    output: str
    errors: str


async def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    seconds: float = 60,
) -> Ended:
    """Run a program beside the event loop, in which its gateway runs."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env=os.environ | dict(environment or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            output, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ended(process.returncode, output.decode(), errors.decode())
