"""The demo's scenarios, run in one environment: single requests side by side, then a burst."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable
from typing import TypeVar

import httpx
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flow_contracts.client import FlowClient
from flow_contracts.servicebus import ServiceBus
from flow_worker.demo.dead_letter import REQUESTS, list_dead_letters, run_dead_letter_scenarios, seal_of
from flow_worker.demo.environment import ROLE, DemoEnvironment, EmulatorClient
from flow_worker.demo.privileges import run_privilege_scenarios
from flow_worker.demo.report import DemoReport
from flow_worker.demo.scenarios import ScenarioOutcome, request_scenarios, run_burst, run_scenario, unanswerable
from flow_worker.pipeline.seal import Seal
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import ServiceBusSettings

_SCENARIOS_BESIDE_REQUESTS = 2
"""The dead-letter scenarios and the privilege scenarios each advance the progress bar once."""
_T = TypeVar("_T")


async def run_scenarios(environment: DemoEnvironment, burst: int, console: Console) -> DemoReport:
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
        with _progress(console) as progress:
            single = await _run_single(emulator, bus, client, seal, name, progress)
            many = await _run_burst(emulator, client, name, burst, progress) if burst else None
        return DemoReport(single, many, _queue_counts(emulator), await list_dead_letters(bus, seal))


async def _run_single(
    emulator: EmulatorClient, bus: ServiceBus, client: FlowClient, seal: Seal, name: str, progress: Progress
) -> list[ScenarioOutcome]:
    """Run the scenarios of single requests concurrently: they mostly wait, each for something else."""
    scenarios = request_scenarios(emulator)
    task = progress.add_task("single requests", total=len(scenarios) + _SCENARIOS_BESIDE_REQUESTS)

    async def counted(scenario: Awaitable[_T]) -> _T:
        outcome = await scenario
        progress.advance(task)
        return outcome

    requests = (
        run_scenario(emulator, client, scenario, f"{name}-{number}") for number, scenario in enumerate(scenarios, 1)
    )
    dead_letters = run_dead_letter_scenarios(emulator, bus, client, seal, f"{name}-{len(scenarios) + 1}")
    privileges = run_privilege_scenarios(emulator, client, name)
    by_request, by_privilege, by_dead_letter = await asyncio.gather(
        asyncio.gather(*map(counted, requests)), counted(privileges), counted(dead_letters)
    )
    return [*by_request, *by_privilege, *by_dead_letter]


async def _run_burst(
    emulator: EmulatorClient, client: FlowClient, name: str, count: int, progress: Progress
) -> ScenarioOutcome:
    task = progress.add_task(f"burst of {count}", total=count)
    claim = SecretStr(emulator.mint("ada", ROLE))
    return await run_burst(client, claim, count, name, lambda: progress.advance(task))


def _queue_counts(emulator: EmulatorClient) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = httpx.get(f"{emulator.web_url}/emulator/queues", timeout=10).json()
    return counts


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
