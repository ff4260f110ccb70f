"""A request that ends in a dead-letter queue, and is replayed from there once its flow is repaired."""

from __future__ import annotations

import asyncio
import time

from pydantic import SecretStr

from flow_contracts.client import FlowClient
from flow_contracts.servicebus import ServiceBus
from flow_worker.cli.dead_letter_actions import replay, settle
from flow_worker.cli.dead_letter_filter import Selection
from flow_worker.cli.dead_letter_view import Letter
from flow_worker.demo import flows
from flow_worker.demo.environment import ROLE, DemoError, EmulatorClient
from flow_worker.demo.scenarios import Ended, Scene, awaited, play_scene
from flow_worker.pipeline import decode
from flow_worker.settings import RequestQueue

REQUESTS = "flow-requests"
CONTINUATIONS = "flow-continuations"
READERS = decode.readers([RequestQueue(name=REQUESTS)], CONTINUATIONS)

_FLOW = "sync-inventory"
_DEAD_WITHIN_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.1


async def play_dead_letter(
    emulator: EmulatorClient, bus: ServiceBus, client: FlowClient, correlation_id: str
) -> list[Ended]:
    """Ask a flow that is down until the request is given up; repair the flow, and replay the request."""
    claim = SecretStr(emulator.mint("ada", ROLE))
    down = Scene("a flow that stays down, dead-lettered", _FLOW, {"id": 7}, claim, "failed", "NoResponse", calls=2)
    given_up = await play_scene(emulator, client, down, correlation_id)
    if not given_up.ok:
        return [given_up]
    await client.take(correlation_id)  # the replay's result comes to the same place, under the same correlation ID
    await asyncio.to_thread(flows.repair, emulator.web_url, _FLOW)
    began = time.perf_counter()
    await _replay(bus)
    replayed = Scene("the same, repaired and replayed", _FLOW, {"id": 7}, claim, "succeeded", calls=3)
    return [given_up, await awaited(emulator, client, replayed, correlation_id, began)]


async def lying(bus: ServiceBus, flow: str | None = None) -> list[Letter]:
    """What the dead-letter queues hold: of one flow, or all. Raises `ServiceBusFailure`."""
    return await Selection(READERS, flow=flow).letters(bus)


async def _replay(bus: ServiceBus) -> None:
    """As `flow-worker deadletters replay --flow` does. Raises `DemoError` if there is nothing to replay."""
    try:
        async with asyncio.timeout(_DEAD_WITHIN_SECONDS):  # it is put there right after the result is told
            while not (letters := await lying(bus, _FLOW)):  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
    except TimeoutError:
        raise DemoError(f"The request was given up, but not dead-lettered in {_DEAD_WITHIN_SECONDS:g} s.") from None
    await settle(bus, letters, replay(bus, CONTINUATIONS, READERS), lambda _: None)
