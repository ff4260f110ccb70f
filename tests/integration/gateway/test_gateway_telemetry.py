"""A request over HTTP is one trace from its caller to the result, and no exporter of the gateway shows a secret."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import JsonValue

from flow_contracts.request import FlowRequest
from flow_worker.access.authorities import ProvenSender
from flow_worker.access.principal import Principal
from flow_worker.access.statement import StatementSigner
from flow_worker.demo.processes import free_port
from flow_worker.gateway.app import Gateway
from flow_worker.gateway.documents import FlowList
from flow_worker.gateway.flows import FlowCatalog
from tests.support.gateway import (
    REPLIES,
    REQUESTS,
    gateway_queues,
    gateway_settings,
    running_gateway,
    worker_of_gateway,
)
from tests.support.otlp import Collector, Received, running_collector
from tests.support.system import System, running_system
from tests.support.talkative_log import talkative_log

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

CANARY = "canary9e3c"
NAME = "stranger51d7"
"""The text that callers put where the log names it, and nothing else does: flows, origins."""
INPUT: JsonValue = {f"{CANARY}key": f"{CANARY}input", "nested": [{"amount": 77_001_178}]}
OUTPUT: JsonValue = {f"{CANARY}outputkey": f"{CANARY}output"}
ERROR: JsonValue = {"error": {"code": f"{CANARY}Code", "message": f"{CANARY} message"}}
TRACE, SENDER = secrets.token_hex(16), secrets.token_hex(8)
VARIABLES = ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_METRICS_EXPORTER")


@dataclass
class Exported:
    """What a gateway and a worker exported, by exporter, after requests of every kind."""

    texts: dict[str, str]
    secrets: set[str]
    answers: list[tuple[int, str]]
    collector: Collector


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exported() -> AsyncIterator[Exported]:
    with pytest.MonkeyPatch.context() as monkeypatch, running_collector() as collector, talkative_log() as lines:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        statements = _kept_statements(monkeypatch)
        monkeypatch.setattr(FlowCatalog, "of", _fail)
        async with running_system(monkeypatch, gateway_queues()) as system:
            await _define_flows(system)
            settings = gateway_settings(system, health_port=(port := free_port()), health_host="127.0.0.1")
            worker = worker_of_gateway(system)
            async with running_gateway(settings) as gateway, system.worker(worker):
                answers, hidden = await _ask(system, gateway)
                pages = await _scraped(port)
            flow_urls = {flow.url.get_secret_value().split("/", 3)[3] for flow in worker.flows.values()}
        otlp = b"".join(collector.raw).decode("latin-1")
        hidden |= {*statements, *flow_urls, CANARY, "77001178"}
        yield Exported({"OTLP": otlp, **pages, **lines.texts()}, hidden, answers, collector)


def _kept_statements(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return a set that gets the parts of each statement, which opens the request that it names."""
    kept: set[str] = set()
    signed = StatementSigner.signed

    def keeping(signer: StatementSigner, request: FlowRequest, proven: ProvenSender) -> FlowRequest:
        found = signed(signer, request, proven)
        assert found.claim is not None
        kept.update(found.claim.get_secret_value().split(".")[1:])
        return found

    monkeypatch.setattr(StatementSigner, "signed", keeping)
    return kept


async def _fail(_: FlowCatalog, principal: Principal) -> FlowList:
    error = RuntimeError(CANARY, {CANARY: principal.oid})
    error.__cause__ = ValueError(CANARY)
    error.add_note(CANARY)
    raise error


async def _define_flows(system: System) -> None:
    system.flows |= {"answering": {}, "polled": {}}
    await system.put("flows/answering", {"response": {"body": OUTPUT, "headers": {"x-answer": CANARY}}})
    await system.put("flows/typed", {"response": {"body": ERROR, "status": 400}})
    await system.put("flows/polled", {"asynchronous": {"done_after_polls": 1, "retry_after": None}})


async def _ask(system: System, gateway: Gateway) -> tuple[list[tuple[int, str]], set[str]]:
    """Send requests of every kind; return the statuses and codes of the responses, and the parts of the tokens."""
    right, junk = system.claim(), f"{CANARY}.{CANARY}.{CANARY}"
    wrong, forged = system.claim("Other"), system.claim(forged=True)
    own = {"traceparent": f"00-{TRACE}-{SENDER}-01", "Idempotency-Key": f'"{CANARY}key"', "Cookie": CANARY}
    foreign = {"On-Behalf-Of": CANARY, "Origin": f"https://{NAME}.example", "User-Agent": CANARY}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http:

        async def ask(
            method: str, path: str, token: str = right, headers: dict[str, str] | None = None, **body: Any
        ) -> httpx.Response:
            own = {"Authorization": f"Bearer {token}", "baggage": f"a={CANARY}", "tracestate": f"a={CANARY}"}
            return await http.request(method, path, headers=own | (headers or {}), **body)

        first = await ask("POST", "/v1/flows/answering/requests?wait=30", json=INPUT, headers=own)
        location = httpx.URL(first.headers["Location"]).path
        answers = [first] + await asyncio.gather(
            ask("POST", "/v1/flows/answering/requests", json=INPUT, headers=own),  # a repetition
            *(ask("POST", f"/v1/flows/{flow}/requests?wait=30", json=INPUT) for flow in ("typed", "polled")),
            *(ask("POST", "/v1/flows/answering/requests", one, json=INPUT) for one in (wrong, forged, junk)),
            ask("POST", "/v1/flows/answering/requests", json=INPUT, headers=foreign),
            ask("POST", f"/v1/flows/{NAME}/requests?{CANARY}={CANARY}", json=INPUT),
            ask("POST", "/v1/flows/answering/requests", content=f"{CANARY}{{".encode()),
            ask("GET", f"{location}?wait=5"),
            ask("GET", f"{location}/events"),
            ask("GET", f"/v1/requests/{CANARY}"),
            ask("GET", f"/{CANARY}"),
            ask("PROPFIND", f"/{CANARY}"),
            ask("GET", "/v1/flows"),  # fails
        )
    hidden = {part for token in (right, wrong, forged) for part in token.split(".")[1:]}
    return [(one.status_code, _code(one)) for one in answers], hidden


