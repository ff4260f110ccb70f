"""The page of a running worker shows what it did, and nothing that a sender, a flow or an identity keeps to itself."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import JsonValue

from flow_contracts.client import Background
from flow_worker.settings import Settings
from flow_worker.telemetry import metrics as definitions
from flow_worker.telemetry.instruments import Definition
from tests.support.system import WAIT, System, running_system, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

CANARY = "canary-7f3a"
INPUT: JsonValue = {"customer": f"{CANARY}-input", "amount": 1}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with running_system(monkeypatch) as running:
            await running.put("flows/typed", {"response": {"body": {"error": {"code": CANARY}}, "status": 400}})
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(system: System) -> Settings:
    return system.settings(health={"port": free_port()})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def background(system: System, settings: Settings) -> AsyncIterator[Background]:
    async with system.worker(settings), system.client() as client, client.background() as one:
        yield one


async def scrape(settings: Settings, accept: str = "") -> str:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{settings.health.port}/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    return answer.text


def total(page: str, name: str, **labels: str) -> float:
    """Return the sum of the samples with these labels. An empty label is the same as none."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return sum(
        one.value
        for one in samples
        if one.name == name and all(one.labels.get(label, "") == value for label, value in labels.items())
    )


async def test_the_page_shows_the_requests_and_keeps_every_secret(
    system: System, settings: Settings, background: Background
) -> None:
    claims = [system.claim(), system.claim("Other.Role"), system.claim(forged=True)]
    succeeded = await background.request("create-quote", INPUT, WAIT, claim=claims[0], message_id=f"{CANARY}-id")
    refused = [await background.request("create-quote", INPUT, WAIT, claim=claim) for claim in claims[1:]]
    unknown_flow = await background.request(f"{CANARY}-flow", INPUT, WAIT, claim=claims[0])
    failed = await background.request("typed", INPUT, WAIT, claim=claims[0])
    assert [succeeded.status, *(one.status for one in refused), unknown_flow.status, failed.status] == [
        *("succeeded", "refused", "refused", "refused", "failed")
    ]
    assert failed.error is not None
    assert failed.error.code == CANARY
    await until(lambda: system.depth("active") == 0)
    page = await scrape(settings)
    requests = "flow_worker_requests_total"
    assert total(page, requests, flow="create-quote", status="succeeded", code="") == 1
    assert total(page, requests, flow="create-quote", status="refused", code="flow_not_allowed") == 1
    assert total(page, requests, flow="create-quote", status="refused", code="claim_invalid") == 1
    assert total(page, requests, flow="_OTHER", status="refused", code="flow_not_allowed") == 1
    assert total(page, requests, flow="typed", status="failed", code="_OTHER") == 1
    decisions = "flow_worker_access_decisions_total"
    assert total(page, decisions, authority="entra", code="role_missing") == 1
    assert total(page, decisions, authority="entra", code="unknown_flow") == 1
    assert total(page, decisions, authority="entra", code="claim_invalid") == 1
    assert total(page, decisions, authority="entra", code="") == 2
    calls = "flow_worker_flow_calls_total"
    assert total(page, calls, flow="create-quote", kind="call", outcome="http_2xx") == 1
    assert total(page, calls, flow="typed", kind="call", outcome="http_4xx") == 1
    assert total(page, "http_client_request_duration_seconds_count", flow="typed", error_type="400") == 1
    assert total(page, "messaging_client_consumed_messages_total") == 5
    assert total(page, "messaging_client_sent_messages_total", messaging_destination_name="flow-replies") == 5
    assert total(page, "messaging_process_duration_seconds_count") == 5
    assert total(page, "flow_worker_queue_wait_duration_seconds_count", queue="flow-requests") == 5
    assert total(page, "flow_worker_request_duration_seconds_count") == 5
    assert total(page, "flow_worker_lanes", state="idle") == 3
    assert total(page, "flow_worker_senders_open", queue="flow-replies") >= 1
    assert total(page, "flow_worker_token_fetch_duration_seconds_count", audience="flow", error_type="") >= 1
    assert total(page, "flow_worker_keys_fetch_duration_seconds_count", error_type="") == 1
    assert total(page, "flow_worker_journal_operation_duration_seconds_count", operation="acquire") >= 2
    assert total(page, "flow_worker_event_loop_lag_seconds_count") > 0
    secrets = [CANARY, "eyJ", *(part for claim in claims for part in claim.split("."))]
    secrets += [flow.url.get_secret_value().split("/", 3)[3] for flow in settings.flows.values()]
    secrets += [succeeded.request_message_id, succeeded.correlation_id, "SharedAccess", str(settings.journal.path)]
    everything = page + await scrape(settings, "application/openmetrics-text")
    assert [secret for secret in secrets if secret in everything] == []


async def test_every_metric_is_on_the_page_with_its_help_and_labels(settings: Settings, background: Background) -> None:
    page = await scrape(settings)
    families = {family.name: family for family in text_string_to_metric_families(page)}
    # Those of gateways, and those of sinks, which this worker has not.
    others = ("GATEWAY_", "HTTP_SERVER_", "DELIVER", "SINK_")
    own = [value for name, value in vars(definitions).items() if not name.startswith(others)]
    for one in (value for value in own if isinstance(value, Definition)):
        family = families.get(prometheus_name(one))
        assert family is not None, one.name
        assert family.documentation == one.description
        assert labels(family) <= {name.replace(".", "_") for name in one.attributes}


def prometheus_name(one: Definition) -> str:
    unit = {"s": "_seconds", "By": "_bytes"}.get(one.unit, "")
    return one.name.replace(".", "_") + ("" if one.name.endswith(unit) and unit else unit)


def labels(family: Metric) -> set[str]:
    return {label for sample in family.samples for label in sample.labels} - {"le"}


async def test_promtool_accepts_the_page(settings: Settings, background: Background) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; the Debian package 'prometheus' has it")
    page = await scrape(settings)
    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
