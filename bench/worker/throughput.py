"""Measures the requests a second that a subject processes, and the processor time and memory that it uses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import assert_never

import httpx

from bench.worker import celery_load, load
from bench.worker.baselines import REPLIES
from bench.worker.case import Case, Subject
from bench.worker.environment import Environment, running
from flow_worker.demo.environment import EmulatorClient

START_SECONDS = 60.0
FillQueue = Callable[[EmulatorClient, int], Coroutine[None, None, None]]
_OBSERVE_SECONDS = 0.05
_WARM_UP = 0.15
"""This fraction of the results precedes the measurement: the subject opens connections and fills caches meanwhile."""
_COOL_DOWN = 0.95
"""The measurement ends at this fraction of the results: the last requests no longer fill all lanes."""


class NoResultError(Exception):
    """The subject published no result in time."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of the subject at one moment (seconds since the epoch)."""

    at: float
    results: int
    cpu_seconds: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """The measurement of one run."""

    per_second: float
    cpu_us: float
    """Processor time of the subject per request, in microseconds."""
    rss_mb: float
    """The maximum."""
    first_result_seconds: float
    """From the start of the subject's process to the first result, with requests already waiting."""


def measure(case: Case, *, seconds: float, max_requests: int) -> Throughput:
    """Measure until `max_requests` are processed or `seconds` have passed. Raise `NoResultError` without results."""
    with running(case) as environment:
        observations = asyncio.run(_observe_run(environment, _fill_queue(case.subject), seconds, max_requests))
        return throughput_of(observations, environment.started_at, max_requests)


def _fill_queue(subject: Subject) -> FillQueue:
    match subject:
        case Subject.CELERY | Subject.CELERY_PREFORK:
            return celery_load.fill_queue
        case Subject.FLOOR | Subject.DOCUMENTED | Subject.SEQUENTIAL | Subject.WORKER | Subject.TWO_WORKERS:
            return load.fill_queue
    assert_never(subject)


async def _observe_run(
    environment: Environment, fill_queue: FillQueue, seconds: float, max_requests: int
) -> list[Observation]:
    observations: list[Observation] = []
    filling = asyncio.create_task(fill_queue(environment.emulator, max_requests))
    ends = time.time() + START_SECONDS
    async with httpx.AsyncClient(base_url=environment.emulator.web_url, timeout=30) as http:
        while time.time() < ends and (not observations or observations[-1].results < max_requests):
            before = observations[-1].results if observations else 0
            observations.append(await _observe(environment, http))
            if not before and observations[-1].results:  # the start-up of the subject does not count as run time
                ends = time.time() + seconds
            await asyncio.sleep(_OBSERVE_SECONDS)
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)
    return observations


async def _observe(environment: Environment, http: httpx.AsyncClient) -> Observation:
    counts = (await http.get("/emulator/queues")).json()
    return Observation(time.time(), counts[REPLIES]["active"], environment.cpu_seconds(), environment.rss_mb())


def throughput_of(observations: Sequence[Observation], started_at: float, max_requests: int) -> Throughput:
    """Compute the throughput between warm-up and cool-down. Raise `NoResultError` if there was no result."""
    with_results = [one for one in observations if one.results]
    if not with_results:
        raise NoResultError(f"the subject published no result within {START_SECONDS:g} s")
    end = min(max_requests, with_results[-1].results)
    measured = [one for one in with_results if _WARM_UP * end <= one.results <= _COOL_DOWN * end]
    if len(measured) < 2 or measured[-1].results == measured[0].results:
        measured = [with_results[0], with_results[-1]]  # a run too short to leave anything out
    first, last = measured[0], measured[-1]
    requests = max(1, last.results - first.results)
    return Throughput(
        per_second=requests / max(last.at - first.at, 1e-9),
        cpu_us=1e6 * (last.cpu_seconds - first.cpu_seconds) / requests,
        rss_mb=max(one.rss_mb for one in observations),
        first_result_seconds=with_results[0].at - started_at,
    )
