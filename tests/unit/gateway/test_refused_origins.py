"""A page that may not call the gateway leaves a line in the log, whatever the page writes as its origin."""

from __future__ import annotations

import logging

import pytest

from flow_worker.gateway.cors import RefusedOrigins
from tests.support.http_gateway import ORIGIN, running_http_gateway

URL = "http://127.0.0.1:8081"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def origins(lines: pytest.LogCaptureFixture) -> list[object]:
    refused = [each for each in lines.records if getattr(each, "event", "") == "gateway.origin_refused"]
    return [getattr(each, "fields", {})["origin"] for each in refused]


async def test_a_preflight_and_a_request_of_another_origin_leave_one_line(lines: pytest.LogCaptureFixture) -> None:
    async with running_http_gateway() as gateway, gateway.client(None) as browser:
        for origin in ("https://evil.example", ORIGIN, gateway.url):
            asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            await browser.options("/v1/flows/create-quote/requests", headers=asks)
            await browser.get("/v1/flows", headers={"Origin": origin})
        await browser.get("/v1/flows")  # no browser: no origin
    assert origins(lines) == ["https://evil.example"]


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("null", "null"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("https://user:secret@host.example", "invalid"),
        ("https://host.example/path?token=secret", "invalid"),
        ("https://host.example\x1b[2J", "invalid"),
        ("https://" + "x" * 8000, "invalid"),
        ("", "invalid"),
    ],
)
def test_only_what_a_browser_writes_is_logged(lines: pytest.LogCaptureFixture, origin: str, shown: str) -> None:
    RefusedOrigins().note(origin, URL)
    assert origins(lines) == [shown]


@pytest.mark.parametrize(
    "own", ["https://flows.contoso.com", "https://flows.contoso.com/api", "http://flows.contoso.com"]
)
def test_the_gateways_own_pages_are_no_others(lines: pytest.LogCaptureFixture, own: str) -> None:
    """Behind a proxy with TLS, the gateway itself sees plain HTTP."""
    RefusedOrigins().note("https://flows.contoso.com", own)
    assert origins(lines) == []


def test_invented_origins_do_not_fill_the_log(lines: pytest.LogCaptureFixture) -> None:
    refused = RefusedOrigins()
    for number in range(1000):
        refused.note(f"https://page-{number}.example", URL)
    assert len(origins(lines)) == 100
