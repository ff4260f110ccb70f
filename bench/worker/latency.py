"""How much later a result comes because something stands between sender and flow."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from bench.samples import Summary
from bench.worker.load import claims, request
from bench.worker.stage import Cell, Stage, running
from bench.worker.subjects import REPLIES, REQUESTS
from flow_contracts.servicebus.conversion import to_sdk

_WARM_UP = 20
_WARM_UP_SECONDS = 3.0
"""At a rate: as many connections as it takes are made then."""
_MAX_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the requests of one run."""

    to_flow: Summary
    """From enqueuing to the flow's being called."""
    to_result: Summary
    """From the flow's answer to its being received by the sender."""


def measure(cell: Cell, *, requests: int, per_second: float | None) -> Latency:
    """One request at a time, or so many a second, at random moments."""
    with running(cell) as stage:
        return asyncio.run(_measured(stage, requests, per_second))


async def _measured(stage: Stage, requests: int, per_second: float | None) -> Latency:
    async with Sender.open(stage) as sender:
        for _ in range(_WARM_UP):
            await sender.ask()
        if per_second is None:
            asked = [await sender.ask() for _ in range(requests)]
        else:
            asked = await _at_rate(sender, requests, per_second)
    async with httpx.AsyncClient() as http:
        calls = (await http.get(stage.flow_url.replace("/invoke?api-version=1", "/calls"))).json()
    return of(asked, calls)


async def _at_rate(sender: Sender, requests: int, per_second: float) -> list[_Asked]:
    chance = random.Random(7)  # noqa: S311 - the same moments each time
    async with asyncio.TaskGroup() as tasks:
        asked = []
        moment = time.time()
        for _ in range(requests + round(_WARM_UP_SECONDS * per_second)):
            moment += chance.expovariate(per_second)
            await asyncio.sleep(max(0.0, moment - time.time()))
            asked.append(tasks.create_task(sender.ask()))
    return [task.result() for task in asked[-requests:]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request: its correlation ID, and when it was enqueued and its result received."""

    correlation_id: str
    enqueued_at: float
    received_at: float


def of(asked: Sequence[_Asked], calls: dict[str, tuple[float, float]]) -> Latency:
    """From what the sender saw and what the flow saw, both by the same clock."""
    return Latency(
        Summary.of([calls[one.correlation_id][0] - one.enqueued_at for one in asked]),
        Summary.of([one.received_at - calls[one.correlation_id][1] for one in asked]),
    )


class Sender:
    """Sends requests, and receives all their results in one session that stays open."""

    def __init__(self, stage: Stage, sender: ServiceBusSender, replies: ServiceBusReceiver, session: str) -> None:
        self._sender = sender
        self._replies = replies
        self._session = session
        self._claims = claims(stage.emulator)
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, stage: Stage) -> AsyncIterator[Sender]:
        """Until the block ends."""
        session = str(uuid.uuid4())
        async with (
            ServiceBusClient.from_connection_string(stage.emulator.connection_string) as client,
            client.get_queue_sender(REQUESTS) as sender,
            client.get_queue_receiver(REPLIES, session_id=session, prefetch_count=50) as replies,
        ):
            one = cls(stage, sender, replies, session)
            receiving = asyncio.create_task(one._receive())
            try:
                yield one
            finally:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)

    async def ask(self) -> _Asked:
        """Send one request and wait for its result."""
        wanted = request(random.choice(self._claims), self._session)  # noqa: S311 - any will do
        done = self._waiting[wanted.correlation_id] = asyncio.get_running_loop().create_future()
        async with self._one_at_a_time:  # the SDK's senders are for one task
            enqueued_at = time.time()
            await self._sender.send_messages(to_sdk(wanted.to_message()))
        async with asyncio.timeout(_MAX_SECONDS):
            return _Asked(wanted.correlation_id, enqueued_at, await done)

    async def _receive(self) -> None:
        async for message in self._replies:
            self._received(message)

    def _received(self, message: ServiceBusReceivedMessage) -> None:
        waiting = self._waiting.pop(message.correlation_id or "", None)
        if waiting is not None and not waiting.done():
            json.loads(b"".join(message.body))  # it can be read
            waiting.set_result(time.time())
