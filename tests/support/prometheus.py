"""Runs the Prometheus of the distribution beside the tests, and queries it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow_worker.demo.processes import free_port
from tests.support.processes import CHECKOUT
from tests.support.system import WAIT

DEPLOY = CHECKOUT / "deploy"
_INTERVAL = "15s"
_EXAMPLE_TARGET = "localhost:8080"


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`, or skip the test."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; the Debian package 'prometheus' has it")
    return found


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    _client: httpx.AsyncClient

    @property
    def url(self) -> str:
        """The URL of its API and pages."""
        return str(self._client.base_url)

    async def get(self, path: str, **parameters: str) -> Any:
        """Return the `data` of an answer of its API. Fails with the reason that the API gives."""
        answer = (await self._client.get(f"/api/v1/{path}", params=parameters)).json()
        assert answer["status"] == "success", (path, parameters, answer)
        return answer["data"]

    async def samples(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each sample that the expression has now."""
        found = (await self.get("query", query=expression))["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    async def scraped_again(self) -> None:
        """Wait until a scrape has begun that sees what happened before this call."""
        seen = await self._last_scrape()
        async with asyncio.timeout(WAIT):
            while await self._last_scrape() < seen + 2:  # noqa: ASYNC110 - no event announces it
                await asyncio.sleep(0.1)

    async def _last_scrape(self) -> float:
        found = await self.samples('timestamp(up{job="flow-worker"} == 1)')
        return found[0][1] if found else 0.0


@asynccontextmanager
async def running_prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """Run Prometheus with the shipped configuration and alerts; it scrapes `target` each second."""
    shipped = DEPLOY / "prometheus"
    configuration = (shipped / "prometheus.yml").read_text(encoding="utf-8")
    assert _INTERVAL in configuration
    assert _EXAMPLE_TARGET in configuration
    changed = configuration.replace(_INTERVAL, "1s").replace(_EXAMPLE_TARGET, target)
    (folder / "prometheus.yml").write_text(changed, encoding="utf-8")
    shutil.copy(shipped / "alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program("prometheus"),
            *(f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
            f"--web.listen-address={address}",
            stdout=log,
            stderr=log,
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://{address}") as client:
                await _wait_until_ready(client)
                yield Prometheus(client)
        finally:
            process.terminate()
            await process.wait()


async def _wait_until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(WAIT):
        while True:
            try:
                if (await client.get("/-/ready")).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.1)
