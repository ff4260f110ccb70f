"""Prometheus scrapes a running worker, and the shipped dashboard and alerts show what the worker did."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
import pytest_asyncio

from bench.dashboard_picture import Source, draw
from flow_contracts.client import Background
from flow_worker.demo.processes import free_port
from tests.support.processes import CHECKOUT
from tests.support.prometheus import DEPLOY, Prometheus, program, running_prometheus
from tests.support.system import WAIT, System, running_system, until
from tests.unit.docs.code_names import metric_definitions

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

PAGE = CHECKOUT / "docs" / "observability.md"
DASHBOARD = DEPLOY / "grafana" / "flow-worker.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
_VARIABLES = {"$__rate_interval": "1m", "$job": "flow-worker", "$instance": ".*", "$flow": ".*"}
_METRIC = re.compile(r"\b(?:flow_worker|messaging|http_client|process)_\w+")
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    program("prometheus")
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with running_system(monkeypatch) as system, system.client() as client:
            await system.put("flows/typed", {"response": {"body": {}, "status": 400}})
            await client.submit("create-quote", {}, claim=system.claim(), time_to_live=timedelta(milliseconds=50))
            await until(lambda: system.depth("dead_lettered") == 1)
            settings = system.settings(health={"port": free_port()})
            target = f"127.0.0.1:{settings.health.port}"
            async with (
                system.worker(settings),
                client.background() as background,
                running_prometheus(tmp_path_factory.mktemp("prometheus"), target) as running,
            ):
                await requests(system, background)
                await running.scraped_again()
                await requests(system, background)  # rates need two scrapes with different values
                await running.scraped_again()
                yield running


async def requests(system: System, background: Background) -> None:
    """Send requests that succeed, that are polled, that are retried, that fail and that are refused."""
    throttled = {"faults": [{"kind": "throttle", "retry_after": "0", "next_calls": 1}]}
    await system.put("flows/notify-team", throttled)
    good, refused = system.claim(), system.claim("Other.Role")
    sent = [("create-quote", good), ("slow-report", good), ("notify-team", good), ("typed", good)]
    sent += [("create-quote", refused), ("no-such-flow", good)]
    results = await asyncio.gather(
        *(background.request(flow, {"customer": "Contoso", "amount": 1}, WAIT, claim=claim) for flow, claim in sent)
    )
    statuses = [result.status for result in results]
    assert statuses == ["succeeded", "succeeded", "succeeded", "failed", "refused", "refused"]


async def test_prometheus_scrapes_the_worker(prometheus: Prometheus) -> None:
    [target] = (await prometheus.get("targets"))["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    [(labels, total)] = await prometheus.samples(
        'flow_worker_requests_total{flow="create-quote", status="succeeded"}',
    )
    assert (labels["job"], total) == ("flow-worker", 2)


async def test_every_expression_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    empty = []
    for title, expression in expressions():
        values = [value for _, value in await prometheus.samples(expression)]
        if not any(math.isfinite(value) for value in values):
            empty.append((title, expression, values))
    assert empty == []


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
    assert "create-quote" in texts


async def test_the_variables_of_the_dashboard_have_values(prometheus: Prometheus) -> None:
    variables = json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]
    found = {}
    for one in variables:
        if one["type"] == "query":
            call = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"]["query"])
            assert call is not None
            selector = call[1].replace("$job", "flow-worker")
            found[one["name"]] = await prometheus.get(f"label/{call[2]}/values", **{"match[]": selector})
    assert found["job"] == ["flow-worker"]
    assert len(found["instance"]) == 1
    assert "create-quote" in found["flow"]


async def test_the_alerts_are_loaded_and_their_metrics_exist(prometheus: Prometheus) -> None:
    [group] = (await prometheus.get("rules"))["groups"]
    async with asyncio.timeout(WAIT):
        while any(rule["health"] == "unknown" for rule in group["rules"]):  # not evaluated yet
            await asyncio.sleep(0.2)
            [group] = (await prometheus.get("rules"))["groups"]
    assert [rule["name"] for rule in group["rules"] if rule["health"] != "ok"] == []
    assert all(set(rule["annotations"]) >= _EXPLAINED for rule in group["rules"])
    assert {rule["labels"]["severity"] for rule in group["rules"]} == {"page", "ticket"}
    existing = set(await prometheus.get("label/__name__/values"))
    named = {name for rule in group["rules"] for name in _METRIC.findall(rule["query"])}
    assert len(named) > 5
    assert named <= existing


async def test_an_alert_sees_the_first_event_of_a_rare_counter(prometheus: Prometheus) -> None:
    """`increase` sees nothing if a counter appears with its first event."""
    for counter in ("locks_lost", "lock_renewals_failed", "reconnects"):
        samples = await prometheus.samples(f"flow_worker_{counter}_total")
        values = {labels["queue"]: value for labels, value in samples}
        assert values == {"flow-requests": 0, "flow-continuations": 0}
    [(_, expired)] = await prometheus.samples('flow_worker_dead_letters_answered_total{status="expired"}')
    assert expired == 1


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
