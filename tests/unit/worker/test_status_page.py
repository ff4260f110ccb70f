"""The status of a worker: who may read it, and that it holds nothing of a stranger."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from aiohttp import web

from flow_contracts.result import FlowError, FlowResult, Status, Times
from flow_worker.demo.processes import free_port
from flow_worker.flows.limits import CallLimiter, FlowLimits
from flow_worker.flows.verdict import FlowHealth
from flow_worker.runtime.status import WorkerStatus
from flow_worker.telemetry.health import Health, serve_health
from flow_worker.telemetry.status_page import StatusCallers, status_handler
from tests.unit.worker.test_run_start import settings

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FLOW = "a-flow-with-a-long-name-0"


def result(flow: str | None = FLOW, code: str | None = None) -> FlowResult:
    return FlowResult(
        status=Status.FAILED if code else Status.SUCCEEDED,
        flow=flow,
        output="hush-output",
        error=FlowError(code=code, message="hush-message") if code else None,
        attempts=1,
        times=Times(accepted=NOW, finished=NOW + timedelta(seconds=1.5)),
        correlation_id="hush-correlation",
        request_message_id="hush-message-id",
        run_for="hush-user",
    )


def status_of(health: Health) -> dict[str, Any]:
    chosen = settings()
    limits = {name: FlowLimits(**chosen.limits.model_dump()) for name in chosen.flows}
    limiter = CallLimiter(limits, lambda: NOW)
    for number in range(5):
        assert limiter.try_enter(FLOW, f"hush-{number}", "one", sender="hush-sender") is None
        limiter.leave(FLOW, f"hush-{number}", "one", health=FlowHealth.UNHEALTHY, until=None, sender="hush-sender")
    return WorkerStatus(chosen, health, limiter, NOW, lambda: NOW)()


def test_the_status_names_each_flow_with_its_limits_circuit_breaker_and_last_results() -> None:
    health = Health()
    lane = health.lane("one")
    lane.mark_connected()
    lane.mark_result(result())
    lane.mark_result(result(code="NoResponse"))
    status = status_of(health)
    flow = status["flows"][FLOW]
    assert flow["limits"]["max_in_flight"] == 100
    assert flow["calls"]["circuit_breaker"] == "open"
    assert flow["calls"]["paused_by"] == "flow_circuit_open"
    assert status["flows"]["a-flow-with-a-long-name-1"]["calls"]["circuit_breaker"] == "closed"
    assert status["queues"]["one"] == {"lanes": 1, "connected": 1, "last_error": None}
    assert status["results"]["counts"] == {"succeeded": 1, "failed": 1}
    assert status["results"]["last"][0]["code"] == "NoResponse", "the newest comes first"
    assert status["results"]["last"][0]["seconds"] == 1.5


@pytest.mark.parametrize("flow", ["hush hush", "hush\x1b[2J", None])
@pytest.mark.parametrize("code", ["hush hush", "hush\n", "h" * 70 + "hush"])
def test_the_status_holds_no_id_text_or_name_that_a_sender_or_a_flow_chose(flow: str | None, code: str) -> None:
    health = Health()
    health.lane("one").mark_result(result(flow, code))
    status = status_of(health)
    assert "hush" not in json.dumps(status)
    [last] = status["results"]["last"]
    assert (last["flow"], last["code"]) == (None, "other")


def test_the_status_remembers_a_bounded_number_of_results_and_counts_all() -> None:
    health = Health()
    for _ in range(500):
        health.recent.add(result())
    assert len(health.recent.as_json([FLOW])) == 20
    assert health.recent.counts == {"succeeded": 500}


@pytest.mark.parametrize(
    ("callers", "remote", "host", "status"),
    [
        ("loopback", "127.0.0.1", "127.0.0.1:8080", 200),
        ("loopback", "127.0.0.1", "localhost:8080", 200),
        ("loopback", "::1", "[::1]:8080", 200),
        ("loopback", "::ffff:127.0.0.1", "localhost", 200),
        ("loopback", "10.0.0.7", "localhost:8080", 403),
        ("loopback", "127.0.0.1", "rebound.example:8080", 403),
        ("loopback", "127.0.0.1", "127.0.0.1.example", 403),
        ("loopback", None, "localhost", 403),
        ("all", "10.0.0.7", "worker:8080", 200),
        ("off", "127.0.0.1", "localhost", 404),
    ],
)
async def test_only_callers_on_this_machine_read_the_status_by_default(
    callers: StatusCallers, remote: str | None, host: str, status: int
) -> None:
    handler = status_handler(lambda: lambda: {"ready": True}, callers)
    assert (await handler(Mock(spec=web.Request, remote=remote, host=host))).status == status


@pytest.fixture
async def served() -> AsyncIterator[tuple[Health, str]]:
    health, port = Health(), free_port()
    async with serve_health(health, "127.0.0.1", port):
        yield health, f"http://127.0.0.1:{port}/status"


async def test_a_worker_that_starts_has_no_status_yet(served: tuple[Health, str]) -> None:
    health, url = served
    async with httpx.AsyncClient() as client:
        starting = await client.get(url)
        health.status = lambda: {"ready": True}
        running = await client.get(url)
    assert (starting.status_code, running.status_code) == (503, 200)
    assert "starting" in starting.json()["error"]
    assert running.headers["Cache-Control"] == "no-store"