def _code(answer: httpx.Response) -> str:
    is_problem = answer.headers["Content-Type"] == "application/problem+json"
    return str(answer.json()["code"]) if is_problem else ""


async def _scraped(port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}/metrics"
    async with httpx.AsyncClient(trust_env=False) as http:
        plain = (await http.get(url)).text
        openmetrics = (await http.get(url, headers={"accept": "application/openmetrics-text"})).text
    assert openmetrics.endswith("# EOF\n")
    return {"Prometheus": plain, "OpenMetrics": openmetrics}


async def test_no_exporter_of_the_gateway_shows_a_secret(exported: Exported) -> None:
    found = [(name, secret) for name, text in exported.texts.items() for secret in exported.secrets if secret in text]
    assert found == []
    assert {name for name, text in exported.texts.items() if NAME in text} == {"log in text", "log in json"}


async def test_the_requests_were_of_every_kind(exported: Exported) -> None:
    """Else the canaries would prove nothing."""
    assert exported.answers == [
        *((200, ""), (200, ""), (200, ""), (200, "")),
        *((403, "flow_not_allowed"), (401, "claim_invalid"), (401, "claim_invalid")),
        *((403, "on_behalf_of_not_allowed"), (403, "flow_not_allowed"), (415, "unsupported_media_type")),
        *((200, ""), (200, ""), (404, "not_found"), (404, "not_found"), (404, "not_found"), (500, "internal_error")),
    ]
    assert len(exported.secrets) > 12
    for name in ("OTLP", "Prometheus", "OpenMetrics", "log in text", "log in json"):
        assert "answering" in exported.texts[name] or "/v1/flows/{flow}/requests" in exported.texts[name]
    assert "RuntimeError" in exported.texts["log in json"]


async def test_a_request_over_http_is_one_trace_from_its_caller_to_the_result(exported: Exported) -> None:
    spans = [span for span in exported.collector.trace(TRACE) if not _is_repetition(span, exported)]
    names = {span.span_id: span.name for span in spans} | {SENDER: "the caller"}
    found = {(names[span.parent], span.kind, span.name) for span in spans}
    assert found == {
        ("the caller", "SERVER", "POST /v1/flows/{flow}/requests"),
        ("POST /v1/flows/{flow}/requests", "PRODUCER", f"send {REQUESTS}"),
        (f"send {REQUESTS}", "CONSUMER", f"process {REQUESTS}"),
        (f"process {REQUESTS}", "CLIENT", "POST answering"),
        (f"process {REQUESTS}", "PRODUCER", f"send {REPLIES}"),
        (f"process {REQUESTS}", "CLIENT", f"complete {REQUESTS}"),
        (f"send {REPLIES}", "CONSUMER", f"process {REPLIES}"),
    }
    [server] = [span for span in spans if span.kind == "SERVER"]
    [produced] = [span for span in spans if span.name == f"send {REQUESTS}"]
    about = "messaging.message.conversation_id"
    assert server.attributes[about] == produced.attributes[about]
    read = [span for span in exported.collector.spans if span.name.startswith("GET /v1/requests/{id}") and span.links]
    assert {span.attributes[about] for span in read} == {server.attributes[about]}
    assert {link for span in read for link, _ in span.links} == {server.span_id}
    assert {span.name for span in read} == {"GET /v1/requests/{id}", "GET /v1/requests/{id}/events"}


def _is_repetition(span: Received, exported: Exported) -> bool:
    """Return whether this is the second request under the idempotency key, which the gateway does not send."""
    servers = [one for one in exported.collector.trace(TRACE) if one.kind == "SERVER"]
    return span.span_id == servers[-1].span_id and len(servers) == 2


async def test_the_gateway_is_a_service_of_its_own(exported: Exported) -> None:
    assert "flow-worker-gateway" in exported.texts["OTLP"]


async def test_no_span_has_an_exception_or_a_description(exported: Exported) -> None:
    spans = exported.collector.spans
    assert not any("exception" in name for span in spans for name, _ in span.events)
    assert {span.description for span in spans} == {""}
    [failed] = [span for span in spans if span.name == "GET /v1/flows"]
    assert (failed.is_error, failed.attributes["error.type"]) == (True, "500")


async def test_the_log_of_a_request_names_its_trace(exported: Exported) -> None:
    lines = exported.texts["log in json"].splitlines()
    accepted = [line for line in lines if '"gateway.accepted"' in line and TRACE in line]
    assert len(accepted) == 1
