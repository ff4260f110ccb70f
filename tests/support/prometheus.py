"""Runs the Prometheus of the distribution beside the tests, and queries it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
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
_SECONDS = 1.0
"""The interval in tests. A histogram's rate needs a scrape before its first event, and one after it."""
_EXAMPLE_TARGETS = {"flow-worker": "localhost:8080", "flow-worker-gateway": "localhost:8082"}


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`, or skip the test."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; the Debian package 'prometheus' has it")
    return found


@dataclass(slots=True)
class Prometheus:
    """A running Prometheus."""

    _client: httpx.AsyncClient
    _folder: Path
    _seen_at: float | None = None

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
        """Return the labels and the value of each sample that the expression has now, or had after `scraped_again`.

        On a busy machine a later scrape may time out, and then its target has no samples for a moment.
        """
        moment = {} if self._seen_at is None else {"time": str(self._seen_at)}
        found = (await self.get("query", query=expression, **moment))["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    async def scrape(self, targets: Mapping[str, str]) -> None:
        """Scrape the target of each job from now on."""
        _configure(self._folder, targets)
        assert (await self._client.post("/-/reload")).status_code == httpx.codes.OK

    async def scraped_again(self) -> None:
        """Wait until a scrape has begun that sees what happened before this call."""
        seen = min(await self._scrapes(), default=0.0)
        async with asyncio.timeout(WAIT):
            while min(scrapes := await self._scrapes(), default=0.0) < seen + 2 * _SECONDS:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.1)
        self._seen_at = max(scrapes)

    async def _scrapes(self) -> list[float]:
        """Return the times of the last scrapes; nothing unless every target answered its last one."""
        found = [at for _, at in await self.samples("timestamp(up == 1)")]
        return found if len(found) == len(_EXAMPLE_TARGETS) else []


def _configure(folder: Path, targets: Mapping[str, str]) -> None:
    """Write the shipped configuration with these targets of its jobs, and a short interval."""
    changed = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    assert set(targets) == set(_EXAMPLE_TARGETS)
    for job, example in _EXAMPLE_TARGETS.items():
        assert f"job_name: {job}\n" in changed
        assert example in changed
        changed = changed.replace(example, targets[job])
    assert _INTERVAL in changed
    (folder / "prometheus.yml").write_text(changed.replace(_INTERVAL, f"{_SECONDS * 1000:g}ms"), encoding="utf-8")


@asynccontextmanager
async def running_prometheus(folder: Path) -> AsyncIterator[Prometheus]:
    """Run Prometheus with the shipped configuration and alerts. It scrapes nothing until `scrape` names the targets."""
    _configure(folder, dict.fromkeys(_EXAMPLE_TARGETS, "127.0.0.1:1"))
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program("prometheus"),
            *(f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
            *(f"--web.listen-address={address}", "--web.enable-lifecycle"),
            stdout=log,
            stderr=log,
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://{address}") as client:
                await _wait_until_ready(client)
                yield Prometheus(client, folder)
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
