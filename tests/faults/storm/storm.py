"""One storm: load and faults over a running world, the drain, and the verdict of the oracle."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from flow_contracts.servicebus import ConnectionString, Deadlines, ServiceBus, ServiceBusFailure
from tests.faults.storm import configuration as config
from tests.faults.storm.faults import DISRUPTIVE, FAULTS, Fault, Occupied, Storm
from tests.faults.storm.history import save_entries
from tests.faults.storm.load import KINDS, Kind, Load, senders
from tests.faults.storm.oracle import Findings, judge, read_calls
from tests.faults.storm.queues import correlation_ids
from tests.faults.storm.replies import Replies
from tests.faults.storm.world import World, running_world

_QUIET_SECONDS = 2.0
"""The collector reads on for so long after the last message left its queue."""
_AFTERMATH_SECONDS = 20.0
"""A call that a fault interrupted may be concluded so much later."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A storm to run. The same plan draws the same requests and the same faults, in the same order."""

    seed: int
    journal: str = "sqlite"
    seconds: float = 60.0
    workers: int = 3
    rate: float = 12.0
    pause_seconds: float = 4.0
    """The mean time between the beginnings of two faults."""
    window_seconds: int = 7200
    """The duplicate detection of the reply queue: longer than the storm, unless duplicates beyond it are the matter."""
    lock_seconds: int = config.LOCK_SECONDS
    disk_megabytes: int = 64
    drain_seconds: float = 180.0
    mutant: str | None = None
    kinds: tuple[Kind, ...] = KINDS
    faults: Sequence[tuple[Fault, int]] = FAULTS


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a storm."""

    plan: Plan
    findings: Findings
    requests: int
    faults: int
    bad_exits: Sequence[str]
    undrained: str
    """What was left in the queues; empty if nothing was."""

    @property
    def line(self) -> str:
        """The whole result in one line."""
        found = self.findings
        numbers = f"lost {len(found.lost)} dup {len(found.dup)} double {len(found.double)} wrong {len(found.wrong)}"
        return (
            f"{numbers} · {self.requests} requests, {self.faults} faults, seed {self.plan.seed}, "
            f"journal {self.plan.journal}"
        )

    @property
    def is_clean(self) -> bool:
        """True if every promise held."""
        return not (self.findings.lines or self.bad_exits or self.undrained)

    @property
    def details(self) -> list[str]:
        """Everything that a person may want to know, line by line."""
        ends = [f"  {number:6} {end}" for end, number in sorted(self.findings.ends.items())]
        notes = [f"  results with fewer attempts than the flow answered calls: {self.findings.low_attempts}"]
        left = [f"undrained: {self.undrained}"] if self.undrained else []
        return [*ends, *notes, *self.findings.lines, *self.bad_exits, *left]


async def run_storm(plan: Plan, folder: Path) -> Report:
    """Run the plan with its files in `folder`, and return the oracle's report."""
    async with (
        running_world(
            folder,
            plan.journal,
            workers=plan.workers,
            window_seconds=plan.window_seconds,
            lock_seconds=plan.lock_seconds,
            disk_megabytes=plan.disk_megabytes,
            mutant=plan.mutant,
        ) as world,
        _bus(world) as bus,
        _bus(world) as reply_bus,
    ):
        ready = await asyncio.gather(*(worker.wait_ready() for worker in world.workers))
        assert all(ready), f"a worker did not start; see {folder}"
        claims = await asyncio.to_thread(senders, world.cloud)
        load = Load(bus, claims, folder / "sent.jsonl", plan.seed, plan.rate, plan.kinds)
        storm = Storm(world, load)
        replies = Replies(reply_bus, folder / "results.jsonl", load.answered.add)
        async with _background(replies.run()), _background(world.watch_workers()):
            await asyncio.gather(load.run(plan.seconds), _blow(storm, plan))
            await _calm(storm)
            undrained = await _drain(storm, plan.drain_seconds)
            await asyncio.sleep(_QUIET_SECONDS)
            # Under the locks, so that nothing starts them again.
            for worker in world.workers:
                await worker.busy.acquire()
                if (status := await worker.stop()) != 0:
                    world.bad_exits.append(f"worker {worker.number}, stopped at the end: status {status}")
            await asyncio.sleep(_QUIET_SECONDS)
        waiting = (config.MAIN, config.SIDE, config.CONTINUATIONS)
        queued = await asyncio.to_thread(correlation_ids, world.broker_port, waiting)
        disrupted = [(begin, end + _AFTERMATH_SECONDS) for begin, end in storm.disrupted]
        findings = judge(load.sent, replies.results, read_calls(world.calls_file), disrupted=disrupted, queued=queued)
        await save_entries(world, findings)
        accepted = sum(sent.accepted is not None for sent in load.sent.values())
        return Report(plan, findings, accepted, storm.done, tuple(world.bad_exits), undrained)


