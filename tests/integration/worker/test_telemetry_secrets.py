"""No exporter shows a claim, a token, a URL, an input, an output or a text of a flow: each holds a canary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
from pydantic import JsonValue

from flow_contracts.client import Background
from flow_contracts.reply_key import new_reply_key
from flow_worker import app, assembly
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.demo.processes import free_port
from flow_worker.errors import CallFailed
from flow_worker.flows.answer import Answer
from flow_worker.flows.registry import Flow
from flow_worker.pipeline.ports import Caller
from flow_worker.settings import Settings
from tests.support.otlp import Collector, running_collector
from tests.support.system import WAIT, System, running_system
from tests.support.talkative_log import talkative_log

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CANARY = "canary6b1f"
INPUT: JsonValue = {f"{CANARY}key": f"{CANARY}input", "nested": [{"amount": 77_001_177}]}
OUTPUT: JsonValue = {f"{CANARY}outputkey": f"{CANARY}output"}
ERROR: JsonValue = {"error": {"code": f"{CANARY}Code", "message": f"{CANARY} message"}}
KEY = new_reply_key()
VARIABLES = ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_METRICS_EXPORTER")


class Failing:
    """A `Caller` that keeps the secrets which pass through it, and whose calls of some flows raise."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.secrets: set[str] = set()

    async def token(self, *, fresh: bool = False) -> str:
        token = await self._caller.token(fresh=fresh)
        self.secrets.update(token.split("."))
        return token

    async def invoke(
        self, flow: Flow, input_: JsonValue, *, token: str, correlation_id: str, traceparent: str | None
    ) -> Answer:
        self.secrets.add(flow.url.split("/", 3)[3])
        if flow.name == "faulty":
            raise _chained(RuntimeError(CANARY, {CANARY: CANARY}))
        if flow.name == "unreached":
            raise CallFailed(f"{CANARY}code", CANARY, may_have_run=True) from KeyError(CANARY)
        return await self._caller.invoke(
            flow, input_, token=token, correlation_id=correlation_id, traceparent=traceparent
        )

    async def poll(self, flow: Flow, status_url: str, *, token: str) -> Answer:
        self.secrets.add(status_url.split("/", 3)[3])
        return await self._caller.poll(flow, status_url, token=token)


def _chained(error: Exception) -> Exception:
    error.__cause__ = ValueError(CANARY)
    error.add_note(CANARY)
    return error


@dataclass
class Exported:
    """What one worker exported, by exporter, after requests of every kind."""

    texts: dict[str, str]
    secrets: set[str]
    statuses: list[str]
    collector: Collector


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exported() -> AsyncIterator[Exported]:
    with pytest.MonkeyPatch.context() as monkeypatch, running_collector() as collector, talkative_log() as lines:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with running_system(monkeypatch) as system:
            settings = await _settings(system)
            callers: list[Failing] = []
            invoker = assembly.invoker

            @asynccontextmanager
            async def below_the_instrumentation(settings: Settings, identity: ManagedIdentity) -> AsyncIterator[Caller]:
                async with invoker(settings, identity) as opened:
                    callers.append(Failing(opened))
                    yield callers[0]

            monkeypatch.setattr(app, "invoker", below_the_instrumentation)
            async with system.worker(settings), system.client() as client, client.background() as background:
                statuses, claims = await _ask(system, background)
                pages = await _scraped(settings.health.port)
            secrets = {*callers[0].secrets, *claims, CANARY, "77001177", KEY.get_secret_value()}
            # The metrics' last export comes at the end, so all exporters are done now.
            otlp = b"".join(collector.raw).decode("latin-1")
            texts = {"OTLP": otlp, **pages, **lines.texts()}
            yield Exported(texts, secrets, statuses, collector)


async def _settings(system: System) -> Settings:
    system.flows |= {
        "answering": {},
        "polled": {},
        "faulty": {},
        "unreached": {},
        "rejecting": {"idempotent": True, "retry": {"max_calls": 2}},
    }
    await system.put("flows/answering", {"response": {"body": OUTPUT, "headers": {"x-answer": CANARY}}})
    await system.put("flows/typed", {"response": {"body": ERROR, "status": 400}})
    await system.put("flows/rejecting", {"response": {"body": ERROR, "status": 503}})
    await system.put("flows/polled", {"asynchronous": {"done_after_polls": 1, "retry_after": None}})
    return system.settings(health={"port": free_port(), "host": "127.0.0.1"})


async def _ask(system: System, background: Background) -> tuple[list[str], set[str]]:
    """Send requests of every kind; return the statuses of their results, and the secrets in their claims."""
    claims = {"right": system.claim(), "wrong": system.claim("Other"), "forged": system.claim(forged=True)}
    claims["junk"] = f"{CANARY}.{CANARY}.{CANARY}"
    flows = ("answering", "create-quote", "typed", "polled", "faulty", "unreached", "rejecting")
    asked = [(flow, "right") for flow in flows] + [("create-quote", one) for one in claims if one != "right"]
    results = [
        background.request(flow, INPUT, WAIT, claim=claims[claim], reply_key=KEY.get_secret_value())
        for flow, claim in asked
    ]
    statuses = [f"{result.flow} {result.status}" for result in await asyncio.gather(*results)]
    parts = {part for claim in claims.values() for part in claim.split(".")}
    return statuses, {part for part in parts if len(part) > 10}


async def _scraped(port: int) -> dict[str, str]:
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"http://127.0.0.1:{port}/metrics"
        plain = (await http.get(url)).text
        openmetrics = (await http.get(url, headers={"accept": "application/openmetrics-text"})).text
    assert openmetrics.endswith("# EOF\n")
    return {"Prometheus": plain, "OpenMetrics": openmetrics}


async def test_no_exporter_shows_a_secret(exported: Exported) -> None:
    found = [(name, secret) for name, text in exported.texts.items() for secret in exported.secrets if secret in text]
    assert found == []


async def test_the_requests_were_of_every_kind(exported: Exported) -> None:
    """Else the canaries would prove nothing."""
    assert sorted(exported.statuses) == [
        "answering succeeded",
        "create-quote failed",
        "create-quote refused",
        "create-quote refused",
        "create-quote refused",
        "faulty unknown",
        "polled succeeded",
        "rejecting failed",
        "typed failed",
        "unreached unknown",
    ]
    assert len(exported.secrets) > 12
    for name in ("OTLP", "Prometheus", "OpenMetrics", "log in text", "log in json"):
        assert "create-quote" in exported.texts[name]
    assert "RuntimeError" in exported.texts["log in text"]
    assert "http.client.request.duration" in exported.texts["OTLP"]


async def test_no_span_has_an_exception_or_a_description(exported: Exported) -> None:
    spans = exported.collector.spans
    assert {span.name for span in spans} >= {"POST faulty", "POST unreached", "GET polled"}
    assert not any("exception" in name for span in spans for name, _ in span.events)
    assert {span.description for span in spans} == {""}
    assert {span.attributes["error.type"] for span in spans if span.name in {"POST faulty", "POST unreached"}} == {
        "RuntimeError",
        "_OTHER",
    }


async def test_a_code_that_a_flow_chose_is_no_field_of_the_log(exported: Exported) -> None:
    completed = [line for line in exported.texts["log in text"].splitlines() if "request.completed flow=typed" in line]
    assert len(completed) == 1
    assert " code=_OTHER " in completed[0]
