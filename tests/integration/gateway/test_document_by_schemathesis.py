"""schemathesis calls the gateway by its OpenAPI document and against it: no 5xx, and no answer beside the document."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from flow_worker.gateway.app import Gateway
from tests.support.gateway import gateway_queues, gateway_settings, running_gateway, worker_of_gateway
from tests.support.system import System, running_system

FOLDER = Path(__file__).parents[2] / "support" / "schemathesis"
PACKAGES = FOLDER / "site-packages"
OPERATIONS = 5
LIMITS = {
    "max_wait_seconds": 1,  # the document then allows no longer wait, and generated requests do not wait for minutes
    "submissions_per_second": 1_000_000,
    "submission_burst": 1_000_000,
    "reads_per_second": 1_000_000,
    "read_burst": 1_000_000,
    "max_stream_seconds": 1,
}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not PACKAGES.is_dir(), reason="no schemathesis; `.ci/run` installs it, see tests/support/schemathesis"
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with running_system(monkeypatch, gateway_queues()) as running:
            running.flows["create-quote"] = {}
            async with running.worker(worker_of_gateway(running)):
                yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(system: System) -> AsyncIterator[Gateway]:
    async with running_gateway(gateway_settings(system, limits=LIMITS)) as running:
        yield running


async def schemathesis(gateway: Gateway, config: str, token: str, folder: Path, *options: str) -> str:
    """Return the report of a run with all checks. Its seed is fixed, so that a failure comes again."""
    arguments = ["--config-file", str(FOLDER / config), "run", f"{gateway.url}/openapi.json"]
    arguments += ["--header", f"Authorization: Bearer {token}", "--checks", "all", "--seed", "1"]
    arguments += ["--continue-on-failure", "--no-shrink", "--request-timeout", "10", *options]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"},
    )
    output, _ = await process.communicate()
    report = output.decode(errors="replace")
    assert process.returncode == 0, report
    assert f"{OPERATIONS} selected / {OPERATIONS} total" in report, report
    return report


async def test_a_caller_gets_only_answers_of_the_document(system: System, gateway: Gateway, tmp_path: Path) -> None:
    phases = "examples,coverage,fuzzing,stateful"
    options = ("--phases", phases, "--max-examples", "5")
    report = await schemathesis(gateway, "caller.toml", system.claim(), tmp_path, *options)
    for phase in phases.title().split(","):
        assert re.search(rf"✅  {phase} \(", report), report
    assert re.search(r"API Links: +[1-9]", report), report
    assert system.depth("active", "flow-requests-gateway") == 0


async def test_a_stranger_gets_401_from_every_operation(gateway: Gateway, tmp_path: Path) -> None:
    options = ("--phases", "coverage", "--mode", "positive", "--warnings", "off")
    report = await schemathesis(gateway, "stranger.toml", "e30.e30.e30", tmp_path, *options)
    assert re.search(rf"✅ {OPERATIONS} passed", report), report
