"""The scenario of a request that the worker dead-letters and an operator replays after the flow is repaired."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from pydantic import SecretStr

from flow_contracts.client import FlowClient
from flow_contracts.servicebus import ServiceBus
from flow_worker.dead_letters.actions import replay_with, settle_all
from flow_worker.dead_letters.filter import DeadLetterFilter
from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.demo import flows
from flow_worker.demo.environment import JOURNAL, ROLE, EmulatorClient
from flow_worker.demo.processes import DemoError
from flow_worker.demo.scenarios import Scenario, ScenarioOutcome, run_scenario, wait_for_outcome
from flow_worker.pipeline import decode
from flow_worker.pipeline.decode import Reader
from flow_worker.pipeline.seal import Seal
from flow_worker.runtime.seal_keys import find_seal
from flow_worker.settings import ContinuationSettings, JournalSettings, RequestQueue

REQUESTS = "flow-requests"
CONTINUATIONS = "flow-continuations"

_FLOW = "sync-inventory"
_MAX_DEAD_LETTER_SECONDS = 10.0
_POLL_SECONDS = 0.1


async def run_dead_letter_scenarios(
    emulator: EmulatorClient, bus: ServiceBus, client: FlowClient, seal: Seal, correlation_id: str
) -> list[ScenarioOutcome]:
    """Call a failing flow until the worker gives up; repair the flow, and replay the request."""
    claim = SecretStr(emulator.mint("ada", ROLE))
    title = "The flow keeps failing; the worker dead-letters the request"
    failing = Scenario(
        title, _FLOW, {"id": 7}, claim, "failed", "NoResponse", calls=2, brief="flow keeps failing: dead letter"
    )
    given_up = await run_scenario(emulator, client, failing, correlation_id)
    if not given_up.ok:
        return [given_up]
    # The replay's result has the same correlation ID, so the first result must leave the reply queue.
    await client.take(correlation_id)
    await asyncio.to_thread(flows.repair, emulator.web_url, _FLOW)
    began = time.perf_counter()
    await _replay(bus, seal)
    title = "The flow is repaired; an operator replays the request"
    replayed = Scenario(title, _FLOW, {"id": 7}, claim, "succeeded", calls=3, brief="dead letter is replayed")
    return [given_up, await wait_for_outcome(emulator, client, replayed, correlation_id, began)]


async def list_dead_letters(bus: ServiceBus, seal: Seal, flow: str | None = None) -> list[DeadLetterView]:
    """Return the dead letters of one flow, or of all. Raise `ServiceBusFailure`."""
    return await DeadLetterFilter(_readers(seal), flow=flow).views(bus)


def seal_of(folder: Path) -> Seal:
    """Return the seal of the demo's worker, which keeps its key beside its journal. Raise `DemoError`."""
    seal = find_seal(ContinuationSettings(queue=CONTINUATIONS), JournalSettings(path=folder / JOURNAL))
    if seal is None:
        raise DemoError(f"The worker has no key for its continuation messages beside its journal in {folder}.")
    return seal


def _readers(seal: Seal) -> dict[str, Reader]:
    return decode.readers([RequestQueue(name=REQUESTS)], CONTINUATIONS, seal)


async def _replay(bus: ServiceBus, seal: Seal) -> None:
    """Do the same as `flow-worker deadletters replay --flow`. Raise `DemoError` if there is nothing to replay."""
    try:
        # The worker publishes the result first and dead-letters the request afterwards, so the message may be late.
        async with asyncio.timeout(_MAX_DEAD_LETTER_SECONDS):
            while not (views := await list_dead_letters(bus, seal, _FLOW)):  # noqa: ASYNC110 - a queue sends no events
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise DemoError(f"The worker did not dead-letter the request within {_MAX_DEAD_LETTER_SECONDS:g} s.") from None
    await settle_all(bus, views, replay_with(bus, CONTINUATIONS, _readers(seal), seal), lambda _: None)
