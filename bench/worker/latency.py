"""Measures the latency that a subject adds between the sender and the flow."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from bench.summary import Summary
from bench.worker.baselines import REPLIES, REQUESTS
from bench.worker.case import Case
from bench.worker.environment import Environment, running
from bench.worker.load import claims, new_request
from flow_contracts.servicebus.conversion import to_sdk

_WARM_UP = 20
_WARM_UP_SECONDS = 3.0
"""At a fixed rate. The subject opens as many connections as the rate needs meanwhile."""
_MAX_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Latency:
    """The latencies of the requests of one run."""

    to_flow: Summary
    """From the enqueuing of the request to the call of the flow."""
    to_result: Summary
    """From the flow's answer to the moment when the sender received the result."""


@dataclass(frozen=True, slots=True)
class TimedRequest:
    """When a request was sent, and when its result arrived; seconds since the epoch."""

    correlation_id: str
    enqueued_at: float
    received_at: float


def measure(case: Case, *, requests: int, per_second: float | None) -> Latency:
    """Measure one request at a time (`per_second` is None), or at random moments with this average rate."""
    with running(case) as environment:
        return asyncio.run(_measure(environment, requests, per_second))


async def _measure(environment: Environment, requests: int, per_second: float | None) -> Latency:
    async with Requester.open(environment) as requester:
        for _ in range(_WARM_UP):
            await requester.time_request()
        if per_second is None:
            timed = [await requester.time_request() for _ in range(requests)]
        else:
            timed = await _at_rate(requester, requests, per_second)
    async with httpx.AsyncClient() as http:
        calls = (await http.get(environment.flow_url.replace("/invoke?api-version=1", "/calls"))).json()
    return latency_of(timed, calls)


async def _at_rate(requester: Requester, requests: int, per_second: float) -> list[TimedRequest]:
    """Send requests at random moments (a Poisson process), however long each takes.

    Requests at even intervals would never queue behind each other, as the requests of independent senders do.
    """
    # A fixed seed: every subject gets the same moments.
    chance = random.Random(7)  # noqa: S311 - no secret depends on it
    async with asyncio.TaskGroup() as tasks:
        pending = []
        moment = time.time()
        for _ in range(requests + round(_WARM_UP_SECONDS * per_second)):
            moment += chance.expovariate(per_second)
            await asyncio.sleep(max(0.0, moment - time.time()))
            pending.append(tasks.create_task(requester.time_request()))
    return [task.result() for task in pending[-requests:]]


def latency_of(timed: Sequence[TimedRequest], calls: Mapping[str, tuple[float, float]]) -> Latency:
    """Combine the sender's times with the times of each call and answer at the flow. Both use the same clock."""
    return Latency(
        Summary.of([calls[request.correlation_id][0] - request.enqueued_at for request in timed]),
        Summary.of([request.received_at - calls[request.correlation_id][1] for request in timed]),
    )


class Requester:
    """Sends requests and receives all their results in one reply session.

    One open session: to accept a new session for each request would cost more than the latency to measure.
    """

    def __init__(
        self, environment: Environment, sender: ServiceBusSender, replies: ServiceBusReceiver, session: str
    ) -> None:
        self._sender = sender
        self._replies = replies
        self._session = session
        self._claims = claims(environment.emulator)
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self._send_lock = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, environment: Environment) -> AsyncIterator[Requester]:
        """Open a sender and a reply session until the block ends."""
        session = str(uuid.uuid4())
        async with (
            ServiceBusClient.from_connection_string(environment.emulator.connection_string) as client,
            client.get_queue_sender(REQUESTS) as sender,
            client.get_queue_receiver(REPLIES, session_id=session, prefetch_count=50) as replies,
        ):
            requester = cls(environment, sender, replies, session)
            receiving = asyncio.create_task(requester._receive())
            try:
                yield requester
            finally:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)

    async def time_request(self) -> TimedRequest:
        """Send one request and wait for its result. Raise `TimeoutError` if none arrives within 60 s."""
        claim = random.choice(self._claims)  # noqa: S311 - no secret depends on it
        request = new_request(claim, self._session)
        received_at = self._waiting[request.correlation_id] = asyncio.get_running_loop().create_future()
        async with self._send_lock:  # the SDK's senders are for one task at a time
            enqueued_at = time.time()
            await self._sender.send_messages(to_sdk(request.to_message()))
        async with asyncio.timeout(_MAX_SECONDS):
            return TimedRequest(request.correlation_id, enqueued_at, await received_at)

    async def _receive(self) -> None:
        async for message in self._replies:
            self._resolve(message)

    def _resolve(self, message: ServiceBusReceivedMessage) -> None:
        waiting = self._waiting.pop(message.correlation_id or "", None)
        if waiting is not None and not waiting.done():
            json.loads(b"".join(message.body))  # a real sender decodes the result, so the time includes that
            waiting.set_result(time.time())
