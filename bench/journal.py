"""Measures the processor time of the SQLite journal for one request: `python -m bench.journal`."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from flow_contracts.result import FlowResult, Status
from flow_worker.journal import Acquired, JobKey, Journal, open_journal
from flow_worker.settings import JournalSettings
from flow_worker.telemetry.health import JournalHealth

_LEASE = timedelta(minutes=1)
_OUTPUT_CHARACTERS = 1024
_HASH = "0" * 64
_CASES = [(lanes, repeatable) for lanes in (1, 16) for repeatable in (False, True)]


@dataclass(frozen=True, slots=True)
class _Sample:
    """Microseconds for each request."""

    process: float
    loop_thread: float
    wall: float


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each case runs; the cases take turns.")] = 20,
    requests: Annotated[int, typer.Option(min=16, help="Requests in one run of a case.")] = 480,
    folder: Annotated[Path | None, typer.Option(help="The journal's folder. Default: the temporary one.")] = None,
) -> None:
    """Lease, conclude and mark requests as published, in lanes that wait for the disk at each lease or never."""
    samples = asyncio.run(_measure(rounds, requests, folder))
    typer.echo(
        f"{'':26}{'process, µs CPU':>18}{'loop, µs CPU':>16}{'wall, µs':>16}    (median / minimum, each request)"
    )
    for (lanes, repeatable), taken in samples.items():
        name = f"{lanes} lanes, {'no flush' if repeatable else 'flushed lease'}"
        typer.echo(
            f"{name:26}{_summary([sample.process for sample in taken]):>18}"
            f"{_summary([sample.loop_thread for sample in taken]):>16}{_summary([sample.wall for sample in taken]):>16}"
        )


async def _measure(rounds: int, requests: int, folder: Path | None) -> dict[tuple[int, bool], list[_Sample]]:
    samples: dict[tuple[int, bool], list[_Sample]] = {case: [] for case in _CASES}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        # With `health`, as the worker opens it: the journal then also observes its own failures.
        settings = JournalSettings(path=Path(temporary) / "journal.sqlite3")
        async with open_journal(settings, health=JournalHealth()) as journal:
            names = (f"request-{number}" for number in itertools.count())
            await _run(journal, names, 16, requests, repeatable=False)  # fills caches; not measured
            for _ in range(rounds):
                for lanes, repeatable in _CASES:
                    samples[lanes, repeatable].append(
                        await _run(journal, names, lanes, requests, repeatable=repeatable)
                    )
    return samples


async def _run(journal: Journal, names: Iterator[str], lanes: int, requests: int, *, repeatable: bool) -> _Sample:
    begun = time.process_time(), time.thread_time(), time.perf_counter()
    shared = itertools.islice(names, requests)
    await asyncio.gather(*(_lane(journal, shared, repeatable=repeatable) for _ in range(lanes)))
    ended = time.process_time(), time.thread_time(), time.perf_counter()
    return _Sample(*((end - begin) / requests * 1e6 for begin, end in zip(begun, ended, strict=True)))


async def _lane(journal: Journal, names: Iterator[str], *, repeatable: bool) -> None:
    for name in names:
        job = JobKey(name, fingerprint=_HASH, origin=_HASH, number=0)
        acquired = await journal.acquire(job, duration=_LEASE, calls=0, repeatable=repeatable)
        if not isinstance(acquired, Acquired):
            raise TypeError(f"the journal refused the lease of a new request: {acquired}")
        await journal.conclude(acquired.lease, _result(name), max_bytes=256 * 1024)
        await journal.mark_published(name, _HASH)


def _result(name: str) -> FlowResult:
    return FlowResult(
        correlation_id=name,
        request_message_id=name,
        status=Status.SUCCEEDED,
        output={"text": "x" * _OUTPUT_CHARACTERS},
        http_status=200,
        attempts=1,
        flow="approval",
    )


def _summary(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} / {min(values):,.0f}"


if __name__ == "__main__":
    typer.run(main)
