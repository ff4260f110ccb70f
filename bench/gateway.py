"""Measures the HTTP gateway: `python -m bench.gateway`.

The rows: the rate at which the gateway takes requests, beside that of `FlowClient` in the same run; the time from
submit to result over HTTP, beside that of `FlowClient.background()`; the memory of a gateway with many long polls; the
slowest answer while others send bodies in tiny pieces; and the time from the publication of a result until every
replica has it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import aiohttp
import psutil
import typer
from pydantic import JsonValue, SecretStr

from bench import gateway_pieces, gateway_replicas
from flow_contracts.client import FlowClient
from flow_worker.demo import gateway as front
from flow_worker.demo.environment import (
    ROLE,
    SETTINGS,
    EmulatorClient,
    running_emulator,
    running_worker,
    worker_environment,
)
from flow_worker.gateway.files import raise_file_limit

MIN_SUBMIT_RATIO = 0.6
MAX_ADDED_MS = 5.0
MAX_MEMORY_MB = 400.0
MAX_PIECES_MS = 100.0
FLOW = "create-quote"
_INPUT: JsonValue = {"customer": "Contoso", "amount": 1250}
_START = f"/v1/flows/{FLOW}/requests"
_WAIT_SECONDS = 60
_WARM_UP = 50


@dataclass(frozen=True, slots=True)
class Rows:
    """The results, each the median over the rounds."""

    submits_per_second: float
    client_submits_per_second: float
    http_ms: float
    background_ms: float
    polls: int
    memory_mb: float
    idle_memory_mb: float
    pieces_ms: float
    replicas: list[gateway_replicas.Row]

    @property
    def submit_ratio(self) -> float:
        """The rate of the gateway divided by that of `FlowClient`."""
        return self.submits_per_second / self.client_submits_per_second

    @property
    def added_ms(self) -> float:
        """The time that HTTP adds to a request."""
        return self.http_ms - self.background_ms

    @property
    def is_good(self) -> bool:
        """Whether every goal is reached."""
        is_fast = self.submit_ratio >= MIN_SUBMIT_RATIO and self.added_ms <= MAX_ADDED_MS
        is_bounded = self.memory_mb <= MAX_MEMORY_MB and self.pieces_ms <= MAX_PIECES_MS
        return is_fast and is_bounded and all(row.is_good for row in self.replicas)


@dataclass(frozen=True, slots=True)
class Stage:
    """A running emulator and gateway, and the token of a user."""

    emulator: EmulatorClient
    url: str
    token: str
    process: psutil.Process
    folder: Path

    def session(self) -> aiohttp.ClientSession:
        """Return a client of the user."""
        headers = {"Authorization": f"Bearer {self.token}"}
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(self.url, headers=headers, connector=connector)

    def memory_mb(self) -> float:
        """The resident memory of the gateway."""
        return float(self.process.memory_info().rss) / 2**20


@contextmanager
def running_stage() -> Iterator[Stage]:
    """Run an emulator and a gateway whose limits do not hold back one caller."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="flow-worker-bench-")))
        emulator = stack.enter_context(running_emulator(folder))
        ports = front.GatewayPorts.free()
        (folder / SETTINGS).write_text(_settings(emulator, 0, ports), encoding="utf-8")
        gateway = stack.enter_context(front.running_gateway(folder, worker_environment(emulator)))
        front.wait_until_ready(gateway, ports, folder)
        yield Stage(emulator, ports.url, emulator.mint("ada", ROLE), psutil.Process(gateway.pid), folder)


def _settings(emulator: EmulatorClient, health_port: int, ports: front.GatewayPorts) -> str:
    base, tenant = emulator.web_url, emulator.issuer.split("/")[3]
    return f"""plain_http_hosts = ["{base.split("/")[2]}"]
shutdown_grace_seconds = 0

[claims]
authority = "{base}"
tenants = ["{tenant}"]
audiences = ["{emulator.audience}"]

[[request_queues]]
name = "flow-requests"
lanes = 8

[[request_queues]]
name = "flow-requests-gateway"
authority = "gateway"
reply_to = "flow-replies-gateway"
lanes = 8

[health]
port = {health_port}

[flows.{FLOW}]
url = "{emulator.flows_url}/{FLOW}/triggers/manual/paths/invoke?api-version=1"
role = "{ROLE}"
{front.settings(ports, base)}
[gateway.limits]
max_waiters = 100000
max_waiters_per_caller = 100000
submissions_per_second = 1000000
submission_burst = 1000000
reads_per_second = 1000000
read_burst = 1000000
"""


async def measure(rounds: int, submits: int, requests: int, polls: int, concurrency: int, results: int) -> Rows:
    """Measure all rows."""
    raise_file_limit(polls)
    with running_stage() as stage:
        rates = [await _submit_rates(stage, submits, concurrency) for _ in range(rounds)]
        async with stage.session() as session:
            pieces = [
                await gateway_pieces.longest_answer_ms(session, stage.url, stage.token, _START) for _ in range(rounds)
            ]
    with running_stage() as stage:
        idle = stage.memory_mb()
        memory = await _memory_with_polls(stage, polls)
        ports_text = (stage.folder / SETTINGS).read_text(encoding="utf-8")
        # The worker runs only now: it would take the processor from the submissions.
        with running_worker(stage.folder, stage.emulator, lambda _, port: _with_port(ports_text, port)):
            times = [await _latencies(stage, requests) for _ in range(rounds)]
    return Rows(
        submits_per_second=statistics.median(rate for rate, _ in rates),
        client_submits_per_second=statistics.median(rate for _, rate in rates),
        http_ms=statistics.median(http for http, _ in times),
        background_ms=statistics.median(background for _, background in times),
        polls=polls,
        memory_mb=memory,
        idle_memory_mb=idle,
        pieces_ms=statistics.median(pieces),
        replicas=await gateway_replicas.measure(lambda emulator, ports: _settings(emulator, 0, ports), results),
    )


