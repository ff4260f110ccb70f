"""What `flow-worker run` says at its start: a banner, and "receives requests" only once that is true."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from flow_contracts.servicebus import ServiceBusMisconfigured
from flow_worker.app import _Announcement
from flow_worker.cli.banner import banner, gateway_banner, gateway_summary, summary
from flow_worker.runtime.periodic_task import PeriodicTask
from flow_worker.settings import Settings
from flow_worker.settings.gateway_process import GatewayProcess
from flow_worker.telemetry.health import Health

SECRET = "k3yk3yk3y"


def settings(**changes: Any) -> Settings:
    flow = {"url": "https://prod-01.westeurope.logic.azure.com/workflows/hush", "role": "Quotes.Create"}
    connection = f"Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey={SECRET}"
    return Settings.model_validate(
        {
            "servicebus": {"connection_string": connection},
            "request_queues": [{"name": "one", "lanes": 3}, {"name": "two"}],
            "claims": {"tenants": ["11111111-2222-3333-4444-555555555555"], "audiences": ["api://x"]},
            "flows": {f"a-flow-with-a-long-name-{number}": flow for number in range(30)},
        }
        | changes
    )


def test_the_banner_fits_a_terminal_of_80_columns_and_holds_no_secret() -> None:
    text = banner(settings())
    lines = text.splitlines()
    assert len(lines) == 7
    assert max(map(len, lines)) <= 80
    for part in ("contoso.servicebus.windows.net", "one (3 lanes), two (8 lanes)", "flow-replies", "29 more"):
        assert part in text
    assert "http://127.0.0.1:8080/health/ready" in text
    for secret in (SECRET, "hush", "SharedAccessKey"):
        assert secret not in text
        assert secret not in str(summary(settings()))


def test_the_banner_of_a_gateway_says_where_it_listens_and_for_whom() -> None:
    values = settings().model_dump() | {
        "servicebus": {"connection_string": settings().servicebus.connection_string},
        "flows": {"create-quote": {"role": "Quotes.Create"}},
        "statements": {"signing_key": "-----BEGIN hush"},
    }
    plain = GatewayProcess.model_validate(values)
    text = gateway_banner(plain)
    for part in (
        "url            http://127.0.0.1:8081",
        "pages          none (gateway.allowed_origins)",
        "requests       flow-requests-gateway",
        "results        flow-replies-gateway",
        "signing key    statements.signing_key",
        "http://127.0.0.1:8082/health/ready",
    ):
        assert part in text
    assert "hush" not in text
    assert SECRET not in text + str(gateway_summary(plain))
    changed = {
        "public_url": "https://flows.contoso.com",
        "allowed_origins": [f"https://page-{number}.contoso.com" for number in range(9)],
        "health_port": 0,
    }
    text = gateway_banner(GatewayProcess.model_validate(values | {"gateway": changed, "statements": {}}))
    for part in ("https://flows.contoso.com", "more", "off (gateway.health_port = 0)", "flow-worker-gateway-key.pem"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8080"), ("::", "http://[::1]:8080"), ("::1", "http://[::1]:8080")],  # noqa: S104
)
def test_the_banner_names_a_health_url_that_works_on_this_machine(host: str, url: str) -> None:
    assert f"{url}/health/ready" in banner(settings(health={"host": host}))
    assert "off" in banner(settings(health={"port": 0}))


def test_a_worker_receives_requests_from_its_first_connection_on_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    health = Health()
    health.on_connected = _Announcement(settings())
    continuations, first, second = health.lane("flow-continuations"), health.lane("two"), health.lane("one")
    continuations.mark_connected()
    assert caplog.messages == [], "no request comes from the continuation queue alone"
    for lane in (first, second, first):
        lane.mark_connected()
    assert caplog.messages == ["The worker receives requests from 'two'."]


@pytest.mark.parametrize(("is_reported", "level"), [(True, "DEBUG"), (False, "WARNING")])
async def test_a_broken_queue_is_reported_by_its_lanes_only(
    caplog: pytest.LogCaptureFixture, is_reported: bool, level: str
) -> None:
    caplog.set_level(logging.DEBUG)

    async def fail() -> None:
        task.stop()
        raise ServiceBusMisconfigured("there is no such queue")

    task = PeriodicTask("dead letters of q", fail, every_seconds=60, is_reported=lambda: is_reported)
    await task.run()
    assert [record.levelname for record in caplog.records if "no such queue" in record.getMessage()] == [level]
