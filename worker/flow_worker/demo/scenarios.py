"""The demo's scenarios: one request each, with the result that it must have."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import JsonValue, SecretStr

from flow_contracts.client import FlowClient, ResultTimeout
from flow_contracts.message import Message
from flow_contracts.request import CONTRACT
from flow_contracts.result import FlowResult
from flow_worker.demo.environment import ROLE, EmulatorClient, FlowActivity

WAIT_SECONDS = 60.0
MAX_BRIEF = 31

_QUOTE: JsonValue = {"customer": "Contoso", "amount": 1250}
_INVALID_QUOTE: JsonValue = {"customer": "Contoso", "amount": -1}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One request, and the status, error code and number of flow calls that it must end with."""

    title: str
    flow: str
    input: JsonValue
    claim: SecretStr | None
    status: str
    code: str | None = None
    calls: int = 1
    polls: int = 0
    """The number of status polls."""
    brief: str = ""
    """The title for a narrow terminal: `MAX_BRIEF` characters at most."""
    is_settled: bool = False
    """The record of the flow run settles the `unknown` result."""

    @property
    def expectation(self) -> str:
        """The expected outcome, for a person."""
        result = self.status if self.code is None else f"{self.status}: {self.code}"
        return f"{result}, {self.calls} calls, {self.polls} polls"


@dataclass(frozen=True, slots=True)
class ScenarioOutcome:
    """The outcome of one scenario, or of the burst. `ok` says whether it is the expected one."""

    correlation_id: str
    scenario: str
    flow: str
    outcome: str
    detail: str
    seconds: float
    ok: bool
    result: FlowResult | None = None
    activity: FlowActivity | None = None
    """The flow's own counts; None for the burst."""
    brief: str = ""
    expectation: str = ""
    over_http: bool = False
    """The gateway took the request, so its result is not in the senders' reply queue."""
    in_dataverse: str = ""
    """What Dataverse shows about an earlier request. On a small terminal these outcomes share a line."""

    @property
    def flow_seconds(self) -> float | None:
        """The seconds from the first call of the flow to the result; None without a call."""
        times = self.result.times if self.result else None
        if times is None or times.started is None or times.finished is None:
            return None
        return (times.finished - times.started).total_seconds()


def request_scenarios(emulator: EmulatorClient) -> list[Scenario]:
    """Return the scenarios of single requests that need neither dead letters nor Dataverse."""
    ada = _claim(emulator, "ada", ROLE)
    return [*_answers(ada), *_refusals(emulator, ada), *_faults(ada)]


def _answers(ada: SecretStr) -> list[Scenario]:
    return [
        Scenario(
            "A front end requests a quote", "create-quote", _QUOTE, ada, "succeeded", brief="front end requests a quote"
        ),
        Scenario(
            "The flow has no response action",
            "notify-team",
            {"text": "hello"},
            ada,
            "succeeded",
            brief="flow without response action",
        ),
        Scenario("The flow responds slowly", "slow-report", {"month": "2026-11"}, ada, "succeeded", brief="slow flow"),
        Scenario(
            "The flow responds with a status URL, which the worker polls",
            "long-approval",
            {"id": 7},
            ada,
            "succeeded",
            polls=3,
            brief="long flow, status URL polled",
        ),
    ]


def _refusals(emulator: EmulatorClient, ada: SecretStr) -> list[Scenario]:
    def refused(title: str, brief: str, flow: str, value: JsonValue, claim: SecretStr | None, code: str) -> Scenario:
        return Scenario(title, flow, value, claim, "refused", code, calls=0, brief=brief)

    bob = _claim(emulator, "bob")
    forged = SecretStr(emulator.mint("mallory", ROLE, forged=True))
    return [
        refused(
            "The sender lacks the app role", "sender without the app role", "create-quote", _QUOTE, bob, "role_missing"
        ),
        refused("The request has no claim", "request without a claim", "create-quote", _QUOTE, None, "claim_missing"),
        refused("The claim is forged", "forged claim", "create-quote", _QUOTE, forged, "claim_invalid"),
        refused("The flow is not registered", "unregistered flow", "delete-everything", None, ada, "unknown_flow"),
        refused(
            "The input violates the worker's schema",
            "input against worker's schema",
            "create-quote",
            _INVALID_QUOTE,
            ada,
            "input_schema_mismatch",
        ),
    ]


