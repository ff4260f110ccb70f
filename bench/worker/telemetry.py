"""Measures the throughput that metrics and sampled traces cost the worker: `python -m bench.worker.telemetry`.

Each round runs the worker twice: without an SDK, and with the page for Prometheus and 10 % of the traces sent to a
collector. The kind that runs first alternates, because the load of the machine changes.

`--check` judges the processor time: it bounds the throughput of a busy worker, and other programs disturb it less.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.worker import throughput
from bench.worker.case import Case, Subject
from bench.worker.throughput import Throughput

_PREFIX = "OTEL_"
_GOAL_PERCENT = 8.0


class _Collector(BaseHTTPRequestHandler):
    """Takes every export and forgets it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Write nothing."""


@contextmanager
def _collector() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set exactly these variables of OpenTelemetry for the processes that start in the block."""
    before = {name: value for name, value in os.environ.items() if name.startswith(_PREFIX)}
    for name in before:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(before)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 7,
    lanes: Annotated[int, typer.Option(min=1, help="Number of lanes.")] = 32,
    requests: Annotated[int, typer.Option(min=100, help="Requests in a run.")] = 4000,
    sampled: Annotated[float, typer.Option(min=0, max=1, help="Share of the traces that the worker samples.")] = 0.1,
    check: Annotated[bool, typer.Option("--check", help=f"Fail if it costs more than {_GOAL_PERCENT:g} %.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print every run as JSON; the table goes to stderr.")] = False,
) -> None:
    """Measure what metrics and sampled traces cost: requests a second, and processor time of a request."""
    console = Console(stderr=json_)
    case = Case(Subject.WORKER, lanes)
    with _collector() as url:
        kinds = {
            "without SDK": {"OTEL_SDK_DISABLED": "true"},
            f"metrics, {sampled:.0%} of traces": {
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": str(sampled),
            },
        }
        runs: dict[str, list[Throughput]] = {name: [] for name in kinds}
        for number in track(range(rounds), "rounds", console=console, transient=True):
            for name, variables in sorted(kinds.items(), reverse=bool(number % 2)):
                with _variables(variables):
                    runs[name].append(throughput.measure(case, seconds=30.0, max_requests=requests))
    table = Table("telemetry", "requests/s", "CPU µs/request")
    for name, measured in runs.items():
        table.add_row(name, f"{_median(measured, 'per_second'):.0f}", f"{_median(measured, 'cpu_us'):.0f}")
    console.print(table)
    without, with_sdk = (runs[name] for name in kinds)
    cost = _median_loss([(run.cpu_us, other.cpu_us) for run, other in zip(without, with_sdk, strict=True)])
    fewer = _median_loss([(run.per_second, other.per_second) for run, other in zip(with_sdk, without, strict=True)])
    console.print(f"Cost: {cost:.1f} % of the processor time, and {fewer:.1f} % of the requests a second.")
    if json_:
        typer.echo(json.dumps({name: [asdict(run) for run in measured] for name, measured in runs.items()}, indent=2))
    if check and cost > _GOAL_PERCENT:
        raise typer.Exit(1)


def _median(runs: list[Throughput], figure: str) -> float:
    return float(statistics.median(asdict(run)[figure] for run in runs))


def _median_loss(pairs: list[tuple[float, float]]) -> float:
    """Return the percentage by which the first figure is below the second one of the same round."""
    return statistics.median(100 * (1 - less / more) for less, more in pairs)


if __name__ == "__main__":
    typer.run(main)
