"""The demo's requests over HTTP: a user starts a flow at the gateway, and another user asks for the result."""

from __future__ import annotations

import asyncio
import time

import httpx
from pydantic import JsonValue

from flow_contracts.result import FlowResult
from flow_worker.demo.environment import ROLE, DemoEnvironment
from flow_worker.demo.scenarios import Scenario, ScenarioOutcome, outcome_of

_WAIT_SECONDS = 60
_START = "/v1/flows/create-quote/requests"
_QUOTE: JsonValue = {"customer": "Contoso", "amount": 1250}


async def run_http_scenarios(environment: DemoEnvironment) -> list[ScenarioOutcome]:
    """Start a flow and wait for its result in one HTTP request; then ask for the result as another user."""
    emulator = environment.emulator
    began = time.perf_counter()
    async with httpx.AsyncClient(base_url=environment.gateway_url, timeout=_WAIT_SECONDS + 10) as client:
        ada = {"Authorization": f"Bearer {await asyncio.to_thread(emulator.mint, 'ada', ROLE)}"}
        answer = await client.post(_START, json=_QUOTE, params={"wait": _WAIT_SECONDS}, headers=ada)
        first = await asyncio.to_thread(_started, environment, answer, time.perf_counter() - began)
        began = time.perf_counter()
        bob = {"Authorization": f"Bearer {await asyncio.to_thread(emulator.mint, 'bob', ROLE)}"}
        foreign = await client.get(f"/v1/requests/{first.correlation_id}", headers=bob)
        return [first, _refused(first.correlation_id, foreign, time.perf_counter() - began)]


def _started(environment: DemoEnvironment, answer: httpx.Response, seconds: float) -> ScenarioOutcome:
    title, brief = "A user requests a quote over HTTP, from the gateway", "user requests quote over HTTP"
    scenario = Scenario(title, "create-quote", _QUOTE, None, "succeeded", brief=brief)
    if answer.status_code == 200:
        result = FlowResult.model_validate_json(answer.content)
        activity = environment.emulator.activity(scenario.flow, result.correlation_id)
        return outcome_of(scenario, result, activity, seconds, over_http=True)
    return ScenarioOutcome(
        correlation_id="none",
        scenario=title,
        flow=scenario.flow,
        outcome=f"HTTP {answer.status_code}",
        detail=answer.text,
        seconds=seconds,
        ok=False,
        brief=brief,
        expectation=scenario.expectation,
        over_http=True,
    )


def _refused(request_id: str, answer: httpx.Response, seconds: float) -> ScenarioOutcome:
    document = answer.json()
    return ScenarioOutcome(
        correlation_id=request_id,
        scenario="Another user asks the gateway for that result",
        flow="create-quote",
        outcome=f"refused: {document.get('code')}" if answer.status_code != 200 else "succeeded",
        detail=str(document.get("detail", "")),
        seconds=seconds,
        ok=(answer.status_code, document.get("code")) == (404, "not_found"),
        brief="another user asks for it",
        expectation="refused: not_found",
        over_http=True,
    )