def _faults(ada: SecretStr) -> list[Scenario]:
    return [
        Scenario(
            "The input violates the flow's own schema",
            "create-quote-unchecked",
            _INVALID_QUOTE,
            ada,
            "failed",
            "TriggerInputSchemaMismatch",
            brief="input against the flow's schema",
        ),
        Scenario(
            "The flow fails without a response",
            "broken-approval",
            {"id": 7},
            ada,
            "unknown",
            "NoResponse",
            brief="flow fails without a response",
        ),
        Scenario(
            "The flow throttles; the worker calls it again",
            "throttled-sync",
            {"id": 7},
            ada,
            "succeeded",
            calls=3,
            brief="flow throttles, is called again",
        ),
        Scenario(
            "The response is lost; the flow is not idempotent, so no second call",
            "charge-card",
            {"id": 7},
            ada,
            "unknown",
            "flow_no_answer",
            brief="response lost: no second call",
            is_settled=True,
        ),
        Scenario(
            "The response is lost; the flow is idempotent, so a second call",
            "rebuild-index",
            {"id": 7},
            ada,
            "succeeded",
            calls=2,
            brief="response lost, idempotent flow",
        ),
    ]


async def run_scenario(
    emulator: EmulatorClient, client: FlowClient, scenario: Scenario, correlation_id: str
) -> ScenarioOutcome:
    """Send the scenario's request and wait for its result."""
    began = time.perf_counter()
    await client.submit(scenario.flow, scenario.input, claim=scenario.claim, correlation_id=correlation_id)
    return await wait_for_outcome(emulator, client, scenario, correlation_id, began)


async def wait_for_outcome(
    emulator: EmulatorClient, client: FlowClient, scenario: Scenario, correlation_id: str, began: float
) -> ScenarioOutcome:
    """Wait for the scenario's result, leave it in the reply queue, and compare it and the flow's counts.

    `began` is the start of the scenario by `time.perf_counter`.
    """
    title, flow = scenario.title, scenario.flow
    try:
        result = await client.wait(correlation_id, timeout=WAIT_SECONDS)
    except ResultTimeout as error:
        seconds = time.perf_counter() - began
        return ScenarioOutcome(
            correlation_id,
            title,
            flow,
            "no result",
            str(error),
            seconds,
            ok=False,
            brief=scenario.brief,
            expectation=scenario.expectation,
        )
    seconds = time.perf_counter() - began
    activity = await asyncio.to_thread(emulator.activity, flow, correlation_id)
    return outcome_of(scenario, result, activity, seconds)


def outcome_of(
    scenario: Scenario, result: FlowResult, activity: FlowActivity, seconds: float, *, over_http: bool = False
) -> ScenarioOutcome:
    """Compare a result and the flow's counts with the scenario."""
    code = result.error.code if result.error else None
    actual = (result.status, code, activity.calls, activity.polls)
    return ScenarioOutcome(
        result.correlation_id,
        scenario.title,
        scenario.flow,
        result.status if code is None else f"{result.status}: {code}",
        _detail(result),
        seconds,
        actual == (scenario.status, scenario.code, scenario.calls, scenario.polls),
        result,
        activity,
        brief=scenario.brief,
        expectation=scenario.expectation,
        over_http=over_http,
    )


async def run_burst(
    client: FlowClient, claim: SecretStr, count: int, name: str, step: Callable[[], None]
) -> ScenarioOutcome:
    """Send `count` requests at once from a background integration, which receives all results in one session."""
    began = time.perf_counter()
    async with client.background() as background:

        async def request(number: int) -> bool:
            value: JsonValue = {"customer": f"Customer {number}", "amount": number}
            correlation_id = await background.submit(
                "create-quote", value, claim=claim, correlation_id=f"{name}-b{number}"
            )
            result = await background.wait(correlation_id, timeout=WAIT_SECONDS + count / 10)
            step()
            return result.status == "succeeded" and result.correlation_id == correlation_id

        successes = await asyncio.gather(*(request(number) for number in range(1, count + 1)))
    seconds = time.perf_counter() - began
    succeeded = sum(successes)
    return ScenarioOutcome(
        f"{name}-b…",
        f"A background integration sends a burst of {count} requests",
        "create-quote",
        f"{succeeded} of {count} succeeded",
        f"{count / seconds:.0f} requests/s",
        seconds,
        succeeded == count,
        brief=f"burst of {count} requests",
        expectation=f"{count} of {count} succeeded",
    )


def unanswerable() -> Message:
    """Return a request without a usable reply address: the worker can only dead-letter it."""
    return Message(
        body=b'{"flow": "create-quote"}',
        content_type="application/json",
        message_id=str(uuid.uuid4()),
        correlation_id="x" * 200,
        application_properties={"contract": CONTRACT},
    )


def _claim(emulator: EmulatorClient, user: str, *roles: str) -> SecretStr:
    return SecretStr(emulator.mint(user, *roles))


def _detail(result: FlowResult) -> str:
    if result.error:
        return result.error.message
    if result.output is not None:
        return json.dumps(result.output, ensure_ascii=False)
    return f"HTTP {result.http_status}, no output"
