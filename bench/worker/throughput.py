"""How many requests a second are worked off, and at what cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

import httpx

from bench.worker import celery_load
from bench.worker.load import fill
from bench.worker.stage import CELERY, CELERY_PREFORK, Cell, Stage, running
from bench.worker.subjects import REPLIES
from flow_worker.demo.environment import EmulatorClient

START_SECONDS = 60.0
Fill = Callable[[EmulatorClient, int], Coroutine[None, None, None]]
_GLANCE_SECONDS = 0.05
_WARM_UP = 0.15
"""This part of the results comes before the measurement: connections and caches are made then."""
_COOL_DOWN = 0.95


class NothingCame(Exception):
    """No result came in time: what is measured does not work."""


@dataclass(frozen=True, slots=True)
class Glance:
    """How far things were at a moment (seconds since the epoch)."""

    at: float
    results: int
    cpu_seconds: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one run gave."""

    per_second: float
    cpu_us: float
    """Processor time of what is measured, per request, in microseconds."""
    rss_mb: float
    """The most it held."""
    first_result_seconds: float
    """From the start of its process, the first request waiting."""


def measure(cell: Cell, *, seconds: float, most: int) -> Throughput:
    """Work off `most` requests, or as many as go into so many seconds. Raises `NothingCame`."""
    filled_by = celery_load.fill if cell.subject in (CELERY, CELERY_PREFORK) else fill
    with running(cell) as stage:
        return of(asyncio.run(_watched(stage, filled_by, seconds, most)), stage.started_at, most)


async def _watched(stage: Stage, fill_queue: Fill, seconds: float, most: int) -> list[Glance]:
    glances: list[Glance] = []
    filling = asyncio.create_task(fill_queue(stage.emulator, most))
    ends = time.time() + START_SECONDS
    async with httpx.AsyncClient(base_url=stage.emulator.web_url, timeout=30) as http:
        while time.time() < ends and (not glances or glances[-1].results < most):
            before = glances[-1].results if glances else 0
            glances.append(await _glance(stage, http))
            if not before and glances[-1].results:  # the first: the clock runs from here
                ends = time.time() + seconds
            await asyncio.sleep(_GLANCE_SECONDS)
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)
    return glances


async def _glance(stage: Stage, http: httpx.AsyncClient) -> Glance:
    counts = (await http.get("/emulator/queues")).json()
    return Glance(time.time(), counts[REPLIES]["active"], stage.cpu_seconds(), stage.rss_mb())


def of(glances: Sequence[Glance], started_at: float, most: int) -> Throughput:
    """Between warm-up and cool-down. Raises `NothingCame`."""
    some = [one for one in glances if one.results]
    if not some:
        raise NothingCame(f"no result within {START_SECONDS:g} s")
    end = min(most, some[-1].results)
    inside = [one for one in some if _WARM_UP * end <= one.results <= _COOL_DOWN * end]
    if len(inside) < 2 or inside[-1].results == inside[0].results:
        inside = [some[0], some[-1]]
    first, last = inside[0], inside[-1]
    done = max(1, last.results - first.results)
    return Throughput(
        per_second=done / max(last.at - first.at, 1e-9),
        cpu_us=1e6 * (last.cpu_seconds - first.cpu_seconds) / done,
        rss_mb=max(one.rss_mb for one in glances),
        first_result_seconds=some[0].at - started_at,
    )
