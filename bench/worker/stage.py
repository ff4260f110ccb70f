"""The processes of one measurement: emulator, flow, perhaps a distance between, and what is measured.

What is measured has a core of its own where there are two; everything else shares the others.
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

import psutil

from bench.worker.subjects import CONNECTION_STRING, FLOW_URL, SUBJECTS
from flow_worker.demo.environment import ROLE, START_SECONDS, EmulatorClient, running_emulator, worker_environment

WORKER = "flow-worker"
TWO_WORKERS = "flow-worker twice"
CELERY, CELERY_PREFORK = "celery", "celery prefork"
"""With its pool of threads; with its pool of processes, which it takes by itself."""
NAMES = (*SUBJECTS, CELERY, CELERY_PREFORK, WORKER, TWO_WORKERS)
FLOW = "create-quote"
_PORT = re.compile(r"(?<=Endpoint=sb://127\.0\.0\.1:)\d+")


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured under which conditions."""

    subject: str
    lanes: int
    pause_ms: float = 0
    """What the flow takes."""
    round_trip_ms: float = 0
    """Between what is measured and the broker, on top of the machine's own."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Running."""

    emulator: EmulatorClient
    """Reached at once, without the distance."""
    flow_url: str
    subjects: tuple[psutil.Process, ...]
    started_at: float
    """When what is measured was started; seconds since the epoch."""
    distance: subprocess.Popen[str] | None = None

    def break_connections(self) -> None:
        """Break all connections between what is measured and the broker, if it runs `breakable`."""
        assert self.distance and self.distance.stdin and self.distance.stdout  # noqa: S101, PT018 - see above
        self.distance.stdin.write("break\n")
        self.distance.stdin.flush()
        self.distance.stdout.readline()

    def cpu_seconds(self) -> float:
        """Processor time that the subject has used so far."""
        times = [process.cpu_times() for process in self.subjects]
        return sum(one.user + one.system for one in times)

    def rss_mb(self) -> float:
        """Memory that the subject holds."""
        return sum(process.memory_info().rss for process in self.subjects) / 2**20


@contextmanager
def running(cell: Cell, *, breakable: bool = False) -> Iterator[Stage]:
    """Start all of it; stop all of it."""
    ours, its = cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="flow-worker-bench-")))
        pin(ours)
        emulator = stack.enter_context(running_emulator(folder))
        port, _ = stack.enter_context(_printing_port("bench.worker.flow", str(cell.pause_ms)))
        near, distance = emulator, None
        if cell.round_trip_ms or breakable:
            broker = _PORT.search(emulator.connection_string)
            assert broker is not None  # noqa: S101 - the emulator's own form
            far, distance = stack.enter_context(
                _printing_port("bench.worker.distance", broker[0], str(cell.round_trip_ms))
            )
            near = replace(emulator, connection_string=_PORT.sub(str(far), emulator.connection_string))
        url = f"http://127.0.0.1:{port}/invoke?api-version=1"
        pin(ours + its if cell.subject == TWO_WORKERS else its)  # two on one core are no more than one
        started_at = time.time()
        subjects = stack.enter_context(_subjects(cell, near, url, folder))
        pin(ours)
        yield Stage(emulator, url, subjects, started_at, distance)


def cores() -> tuple[list[int], list[int]]:
    """Which cores are for the surroundings, and which for what is measured; the same ones if there is but one."""
    try:
        there = psutil.Process().cpu_affinity() or []
    except AttributeError:  # macOS cannot pin
        there = []
    if not _all_cores:
        _all_cores.extend(there)
    return (_all_cores[:-1], _all_cores[-1:]) if len(_all_cores) > 1 else (_all_cores, _all_cores)


_all_cores: list[int] = []


def pin(to: list[int]) -> None:
    """Keep this process, and those it starts from now on, on these cores."""
    if to:
        psutil.Process().cpu_affinity(to)


@contextmanager
def _subjects(cell: Cell, emulator: EmulatorClient, url: str, folder: Path) -> Iterator[tuple[psutil.Process, ...]]:
    if cell.subject in (*SUBJECTS, CELERY, CELERY_PREFORK):
        environment = os.environ | {CONNECTION_STRING: emulator.connection_string, FLOW_URL: url}
        with _process(_command(cell), environment, folder) as one:
            yield (one, *(_children(one, cell.lanes) if cell.subject == CELERY_PREFORK else ()))
        return
    count = 2 if cell.subject == TWO_WORKERS else 1
    (folder / "flow-worker.toml").write_text(_settings(emulator, url, cell.lanes // count), encoding="utf-8")
    with ExitStack() as stack:
        environment = dict(worker_environment(emulator))
        yield tuple(stack.enter_context(_process(["flow_worker", "run"], environment, folder)) for _ in range(count))


def _command(cell: Cell) -> list[str]:
    """Module and arguments of a subject that is not the worker."""
    if cell.subject in SUBJECTS:
        return ["bench.worker.subjects", cell.subject, str(cell.lanes)]
    pool = ("--pool=threads" if cell.subject == CELERY else "--pool=prefork", f"--concurrency={cell.lanes}")
    alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")  # they would talk through queues as well
    return ["celery", "--quiet", "-A", "bench.worker.celery_app", "worker", *pool, *alone]


def _children(process: psutil.Process, count: int) -> list[psutil.Process]:
    """As soon as there are so many. Raises `TimeoutError`."""
    gives_up_at = time.monotonic() + START_SECONDS
    while len(children := process.children()) < count:
        if time.monotonic() > gives_up_at:
            raise TimeoutError(f"{len(children)} of {count} processes were there after {START_SECONDS:g} s")
        time.sleep(0.1)
    return children


@contextmanager
def _process(arguments: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[psutil.Process]:
    root = str(Path(__file__).resolve().parents[2])
    with (folder / "subject.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            [sys.executable, "-m", *arguments], cwd=folder, env={**environment, "PYTHONPATH": root}, stderr=log
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


@contextmanager
def _printing_port(*arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The port, and the process that printed it."""
    command, pipe = [sys.executable, "-m", *arguments], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)  # noqa: S603 - our own commands
    try:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        yield int(process.stdout.readline()), process
    finally:
        process.kill()
        process.communicate()


def _settings(emulator: EmulatorClient, url: str, lanes: int) -> str:
    """The worker's defaults, but for what names this stage, and for bounds that keep real flows from harm."""
    base, tenant = emulator.web_url, emulator.issuer.split("/")[3]
    return f"""plain_http_hosts = ["{base.split("/")[2]}", "{url.split("/")[2]}"]

[claims]
authority = "{base}"
tenants = ["{tenant}"]
audiences = ["{emulator.audience}"]

[[request_queues]]
name = "flow-requests"
lanes = {lanes}

[limits]
max_calls = 1000000
window_seconds = 1
max_in_flight = 1000

[health]
port = 0

[flows.{FLOW}]
url = "{url}"
role = "{ROLE}"
"""
