"""What `doctor` says about a gateway's ports and rights, and `status` about the gateway itself."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import JsonValue
from rich.console import Console

from flow_contracts.servicebus import ServiceBusMisconfigured
from flow_worker.cli import status_commands
from flow_worker.cli.status_gateway import gateway_report
from flow_worker.cli.status_render import StatusReport, render
from flow_worker.demo.processes import free_port
from flow_worker.doctor import gateway_process
from flow_worker.doctor.finding import Outcome, Result
from flow_worker.gateway.health import GatewayHealth
from flow_worker.settings import GatewaySettings, Settings
from flow_worker.telemetry.health import serve_health
from tests.support.http_gateway import running_http_gateway

MINIMAL = {
    "servicebus": {"namespace": "contoso.servicebus.windows.net"},
    "claims": {"tenants": ["11111111-2222-4333-8444-555555555555"], "audiences": ["api://flow-worker"]},
    "flows": {"quote": {"url": "https://x.environment.api.powerplatform.com/a", "role": "R"}},
}


class FakeBus:
    """Refuses to open a sender with `refusal`."""

    def __init__(self, refusal: str | None = None) -> None:
        self.refusal = refusal

    async def verify_send(self, _queue: str) -> None:
        if self.refusal is not None:
            raise ServiceBusMisconfigured(self.refusal)


async def found(gateway: dict[str, Any], number: int, bus: FakeBus | None = None) -> Result:
    settings = Settings.model_validate(MINIMAL | {"gateway": gateway})
    async with httpx.AsyncClient(trust_env=False) as client:
        result = await gateway_process.checks(settings, cast(Any, bus or FakeBus()), client)[number].run()
    assert isinstance(result, Result)
    return result


@pytest_asyncio.fixture
async def other_program() -> AsyncIterator[int]:
    app = web.Application()
    app.add_routes([web.get("/{path:.*}", _hello)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port := free_port())
    await site.start()
    yield port
    await runner.cleanup()


async def _hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


def test_without_a_gateway_table_nothing_is_checked() -> None:
    settings = Settings.model_validate(MINIMAL)
    assert gateway_process.checks(settings, cast(Any, FakeBus()), cast(Any, None)) == []


@pytest.mark.parametrize(("number", "setting"), [(0, "port"), (1, "health_port")])
async def test_a_port_is_free_or_another_programs(number: int, setting: str, other_program: int) -> None:
    assert (await found({setting: free_port()}, number)).detail == "free"
    taken = await found({setting: other_program}, number)
    assert (taken.outcome, f"change gateway.{setting}" in taken.remedy) == (Outcome.FAILED, True)


async def test_a_running_gateway_is_recognised_at_both_ports() -> None:
    port = free_port()
    async with running_http_gateway() as gateway, serve_health(GatewayHealth(), "127.0.0.1", port, status_callers=None):
        own = int(gateway.url.rsplit(":", 1)[1])
        results = [await found({"port": own, "health_port": port}, number) for number in (0, 1)]
    assert [(each.outcome, "a gateway answers" in each.detail) for each in results] == [(Outcome.OK, True)] * 2


@pytest.mark.parametrize(
    ("refusal", "outcome"),
    [
        (None, Outcome.OK),
        ("open a sender: unauthorized access, claim 'Send' is required", Outcome.UNSEEN),
        ("open a sender: there is no such queue", Outcome.FAILED),
    ],
)
async def test_a_right_that_this_identity_lacks_may_be_the_gateways(refusal: str | None, outcome: Outcome) -> None:
    result = await found({"port": 8081}, 2, FakeBus(refusal))
    assert result.outcome is outcome
    assert ("If the gateway has the identity" in result.remedy) == (outcome is Outcome.UNSEEN)


async def test_the_status_of_a_gateways_address_is_no_starting_worker() -> None:
    port = free_port()
    async with serve_health(GatewayHealth(), "127.0.0.1", port, status_callers=None):
        worker, fault = await asyncio.to_thread(status_commands._worker, f"http://127.0.0.1:{port}")
        report = await asyncio.to_thread(gateway_report, GatewaySettings(health_port=port))
    assert worker is None
    assert fault is not None
    assert "health endpoint of a gateway" in fault
    assert report["ready"] is False
    assert "the gateway starts" in str(report["fault"])


@pytest.mark.parametrize(
    ("gateway", "line"),
    [
        ({"url": "http://127.0.0.1:8082", "ready": True, "fault": None}, "gateway http://127.0.0.1:8082: ready"),
        ({"url": "http://127.0.0.1:8082", "ready": False, "fault": "no answer"}, "8082: no answer"),
        (None, None),
    ],
)
def test_the_status_has_a_line_about_the_gateway(gateway: dict[str, JsonValue] | None, line: str | None) -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(render(StatusReport("http://127.0.0.1:8080", None, "down", {}, gateway), console))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert (line in text) if line else ("gateway" not in text)


def test_a_gateway_that_does_not_answer_is_named() -> None:
    report = gateway_report(GatewaySettings(health_port=free_port()))
    assert (report["ready"], report["fault"]) == (False, "no gateway answers (ConnectError)")
