"""The faults of the storm. The seed draws their order and their parameters; each one ends what it began."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from azure.core.exceptions import AzureError

from tests.faults.storm import configuration as config
from tests.faults.storm.load import Load
from tests.faults.storm.proxy import Network
from tests.faults.storm.queues import correlation_ids, recreate
from tests.faults.storm.world import Worker, World

_LOST_NETWORK = (Network.FROZEN, Network.BLACK_HOLE, Network.NO_ANSWERS, Network.HALF_CLOSED, Network.REFUSED)
_OUTAGE = [{"kind": "respond", "status": 503, "body": "away"}]
_CLOCK_SECONDS = 600.0
_START_SECONDS = 4.0
"""A worker with a wrong clock need not become ready, so its start takes a guess."""


@dataclass
class Storm:
    """The world, the load, and what the faults did to them."""

    world: World
    load: Load
    journal_lines: list[str] = field(default_factory=list)
    """One line for each fault, with its time."""
    done: int = 0
    disrupted: list[tuple[float, float]] = field(default_factory=list)
    """The times at which a worker was killed, frozen or cut off, as (begin, end): a call may have been lost then."""

    def note(self, text: str) -> None:
        """Add a line to the storm's own log."""
        self.journal_lines.append(f"{time.strftime('%H:%M:%S')} {time.time():.3f} {text}")
        with (self.world.folder / "faults.log").open("a", encoding="utf-8") as log:
            log.write(self.journal_lines[-1] + "\n")


Fault = Callable[[Storm, random.Random], Awaitable[str | None]]
"""Returns what it did, for the log; None if it could not be done here or now."""


# --- workers -----------------------------------------------------------------------------------------------------


class Occupied(Exception):
    """Another fault acts on every worker at the moment."""


@asynccontextmanager
async def _one_worker(storm: Storm, order: random.Random) -> AsyncIterator[Worker]:
    """Yield a worker that no other fault acts on. Raises `Occupied`."""
    free = [worker for worker in storm.world.workers if not worker.busy.locked()]
    if not free:
        raise Occupied
    worker = order.choice(free)
    async with worker.busy:
        yield worker


@asynccontextmanager
async def _free_workers(storm: Storm) -> AsyncIterator[list[Worker]]:
    """Yield all workers that no other fault acts on."""
    free = [worker for worker in storm.world.workers if not worker.busy.locked()]
    async with contextlib.AsyncExitStack() as stack:
        for worker in free:
            await stack.enter_async_context(worker.busy)
        yield free


async def kill_worker(storm: Storm, order: random.Random) -> str:
    """Kill a worker and start it again a little later."""
    async with _one_worker(storm, order) as worker:
        worker.kill()
        await asyncio.sleep(order.uniform(0, 4))
        worker.start()
        return f"killed worker {worker.number}"


async def kill_all_workers(storm: Storm, order: random.Random) -> str:
    """Kill all workers at once, and start them together."""
    async with _free_workers(storm) as workers:
        for worker in workers:
            worker.kill()
        await asyncio.sleep(order.uniform(0, 5))
        for worker in workers:
            worker.start()
        return f"killed {len(workers)} workers at once"


async def outlast_window(storm: Storm, order: random.Random) -> str:
    """Kill all workers, and start them after the reply queue's shortest duplicate detection (20 s) has passed."""
    while len(storm.load.answered) < 5:  # noqa: ASYNC110 - no event announces that results are under way
        await asyncio.sleep(0.05)
    async with _free_workers(storm) as workers:
        for worker in workers:
            worker.kill()
        await asyncio.sleep(21 + order.uniform(0, 1))
        for worker in workers:
            worker.start()
    return "killed all workers, and outlasted the duplicate detection"


