"""Measures one attack: its own emulator, flow and worker, and an ordinary sender beside it."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from pydantic import JsonValue, SecretStr

from bench.hostile.answers import ANSWERS, encoded_answer, hostile_flow
from bench.hostile.messages import MESSAGES, SCHEMAS, request
from flow_contracts.client import Background, FlowClient
from flow_worker.demo.environment import ROLE
from servicebus_emulator import config
from servicebus_emulator.cloud.entra.issuer import TokenRequest
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.message_encoding import parse_message

NOTHING = "nothing"
"""The name of the measurement without an attack."""
STUCK_SECONDS = 60.0
"""A worker that takes longer counts as stuck."""
MAX_MESSAGE_BYTES = 2**20
"""The largest message that azure-servicebus receives. The queues of the Premium tier take it."""
_QUEUE = "flow-requests"
_CALLS = 3
_GOOD_EVERY_SECONDS = 0.1
_WARM_UP = 15
_SAMPLE_SECONDS = 0.01
_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: by messages, or by the answers of a flow."""

    source: str
    name: str


ATTACKS = (
    Attack("-", NOTHING),
    *(Attack("sender", name) for name in MESSAGES),
    *(Attack("flow", name) for name in ANSWERS),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one attack."""

    loop_ms: float | None
    """The longest time for which the loop ran nothing else; None if the worker was stuck at the end."""
    cpu_ms: float | None
    """The most processor time that the worker used meanwhile, in all threads. Other programs do not add to it, so on a
    busy machine it tells the worker's own part of `loop_ms`."""
    added_mb: float
    """The peak of the worker's memory, its child processes included, above that before the attack."""
    others: list[float] = field(repr=False)
    """The seconds from submit to result of an ordinary sender's requests."""

    @property
    def median_ms(self) -> float:
        """The median time of the ordinary sender."""
        return statistics.median(self.others) * 1000

    @property
    def slowest_ms(self) -> float:
        """The longest time of the ordinary sender."""
        return max(self.others) * 1000


async def cost_of(attack: Attack, seconds: float) -> Cost:
    """Run the attack beside an ordinary sender for some seconds."""
    with TemporaryDirectory(prefix="flow-worker-bench-") as folder:
        async with (
            running_emulator(config.load(), Endpoints(amqp_port=0, http_port=0)) as emulator,
            hostile_flow() as hostile,
            _worker(Path(folder), _settings(emulator, hostile), emulator) as worker,
            FlowClient.from_connection_string(emulator.connection_string) as client,
            client.background() as background,
        ):
            queue = emulator.broker.find(_QUEUE)
            emulator.broker.update(replace(queue.settings, max_message_bytes=MAX_MESSAGE_BYTES))
            emulator.web.flows.put("good", {"response": {"echo": True}})
            good = SecretStr(_claim_of(emulator, "ada"))
            for _ in range(_WARM_UP):
                await _timed(background, good)
            # Built before the measurement: this process serves the broker and the ordinary sender too.
            messages = [parse_message(one) for one in _payloads(attack, _claim_of(emulator, "mallory"))]
            return await _measured(
                worker,
                lambda: _strike(emulator, messages),
                lambda: _ordinary(background, good, seconds),
            )


async def _measured(
    worker: asyncio.subprocess.Process,
    strike: Callable[[], Coroutine[None, None, None]],
    ordinary: Callable[[], Coroutine[None, None, list[float]]],
) -> Cost:
    memory = _Memory(psutil.Process(worker.pid))
    assert worker.stdin is not None and worker.stdout is not None  # noqa: S101, PT018 - both are pipes
    worker.stdin.write(b"begin\n")
    async with asyncio.TaskGroup() as tasks:
        sampling = tasks.create_task(memory.sample())
        others = tasks.create_task(ordinary())
        await strike()
        times = await others
        sampling.cancel()
    worker.stdin.write(b"end\n")
    loop_ms, cpu_ms = None, None
    with suppress(TimeoutError):
        async with asyncio.timeout(STUCK_SECONDS):
            loop_ms, cpu_ms = map(float, (await worker.stdout.readline()).split())
    return Cost(loop_ms, cpu_ms, memory.added_mb, times)


def _claim_of(emulator: Emulator, user: str) -> str:
    return emulator.web.tokens.mint(TokenRequest(user=user, roles=(ROLE,), audience=emulator.web.audience))


def _payloads(attack: Attack, claim: str) -> Sequence[bytes]:
    """Return the attack's messages, or calls of the flow whose answer is the attack."""
    match attack.source:
        case "sender":
            return MESSAGES[attack.name](claim)
        case "flow":
            encoded_answer(attack.name)
            return [request(attack.name, {"customer": "Contoso"}, claim) for _ in range(_CALLS)]
        case _:
            return ()


async def _strike(emulator: Emulator, messages: Sequence[BrokeredMessage]) -> None:
    queue = emulator.broker.find(_QUEUE)
    for message in messages:
        queue.send([message])
        await asyncio.sleep(0)


async def _ordinary(background: Background, claim: SecretStr, seconds: float) -> list[float]:
    """Send ordinary requests at a steady rate, however long each takes; return their times."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        pending = []
        for number in range(round(seconds / _GOOD_EVERY_SECONDS)):
            await asyncio.sleep(began + number * _GOOD_EVERY_SECONDS - time.perf_counter())
            pending.append(tasks.create_task(_timed(background, claim)))
    return [task.result() for task in pending]


async def _timed(background: Background, claim: SecretStr) -> float:
    """Return the time of one request; `STUCK_SECONDS` if no result came."""
    began = time.perf_counter()
    try:
        result = await background.request("good", {"customer": "Contoso"}, STUCK_SECONDS, claim=claim)
    except TimeoutError:
        return STUCK_SECONDS
    if result.status != "succeeded":
        raise RuntimeError(f"an ordinary request has the status {result.status}, expected succeeded: {result.error}")
    return time.perf_counter() - began


class _Memory:
    """Samples the resident memory of a process and its children."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._before = self._peak = self._now()

    @property
    def added_mb(self) -> float:
        return (self._peak - self._before) / 2**20

    async def sample(self) -> None:
        """Sample until cancelled; in a thread, because this process serves broker and flow meanwhile."""
        while True:
            self._peak = max(self._peak, await asyncio.to_thread(self._now))
            await asyncio.sleep(_SAMPLE_SECONDS)

    def _now(self) -> int:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total


@asynccontextmanager
async def _worker(
    folder: Path, settings: dict[str, JsonValue], emulator: Emulator
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the watched worker; it ends with the block, also if it is stuck."""
    path = folder / "settings.json"
    path.write_text(json.dumps(settings | {"journal": {"path": str(folder / "journal.sqlite3")}}), encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_WORKER_")}
    with (folder / "worker.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.hostile.worker", str(path)),
            cwd=_ROOT,
            env=inherited | emulator.web.environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _settings(emulator: Emulator, hostile: str) -> dict[str, JsonValue]:
    """Return the worker's settings: the defaults, the addresses and the flows."""
    web = emulator.web
    flows: dict[str, JsonValue] = {"good": {"url": web.flow_url("good"), "role": ROLE}}
    flows |= {name: {"url": f"{hostile}/{name}", "role": ROLE} for name in ANSWERS}
    flows |= {
        name: {"url": web.flow_url("good"), "role": ROLE, "input_schema": schema} for name, schema in SCHEMAS.items()
    }
    return {
        "servicebus": {"connection_string": emulator.connection_string},
        "request_queues": [{"name": _QUEUE, "lanes": 8}],
        "claims": {"authority": web.url, "tenants": [str(web.tenant_id)], "audiences": [web.audience]},
        "flows": flows,
        "plain_http_hosts": [web.url.split("/")[2], hostile.split("/")[2]],
        "health": {"port": 0},
        "shutdown_grace_seconds": 0,
    }
