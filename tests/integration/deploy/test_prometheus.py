"""Prometheus scrapes the kept demo, and the shipped dashboard and alerts show what worker and gateway did."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
import pytest_asyncio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from bench.dashboard_picture import Source, draw
from tests.support.otlp import Collector, running_collector
from tests.support.processes import CHECKOUT
from tests.support.prometheus import DEPLOY, Prometheus, program, running_prometheus
from tests.support.system import WAIT, until
from tests.unit.docs.code_names import metric_definitions

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

PAGE = CHECKOUT / "docs" / "observability.md"
DASHBOARD = DEPLOY / "grafana" / "flow-worker.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
_VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*", "$flow": ".*"}
_METRIC = re.compile(r"\b(?:flow_worker|messaging|http_client|http_server|process)_\w+")
_EXPLAINED = {"summary", "description"}


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard without its rows."""
    found = [one for one in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if one["type"] != "row"]
    assert len(found) > 30
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel with each of its expressions, in which the variables have values."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in _VARIABLES.items():
                expression = expression.replace(name, value)
            assert "$" not in expression, expression
            yield panel["title"], expression


@dataclass(frozen=True)
class Demo:
    """A kept demo whose scenarios have ended, and what watched it from its start."""

    prometheus: Prometheus
    collector: Collector
    output: str
    pages: dict[str, str]
    """The URLs of the metrics, by job."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Demo]:
    """Run `flow-worker demo --keep` with a collector, and scrape the pages that it names from then on."""
    program("prometheus")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "FLOW_WORKER_"))}
    with running_collector() as collector:
        variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flow_worker", "demo", "--keep", "--burst", "30"),
            cwd=tmp_path_factory.mktemp("demo"),
            env=variables,
            stdout=PIPE,
            stderr=STDOUT,
        )
        assert process.stdout is not None
        try:
            async with running_prometheus(tmp_path_factory.mktemp("prometheus")) as prometheus:
                output = await _read_until(process.stdout, "(gateway)")
                named = re.findall(r"(http://\S+/metrics) \((\w+)\)", output)
                pages = {{"worker": "flow-worker", "gateway": "flow-worker-gateway"}[name]: url for url, name in named}
                await prometheus.scrape({job: url.split("/")[2] for job, url in pages.items()})
                output += await _read_until(process.stdout, "OTEL_EXPORTER_OTLP_ENDPOINT")
                await prometheus.scraped_again()
                yield Demo(prometheus, collector, output, pages)
        finally:
            process.terminate()  # a shell may have made it ignore SIGINT
            rest = await process.stdout.read()
            assert await process.wait() == 128 + signal.SIGTERM, rest.decode()


async def _read_until(stream: asyncio.StreamReader, end: str) -> str:
    """Return the lines up to the one that contains `end`."""
    lines: list[str] = []
    async with asyncio.timeout(WAIT):
        while not lines or end not in lines[-1]:
            lines.append((await stream.readline()).decode())
            assert lines[-1], "".join(lines)
    return "".join(lines)


@pytest.fixture(scope="module")
def prometheus(demo: Demo) -> Prometheus:
    return demo.prometheus


async def test_prometheus_scrapes_the_worker_and_the_gateway_of_the_demo(demo: Demo) -> None:
    jobs = {"flow-worker", "flow-worker-gateway"}
    assert {labels["job"]: value for labels, value in await demo.prometheus.samples("up")} == dict.fromkeys(jobs, 1)
    assert " ended as expected. Burst: 30 of 30 succeeded" in demo.output
    burst = 'flow_worker_requests_total{job="flow-worker", flow="create-quote", status="succeeded"}'
    [(_, total)] = await demo.prometheus.samples(burst)
    assert total > 30


async def test_every_expression_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    assert await without_data(prometheus, expressions()) == []


async def test_every_expression_of_the_alerts_has_data(prometheus: Prometheus) -> None:
    rules = await rules_of(prometheus)
    assert len(rules) > 15
    compared = [(rule["name"], operand) for rule in rules for operand in operands(rule["query"])]
    assert len(compared) > len(rules)
    assert await without_data(prometheus, compared) == []


async def rules_of(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]


def operands(expression: str) -> list[str]:
    """Return what an alert compares: its expression without the comparisons, which hold for faults only."""
    sides = re.split(r"\s+(?:and|or)\s+", expression)
    compared = [re.fullmatch(r"(.+?)\s*(?:[=!]=|[<>]=?)\s*[\d.]+", side, re.DOTALL) for side in sides]
    return [found[1] if found else side for found, side in zip(compared, sides, strict=True)]


async def without_data(prometheus: Prometheus, named: Iterable[tuple[str, str]]) -> list[tuple[str, str, list[float]]]:
    """Return the expressions without a finite value, with their names and values."""
    found = [(name, one, [value for _, value in await prometheus.samples(one)]) for name, one in named]
    return [one for one in found if not any(math.isfinite(value) for value in one[2])]


async def test_the_traces_of_the_kept_demo_arrive(demo: Demo) -> None:
    await until(lambda: any(span.name == "send flow-replies-gateway" for span in demo.collector.spans))
    statuses = {span.attributes.get("flow_worker.status") for span in demo.collector.spans}
    assert statuses >= {"succeeded", "refused", "waiting", "failed", "unknown"}


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0", "text/plain;version=0.0.4"])
async def test_both_pages_are_metrics_that_their_readers_accept(demo: Demo, accept: str) -> None:
    for url in demo.pages.values():
        async with httpx.AsyncClient() as client:
            page = await client.get(url, headers={"accept": accept})
        assert page.status_code == 200
        if "openmetrics" in accept:
            assert page.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
            assert page.text.endswith("# EOF\n")
            assert len(list(openmetrics(page.text))) > 10  # type: ignore[no-untyped-call]
        else:
            checked = subprocess.run(
                [program("promtool"), "check", "metrics"], input=page.text, capture_output=True, text=True, check=False
            )
            assert (checked.returncode, checked.stderr) == (0, ""), url


async def test_the_objectives_of_the_documentation_have_values(prometheus: Prometheus) -> None:
    objectives = re.findall(r"```promql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(objectives) == 3
    for objective in objectives:
        [(_, share)] = await prometheus.samples(objective)
        assert 0 < share <= 1, objective


async def test_the_picture_of_the_dashboard_shows_every_panel(prometheus: Prometheus) -> None:
    now = time.time()

    def drawn() -> str:
        with httpx.Client(base_url=prometheus.url) as client:
            return draw(Source(client, now - 60, now))

    picture = ElementTree.fromstring(await asyncio.to_thread(drawn))  # noqa: S314 - the test drew it
    texts = [one.text for one in picture.iter() if one.text]
    assert {panel["title"] for panel in panels()} <= set(texts)
    assert {"create-quote", "/v1/flows/{flow}/requests 200"} <= set(texts)


async def test_the_variables_of_the_dashboard_have_values(prometheus: Prometheus) -> None:
    variables = json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]
    found = {}
    for one in variables:
        if one["type"] == "query":
            call = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"]["query"])
            assert call is not None
            selector = call[1].replace("$job", ".*")
            found[one["name"]] = await prometheus.get(f"label/{call[2]}/values", **{"match[]": selector})
    assert found["job"] == ["flow-worker", "flow-worker-gateway"]
    assert len(found["instance"]) == 2
    assert "create-quote" in found["flow"]


async def test_the_alerts_are_loaded_and_their_metrics_exist(prometheus: Prometheus) -> None:
    rules = await rules_of(prometheus)
    async with asyncio.timeout(WAIT):
        while any(rule["health"] == "unknown" for rule in rules):  # not evaluated yet
            await asyncio.sleep(0.2)
            rules = await rules_of(prometheus)
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    assert all(set(rule["annotations"]) >= _EXPLAINED for rule in rules)
    assert {rule["labels"]["severity"] for rule in rules} == {"page", "ticket"}
    existing = set(await prometheus.get("label/__name__/values"))
    named = {name for rule in rules for name in _METRIC.findall(rule["query"])}
    assert len(named) > 5
    assert named <= existing


async def test_an_alert_sees_the_first_event_of_a_rare_counter(prometheus: Prometheus) -> None:
    """`increase` sees nothing if a counter appears with its first event."""
    for counter in ("locks_lost", "lock_renewals_failed", "reconnects"):
        samples = await prometheus.samples(f"flow_worker_{counter}_total")
        values = {labels["queue"]: value for labels, value in samples}
        assert values.keys() >= {"flow-requests", "flow-continuations"}
        assert set(values.values()) == {0}
    [(_, expired)] = await prometheus.samples('flow_worker_dead_letters_answered_total{status="expired"}')
    assert expired == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")),
        ("check", "rules", str(ALERTS)),
        ("test", "rules", str(Path(__file__).parent / "alerts_test.yml")),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
async def test_promtool_accepts_the_files_and_each_alert_fires_on_its_fault(arguments: tuple[str, ...]) -> None:
    checked = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_the_page_names_every_alert_and_no_other() -> None:
    shipped = re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(shipped) == set(re.findall(r"\bFlowWorker[A-Z]\w+", PAGE.read_text(encoding="utf-8")))


async def test_the_dashboard_follows_the_conventions_of_grafana() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert (dashboard["id"], dashboard["uid"]) == (None, "flow-worker")
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    numbers = [one["id"] for one in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert {one["datasource"]["uid"] for one in (panel, *panel["targets"])} == {"${datasource}"}
        for target in panel["targets"]:
            assert re.findall(r"\[(.*?)\]", target["expr"]) in ([], ["$__rate_interval"], ["$__rate_interval"] * 2), (
                target
            )


async def test_every_label_of_the_dashboard_and_the_alerts_is_one_of_its_metric() -> None:
    """A selector with a misspelt label selects nothing, or everything."""
    labels = {name.replace(".", "_") for one in metric_definitions() for name in one.attributes}
    labels |= {"job", "instance", "le", "alertname"}
    text = " ".join(expression for _, expression in expressions()) + ALERTS.read_text(encoding="utf-8")
    selected = {
        name for inside in re.findall(r"\{(\w[^{}]*)\}", text) for name in re.findall(r"(\w+)\s*[=!]~?=?\"", inside)
    }
    grouped = {name.strip() for group in re.findall(r"\bby \(([^)]*)\)", text) for name in group.split(",")}
    assert len(selected) > 5
    assert selected | grouped <= labels