async def freeze_worker(storm: Storm, order: random.Random) -> str:
    """Freeze a worker (SIGSTOP), mostly beyond its message locks."""
    seconds = order.choice((1.0, config.LOCK_SECONDS * 0.8, config.LOCK_SECONDS * 1.4))
    async with _one_worker(storm, order) as worker:
        worker.send("SIGSTOP")
        try:
            await asyncio.sleep(seconds)
        finally:
            worker.send("SIGCONT")
        return f"froze worker {worker.number} for {seconds:g} s"


async def stop_worker(storm: Storm, order: random.Random) -> str:
    """Stop a worker (SIGTERM), in half the cases over a dead network, and start it again."""
    network = order.choice((Network.SOUND, Network.SOUND, Network.FROZEN, Network.BLACK_HOLE))
    async with _one_worker(storm, order) as worker:
        if not await worker.wait_ready():
            storm.world.bad_exits.append(f"worker {worker.number} did not become ready")
            return f"worker {worker.number} was not ready to be stopped"
        worker.proxy.switch(network)
        began = time.monotonic()
        status = await worker.stop()
        seconds = time.monotonic() - began
        worker.proxy.switch(Network.SOUND)
        if status != 0:
            storm.world.bad_exits.append(
                f"worker {worker.number}, stopped over a {network} network: status {status} after {seconds:.1f} s"
            )
        worker.start()
        return f"stopped worker {worker.number} over a {network} network in {seconds:.1f} s"


async def shift_clock(storm: Storm, order: random.Random) -> str:
    """Run a worker with a clock that is ten minutes wrong for a while."""
    offset, seconds = order.choice((_CLOCK_SECONDS, -_CLOCK_SECONDS)), order.uniform(8, 20)
    async with _one_worker(storm, order) as worker:
        worker.kill()
        worker.start(clock_seconds=offset)
        await asyncio.sleep(_START_SECONDS + seconds)
        worker.kill()
        worker.start()
        return f"ran worker {worker.number} with a clock that is {offset:+g} s wrong for {seconds:.0f} s"


# --- network and broker ------------------------------------------------------------------------------------------


async def break_network(storm: Storm, order: random.Random) -> str:
    """Lose the network between one worker, or all of them, and the broker."""
    state, seconds = order.choice(_LOST_NETWORK), order.uniform(1, 12)
    everywhere = order.random() < 0.3
    workers = storm.world.workers if everywhere else [order.choice(storm.world.workers)]
    await _switch([worker for worker in workers if not worker.busy.locked()], state, seconds)
    return f"network of {len(workers)} workers {state} for {seconds:.1f} s"


async def slow_network(storm: Storm, order: random.Random) -> str:
    """Delay everything between the workers and the broker."""
    seconds = order.uniform(3, 8)
    await _switch(storm.world.workers, Network.SLOW, seconds)
    return f"network slow for {seconds:.1f} s"


async def drop_connections(storm: Storm, order: random.Random) -> str:
    """Reset the connections of all workers, twice."""
    for _ in range(2):
        for worker in storm.world.workers:
            worker.proxy.drop()
        await asyncio.sleep(order.uniform(0.2, 1))
    return "dropped all connections twice"


async def _switch(workers: list[Worker], state: Network, seconds: float) -> None:
    for worker in workers:
        worker.proxy.switch(state)
    await asyncio.sleep(seconds)
    for worker in workers:
        if worker.proxy.state is state:
            worker.proxy.switch(Network.SOUND)


async def restart_broker(storm: Storm, order: random.Random) -> str:
    """Kill the broker and start it again on its data."""
    async with storm.world.broker_busy:
        storm.world.kill_broker()
        await asyncio.sleep(order.uniform(0, 4))
        await storm.world.start_broker()
    return "restarted the broker"


async def recreate_queue(storm: Storm, order: random.Random) -> str | None:
    """Delete the side queue and make it again, at a moment when nothing unanswered is in it."""
    async with storm.world.broker_busy:
        with contextlib.suppress(AzureError, httpx.HTTPError):
            storm.load.paused.add(config.SIDE)
            try:
                if await _drained(storm, config.SIDE):
                    await asyncio.to_thread(recreate, storm.world.admin_port, config.SIDE)
                    return "deleted the side queue and made it again"
            finally:
                storm.load.paused.discard(config.SIDE)
    return None


