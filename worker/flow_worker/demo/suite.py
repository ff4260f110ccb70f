"""The demo's scenarios, run in one environment: single requests side by side, then a burst."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
from pydantic import SecretStr

from flow_contracts.client import FlowClient
from flow_contracts.servicebus import ServiceBus
from flow_worker.demo.dead_letter import REQUESTS, list_dead_letters, run_dead_letter_scenarios, seal_of
from flow_worker.demo.environment import ROLE, DemoEnvironment, EmulatorClient
from flow_worker.demo.http_scenarios import run_http_scenarios
from flow_worker.demo.privileges import run_privilege_scenarios
from flow_worker.demo.report import DemoReport
from flow_worker.demo.scenarios import (
    Scenario,
    ScenarioOutcome,
    request_scenarios,
    run_burst,
    run_scenario,
    unanswerable,
)
from flow_worker.demo.sinks import wait_for_settling
from flow_worker.pipeline.seal import Seal
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import ServiceBusSettings

_SCENARIOS_BESIDE_REQUESTS = 2
"""The dead-letter scenarios and the privilege scenarios each count as one in the progress."""
_T = TypeVar("_T")
Say = Callable[[str], None]
"""Shows one sentence about the progress."""


async def run_scenarios(environment: DemoEnvironment, burst: int, say: Say) -> DemoReport:
    """Run every scenario and a burst of that many requests; return their outcomes and the state of the queues."""
    emulator = environment.emulator
    settings = ServiceBusSettings(connection_string=SecretStr(emulator.connection_string))
    async with (
        open_service_bus(settings) as bus,
        FlowClient.from_connection_string(emulator.connection_string) as client,
    ):
        await bus.send(REQUESTS, unanswerable())
        seal = seal_of(environment.folder)
        name = f"demo-{secrets.token_hex(2)}"
        single = await _run_single(emulator, bus, client, seal, name, say)
        say("Sending a request over HTTP ...")
        single += await run_http_scenarios(environment)
        many = await _run_burst(emulator, client, name, burst, say) if burst else None
        say("Counting results and dead letters ...")
        return DemoReport(single, many, _queue_counts(emulator), await list_dead_letters(bus, seal))


async def _run_single(
    emulator: EmulatorClient, bus: ServiceBus, client: FlowClient, seal: Seal, name: str, say: Say
) -> list[ScenarioOutcome]:
    """Run the scenarios of single requests concurrently: they mostly wait, each for something else."""
    scenarios = request_scenarios(emulator)
    total, done = len(scenarios) + _SCENARIOS_BESIDE_REQUESTS, 0

    async def counted(scenario: Awaitable[_T]) -> _T:
        nonlocal done
        outcome = await scenario
        done += 1
        say(f"Sending single requests: {done} of {total} answered ...")
        return outcome

    say(f"Sending single requests: {done} of {total} answered ...")

    requests = (
        _run_request(emulator, client, scenario, f"{name}-{number}") for number, scenario in enumerate(scenarios, 1)
    )
    dead_letters = run_dead_letter_scenarios(emulator, bus, client, seal, f"{name}-{len(scenarios) + 1}")
    privileges = run_privilege_scenarios(emulator, client, name)
    by_request, by_privilege, by_dead_letter = await asyncio.gather(
        asyncio.gather(*map(counted, requests)), counted(privileges), counted(dead_letters)
    )
    return [*itertools.chain(*by_request), *by_privilege, *by_dead_letter]


async def _run_request(
    emulator: EmulatorClient, client: FlowClient, scenario: Scenario, correlation_id: str
) -> list[ScenarioOutcome]:
    outcome = await run_scenario(emulator, client, scenario, correlation_id)
    if not (scenario.is_settled and outcome.ok):
        return [outcome]
    return [outcome, await wait_for_settling(client, outcome)]


async def _run_burst(emulator: EmulatorClient, client: FlowClient, name: str, count: int, say: Say) -> ScenarioOutcome:
    claim = SecretStr(emulator.mint("ada", ROLE))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        say(f"Sending a burst of {count} requests: {done} answered ...")

    say(f"Sending a burst of {count} requests ...")
    return await run_burst(client, claim, count, name, step)


def _queue_counts(emulator: EmulatorClient) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = httpx.get(f"{emulator.web_url}/emulator/queues", timeout=10).json()
    return counts