async def _blow(storm: Storm, plan: Plan) -> None:
    """Begin faults until the time is over, and return once all have ended."""
    order = random.Random(plan.seed + 1)  # noqa: S311 - a storm is no secret
    ends_at = time.monotonic() + plan.seconds
    choices, weights = zip(*plan.faults, strict=True)
    async with asyncio.TaskGroup() as faults:
        while True:
            await asyncio.sleep(order.uniform(0.3, 1.7) * plan.pause_seconds)
            if time.monotonic() >= ends_at:
                return
            [fault] = order.choices(choices, weights)
            faults.create_task(_inflict(storm, fault, random.Random(order.random())))  # noqa: S311


async def _inflict(storm: Storm, fault: Fault, order: random.Random) -> None:
    began = time.time()
    try:
        done = await fault(storm, order)
    except Occupied:
        return
    if fault in DISRUPTIVE:
        storm.disrupted.append((began, time.time()))
    if done is not None:
        storm.done += 1
        storm.note(f"{done} (began {began:.3f})")


async def _calm(storm: Storm) -> None:
    """End what is left of the faults."""
    await storm.world.heal()
    for path in ("identity", "issuer", "dataverse"):
        await storm.world.control(path, {"faults": []})
    storm.note("the storm is over")


async def _drain(storm: Storm, seconds: float) -> str:
    """Wait until every request has its result and the queues are empty; return what is left after `seconds`."""
    give_up_at = time.monotonic() + seconds
    left = "the broker does not answer"
    while time.monotonic() < give_up_at:
        await asyncio.sleep(0.5)
        with contextlib.suppress(httpx.HTTPError, ServiceBusFailure):
            left = await _left(storm)
            if not left:
                storm.note("drained")
                return ""
    storm.note(f"not drained: {left}")
    return left


async def _left(storm: Storm) -> str:
    counts = await storm.world.counts()
    waiting = {
        f"{queue} {state}": counts[queue][state]
        for queue in (config.MAIN, config.SIDE, config.CONTINUATIONS)
        for state in ("active", "scheduled", "deferred")
        if counts[queue][state]
    }
    unanswered = storm.load.unanswered
    if unanswered:
        waiting["requests without a result"] = len(unanswered)
    return ", ".join(f"{number} {what}" for what, number in waiting.items())


@asynccontextmanager
async def _bus(world: World) -> AsyncIterator[ServiceBus]:
    deadlines = Deadlines(open_seconds=8, send_seconds=8, settle_seconds=5, renew_seconds=5)
    endpoint = ConnectionString(config.connection_string(world.broker_port))
    async with ServiceBus(endpoint, deadlines=deadlines, senders_per_queue=16) as bus:
        yield bus


@asynccontextmanager
async def _background(work: object) -> AsyncIterator[None]:
    assert asyncio.iscoroutine(work)
    task: asyncio.Task[None] = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