async def _drained(storm: Storm, queue: str) -> bool:
    """Wait a while until the queue holds no request, and its dead-letter queue only answered ones."""
    give_up_at = time.monotonic() + 15
    while time.monotonic() < give_up_at:
        await asyncio.sleep(0.3)
        counts = (await storm.world.counts())[queue]
        if storm.load.in_progress[queue] or counts["active"] or counts["scheduled"]:
            continue
        dead = await asyncio.to_thread(correlation_ids, storm.world.broker_port, [queue], dead=True)
        if dead <= {f"c-{id_}" for id_ in storm.load.answered} and not (await storm.world.counts())[queue]["active"]:
            return True
    return False


# --- journal and cloud -------------------------------------------------------------------------------------------


async def lose_journal(storm: Storm, order: random.Random) -> str | None:
    """Take the journal away for longer than its deadline."""
    seconds = order.uniform(1, 3 * config.JOURNAL_DEADLINE_SECONDS)
    if (store := storm.world.store_proxy) is not None:
        state = order.choice((Network.FROZEN, Network.BLACK_HOLE, Network.NO_ANSWERS, Network.REFUSED, Network.SLOW))
        store.switch(state)
        await asyncio.sleep(seconds)
        store.switch(Network.SOUND)
        return f"table {state} for {seconds:.1f} s"
    if not storm.world.journal_path.exists():
        return None
    await asyncio.to_thread(_lock_file, str(storm.world.journal_path), seconds)
    return f"journal locked for {seconds:.1f} s"


def _lock_file(path: str, seconds: float) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    except sqlite3.Error:
        pass  # the disk is full: the journal is away all the same
    finally:
        connection.close()


async def fill_disk(storm: Storm, order: random.Random) -> str | None:
    """Fill the journal's disk for a while."""
    if storm.world.disk is None:
        return None
    filler, seconds = storm.world.disk / "filler", order.uniform(3, 12)
    began = time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            await asyncio.to_thread(_fill, str(filler))  # again and again: a checkpoint must not find room by luck
            await asyncio.sleep(0.2)
    finally:
        filler.unlink(missing_ok=True)
    return f"disk full for {seconds:.1f} s"


def _fill(path: str) -> None:
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as filler:
        while filler.write(b"x" * 65_536):
            pass
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as filler:
        while filler.write(b"x" * 512):
            pass


async def lose_cloud(storm: Storm, order: random.Random) -> str:
    """Take identity, keys or Dataverse away, or all of them."""
    paths = order.choice((["identity"], ["issuer"], ["dataverse"], ["identity", "issuer", "dataverse"]))
    seconds = order.uniform(3, 12)
    for path in paths:
        await storm.world.control(path, {"faults": _OUTAGE})
    await asyncio.sleep(seconds)
    for path in paths:
        await storm.world.control(path, {"faults": []})
    return f"{' and '.join(paths)} away for {seconds:.1f} s"


FAULTS: tuple[tuple[Fault, int], ...] = (
    (kill_worker, 10),
    (kill_all_workers, 3),
    (stop_worker, 6),
    (break_network, 12),
    (slow_network, 2),
    (drop_connections, 3),
    (restart_broker, 4),
    (recreate_queue, 3),
    (lose_journal, 6),
    (fill_disk, 4),
    (lose_cloud, 5),
    (shift_clock, 3),
    *(() if sys.platform == "win32" else ((freeze_worker, 7),)),
)
"""The faults and how often each one comes. Windows has no SIGSTOP."""
DISRUPTIVE = frozenset(
    {kill_worker, kill_all_workers, outlast_window, stop_worker, freeze_worker, shift_clock, lose_journal, fill_disk}
)
"""The faults in which the worker that made a call may be unable to record its answer."""
