"""Runs the processes of one measurement: emulator, flow, optionally a delay proxy, and the subject.

On a machine with two or more cores the subject has one core to itself; everything else shares the others.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import assert_never

import psutil

from bench.cores import cores, pin
from bench.worker.baselines import CONNECTION_STRING, FLOW_URL
from bench.worker.case import Case, Subject
from flow_worker.demo.environment import ROLE, START_SECONDS, EmulatorClient, running_emulator, worker_environment

FLOW = "create-quote"
_PORT = re.compile(r"(?<=Endpoint=sb://127\.0\.0\.1:)\d+")


@dataclass(frozen=True, slots=True)
class Environment:
    """The running processes of one measurement."""

    emulator: EmulatorClient
    """Reached directly, without the delay proxy."""
    flow_url: str
    processes: tuple[psutil.Process, ...]
    """The processes of the subject."""
    started_at: float
    """When the subject was started; seconds since the epoch."""
    proxy: subprocess.Popen[str] | None = None

    def break_connections(self) -> None:
        """Break all connections between subject and broker; needs `running(…, breakable=True)`."""
        assert self.proxy and self.proxy.stdin and self.proxy.stdout  # noqa: S101, PT018 - see the docstring
        self.proxy.stdin.write("break\n")
        self.proxy.stdin.flush()
        self.proxy.stdout.readline()  # the proxy confirms

    def cpu_seconds(self) -> float:
        """The processor time that the subject has used so far."""
        times = [process.cpu_times() for process in self.processes]
        return sum(one.user + one.system for one in times)

    def rss_mb(self) -> float:
        """The resident memory of the subject."""
        return sum(process.memory_info().rss for process in self.processes) / 2**20


@contextmanager
def running(case: Case, *, breakable: bool = False) -> Iterator[Environment]:
    """Start all processes of a case, and stop them at the end."""
    available = cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="flow-worker-bench-")))
        pin(available.environment)
        emulator = stack.enter_context(running_emulator(folder))
        flow_port, _ = stack.enter_context(_server("bench.worker.flow_server", str(case.flow_ms)))
        broker, proxy = emulator, None
        if case.round_trip_ms or breakable:
            proxy_port, proxy = stack.enter_context(
                _server("bench.worker.delay_proxy", _amqp_port(emulator), str(case.round_trip_ms))
            )
            broker = replace(emulator, connection_string=_PORT.sub(str(proxy_port), emulator.connection_string))
        url = f"http://127.0.0.1:{flow_port}/invoke?api-version=1"
        if case.subject is Subject.TWO_WORKERS:
            pin(available.environment + available.subject)  # on one core, two processes are no faster than one
        else:
            pin(available.subject)
        started_at = time.time()
        processes = stack.enter_context(_subject(case, broker, url, folder))
        pin(available.environment)
        yield Environment(emulator, url, processes, started_at, proxy)


def _amqp_port(emulator: EmulatorClient) -> str:
    port = _PORT.search(emulator.connection_string)
    assert port is not None  # noqa: S101 - the emulator's connection strings have this form
    return port[0]


@contextmanager
def _subject(case: Case, broker: EmulatorClient, url: str, folder: Path) -> Iterator[tuple[psutil.Process, ...]]:
    match case.subject:
        case Subject.WORKER:
            with _workers(1, case.lanes, broker, url, folder) as workers:
                yield workers
        case Subject.TWO_WORKERS:
            with _workers(2, case.lanes, broker, url, folder) as workers:
                yield workers
        case Subject.FLOOR | Subject.DOCUMENTED | Subject.SEQUENTIAL as baseline:
            with _program(["bench.worker.baselines", baseline, str(case.lanes)], broker, url, folder) as process:
                yield (process,)
        case Subject.CELERY:
            with _program(_celery("threads", case.lanes), broker, url, folder) as process:
                yield (process,)
        case Subject.CELERY_PREFORK:
            with _program(_celery("prefork", case.lanes), broker, url, folder) as process:
                yield (process, *_children(process, case.lanes))
        case _:
            assert_never(case.subject)


@contextmanager
def _workers(
    count: int, lanes: int, broker: EmulatorClient, url: str, folder: Path
) -> Iterator[tuple[psutil.Process, ...]]:
    """Run worker processes that share the lanes evenly."""
    (folder / "flow-worker.toml").write_text(_settings(broker, url, lanes // count), encoding="utf-8")
    environment = dict(worker_environment(broker))
    with ExitStack() as stack:
        yield tuple(stack.enter_context(_process(["flow_worker", "run"], environment, folder)) for _ in range(count))


@contextmanager
def _program(arguments: list[str], broker: EmulatorClient, url: str, folder: Path) -> Iterator[psutil.Process]:
    """Run a program that finds the broker and the flow in its environment variables."""
    environment = os.environ | {CONNECTION_STRING: broker.connection_string, FLOW_URL: url}
    with _process(arguments, environment, folder) as process:
        yield process


def _celery(pool: str, lanes: int) -> list[str]:
    # Gossip, mingle and heartbeats send messages through the broker, which is no part of the work.
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    app = ("-A", "bench.worker.celery_app", "worker")
    return ["celery", "--quiet", *app, f"--pool={pool}", f"--concurrency={lanes}", *quiet]


def _children(process: psutil.Process, count: int) -> list[psutil.Process]:
    """Wait until a process has this many children, and return them. Raise `TimeoutError` after 30 s."""
    deadline = time.monotonic() + START_SECONDS
    while len(children := process.children()) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Celery started {len(children)} of {count} pool processes in {START_SECONDS:g} s")
        time.sleep(0.1)
    return children


@contextmanager
def _process(arguments: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[psutil.Process]:
    root = str(Path(__file__).resolve().parents[2])
    with (folder / "subject.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(  # noqa: S603 - fixed commands
            [sys.executable, "-m", *arguments], cwd=folder, env={**environment, "PYTHONPATH": root}, stderr=log
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


@contextmanager
def _server(*arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run a module that prints its port; yield the port and the process."""
    command, pipe = [sys.executable, "-m", *arguments], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)  # noqa: S603 - fixed commands
    try:
        assert process.stdout is not None  # noqa: S101 - stdout is a pipe
        yield int(process.stdout.readline()), process
    finally:
        process.kill()
        process.communicate()


def _settings(broker: EmulatorClient, url: str, lanes: int) -> str:
    """Return the worker's settings: the defaults, the addresses, and limits too high to take effect.

    The default limits protect real flows. Here they would be all that the benchmark measures.
    """
    base, tenant = broker.web_url, broker.issuer.split("/")[3]
    return f"""plain_http_hosts = ["{base.split("/")[2]}", "{url.split("/")[2]}"]

[claims]
authority = "{base}"
tenants = ["{tenant}"]
audiences = ["{broker.audience}"]

[[request_queues]]
name = "flow-requests"
lanes = {lanes}

[limits]
max_calls = 1000000
window_seconds = 1
max_in_flight = 1000

[senders]
max_calls = 1000000
window_seconds = 1
max_in_flight = 1000

[health]
port = 0

[flows.{FLOW}]
url = "{url}"
role = "{ROLE}"
"""