def _with_port(settings: str, port: int) -> str:
    return settings.replace("[health]\nport = 0", f"[health]\nport = {port}")


async def _submit_rates(stage: Stage, count: int, concurrency: int) -> tuple[float, float]:
    """Return the rates of the gateway and of `FlowClient`, one after the other."""
    async with (
        stage.session() as session,
        FlowClient.from_connection_string(stage.emulator.connection_string) as client,
    ):
        claim = SecretStr(stage.token)

        async def over_http() -> None:
            async with session.post(_START, json=_INPUT) as answer:
                if answer.status != 202:
                    raise RuntimeError(f"the gateway answered {answer.status}: {await answer.text()}")
                await answer.read()

        async def by_client() -> None:
            await client.submit(FLOW, _INPUT, claim=claim)

        for work in (over_http, by_client):
            await _rate(work, _WARM_UP, concurrency)
        return await _rate(over_http, count, concurrency), await _rate(by_client, count, concurrency)


async def _rate(work: Callable[[], Awaitable[None]], count: int, concurrency: int) -> float:
    left = count

    async def repeat() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await work()

    began = time.perf_counter()
    await asyncio.gather(*(repeat() for _ in range(concurrency)))
    return count / (time.perf_counter() - began)


async def _latencies(stage: Stage, count: int) -> tuple[float, float]:
    """Return the median times in milliseconds, over HTTP and over `FlowClient.background()`, in turns."""
    over_http, by_client = [], []
    async with (
        stage.session() as session,
        FlowClient.from_connection_string(stage.emulator.connection_string) as client,
        client.background() as background,
    ):
        claim = SecretStr(stage.token)
        for number in range(_WARM_UP + count):
            began = time.perf_counter()
            async with session.post(_START, json=_INPUT, params={"wait": str(_WAIT_SECONDS)}) as answer:
                document = await answer.json()
            middle = time.perf_counter()
            result = await background.request(FLOW, _INPUT, _WAIT_SECONDS, claim=claim)
            end = time.perf_counter()
            if document.get("status") != "succeeded" or result.status != "succeeded":
                raise RuntimeError(f"a request has the status {document.get('status')} and {result.status}")
            if number >= _WARM_UP:
                over_http.append((middle - began) * 1000)
                by_client.append((end - middle) * 1000)
    return statistics.median(over_http), statistics.median(by_client)


class _Poll(asyncio.Protocol):
    """One long poll that waits, as cheap for this process as possible."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        transport.write(self._request)


async def _memory_with_polls(stage: Stage, count: int) -> float:
    """Return the memory of the gateway while that many long polls wait for one request each."""
    async with stage.session() as session, session.post(_START, json=_INPUT) as answer:
        location = (await answer.json())["location"]
    host, port = stage.url.removeprefix("http://").split(":")
    path = location.removeprefix(stage.url)
    head = f"GET {path}?wait=100 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {stage.token}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    transports = []
    for _ in range(count):
        transport, _protocol = await loop.create_connection(lambda: _Poll(head), host, int(port))
        transports.append(transport)
    await asyncio.sleep(5)
    memory = stage.memory_mb()
    if any(transport.is_closing() for transport in transports):
        raise RuntimeError("the gateway closed a long poll")
    for transport in transports:
        transport.abort()
    await asyncio.sleep(1)
    return memory


def _lines(rows: Rows) -> list[str]:
    submits, client = rows.submits_per_second, rows.client_submits_per_second
    http, background = rows.http_ms, rows.background_ms
    return [
        f"submit           {submits:6.0f}/s over HTTP, {client:.0f}/s by FlowClient: "
        f"{rows.submit_ratio:.2f} (goal: at least {MIN_SUBMIT_RATIO:g})",
        f"submit to result {http:6.1f} ms over HTTP, {background:.1f} ms by FlowClient.background(): "
        f"{rows.added_ms:+.1f} ms (goal: at most {MAX_ADDED_MS:g})",
        f"memory           {rows.memory_mb:6.0f} MB with {rows.polls} long polls, {rows.idle_memory_mb:.0f} MB idle "
        f"(goal: at most {MAX_MEMORY_MB:g})",
        f"tiny chunks      {rows.pieces_ms:6.1f} ms for the slowest answer while {gateway_pieces.CONNECTIONS} others "
        f"send chunks of one byte (goal: at most {MAX_PIECES_MS:g})",
        *(line for row in rows.replicas for line in row.lines()),
    ]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often rates and times are measured.")] = 3,
    submits: Annotated[int, typer.Option(min=100, help="Requests of one measurement of the rate.")] = 3000,
    requests: Annotated[int, typer.Option(min=10, help="Requests of one measurement of the time.")] = 200,
    polls: Annotated[int, typer.Option(min=0, help="Long polls that wait at a time.")] = 10_000,
    concurrency: Annotated[int, typer.Option(min=1, help="Submissions at a time.")] = 32,
    results: Annotated[int, typer.Option(min=10, help="Results of one measurement with two replicas.")] = 500,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a goal is missed.")] = False,
) -> None:
    """Measure submit rate, latency, memory, tiny chunks, and the time until every replica has a result."""
    rows = asyncio.run(measure(rounds, submits, requests, polls, concurrency, results))
    if as_json:
        ratios = {"submit_ratio": rows.submit_ratio, "added_ms": rows.added_ms}
        typer.echo(json.dumps(asdict(rows) | ratios, indent=2))
    else:
        typer.echo("\n".join(_lines(rows)))
    if check and not rows.is_good:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
