"""Metrics are exported as the standard variables say, and their absence costs nothing and is explained."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from flow_worker.telemetry.exporters import chosen_exporters
from flow_worker.telemetry.opening import open_telemetry
from tests.support.system import until

OPENMETRICS = "application/openmetrics-text"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SDK_DISABLED", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


# --- which exporters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["prometheus"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, ["prometheus", "otlp"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, ["prometheus", "otlp"]),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, ["otlp"]),
        ({"OTEL_METRICS_EXPORTER": " Prometheus, otlp,otlp "}, ["prometheus", "otlp"]),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, []),
        ({"OTEL_METRICS_EXPORTER": ""}, ["prometheus"]),
        ({"OTEL_METRICS_EXPORTER": "prometheus,zipkin"}, ["prometheus"]),
    ],
)
def test_the_standard_variable_chooses_the_exporters(environment: dict[str, str], expected: list[str]) -> None:
    assert list(chosen_exporters(environment)) == expected


def test_an_unknown_exporter_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    chosen_exporters({"OTEL_METRICS_EXPORTER": "zipkin"})
    assert [record.__dict__["event"] for record in caplog.records] == ["telemetry.unknown_exporter"]


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (f"{OPENMETRICS};version=1.0.0;q=0.6,{OPENMETRICS};version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3", True),
        (f"text/plain;q=0.9,{OPENMETRICS};q=0.2", False),
        (f"{OPENMETRICS};q=0", False),
        (f"{OPENMETRICS};q=much", False),
        (f"{OPENMETRICS};version=nine;escaping=\x00", True),
    ],
)
async def test_the_page_has_the_format_that_the_scraper_prefers(accept: str, is_openmetrics: bool) -> None:
    async with open_telemetry() as telemetry:
        page = await telemetry.page(accept)
    assert page.status == 200
    parse: Callable[[str], Iterable[Metric]] = openmetrics_families if is_openmetrics else plain_families
    names = {family.name for family in parse(page.body.decode())}
    assert "flow_worker_build_info" in names
    assert page.content_type.startswith(OPENMETRICS if is_openmetrics else "text/plain; version=0.0.4")
    assert page.body.endswith(b"# EOF\n") is is_openmetrics


@pytest.mark.parametrize(("variable", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_METRICS_EXPORTER", "none")])
async def test_a_page_that_is_turned_off_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    async with open_telemetry() as telemetry:
        page = await telemetry.page("")
    assert page.status == 404
    assert variable in page.body.decode()


async def test_without_the_packages_the_page_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("flow_worker.telemetry.exporters")
    monkeypatch.setitem(sys.modules, "flow_worker.telemetry.exporters", None)
    async with open_telemetry() as telemetry:
        page = await telemetry.page("")
        telemetry.metrics.journal_duration.record(0.1, "acquire", "")
    assert page.status == 501
    assert "pip install 'flow-worker[otel]'" in page.body.decode()


async def test_two_workers_of_one_process_have_pages_of_their_own() -> None:
    async with open_telemetry() as first, open_telemetry() as second:
        first.metrics.journal_duration.record(0.1, "acquire", "")
        assert b'operation="acquire"' in (await first.page("")).body
        assert b'operation="acquire"' not in (await second.page("")).body


# --- a dead collector ------------------------------------------------------------------------------------------------


@contextmanager
def silent_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point the variables at a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://user:canary@127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        yield


async def test_a_collector_that_never_answers_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    with silent_collector(monkeypatch):
        async with open_telemetry():
            await until(lambda: bool(caplog.records))
            await asyncio.sleep(0.5)
    assert [record.__dict__["event"] for record in caplog.records] == ["telemetry.export_failing"]
    assert "canary" not in caplog.text


async def test_a_stop_waits_only_a_moment_for_a_collector_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_collector(monkeypatch):
        async with open_telemetry():
            began = time.monotonic()
    assert time.monotonic() - began < 3.0
