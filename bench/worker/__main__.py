"""Measures the worker beside other programs for the same work: `python -m bench.worker`."""

from __future__ import annotations

import json
from itertools import product
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from bench.worker import celery_load, latency, throughput
from bench.worker.case import DEFAULT_SUBJECTS, Case, Subject
from bench.worker.report import Report, as_json, show

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_NAMES = ", ".join(Subject)
_DEFAULT_NAMES = ", ".join(DEFAULT_SUBJECTS)


@cli.command()
def main(
    lanes: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Number of lanes. Repeatable. Default: 8 and 32.")
    ] = None,
    flow_ms: Annotated[
        list[float] | None,
        typer.Option(metavar="MS", help="Milliseconds after which the flow answers. Repeatable. Default: 0."),
    ] = None,
    round_trip_ms: Annotated[
        list[float] | None,
        typer.Option(metavar="MS", help="Round trip added between program and broker. Repeatable. Default: 0."),
    ] = None,
    subject: Annotated[
        list[Subject] | None,
        typer.Option(metavar="NAME", help=f"Program to measure: {_NAMES}. Repeatable. Default: {_DEFAULT_NAMES}."),
    ] = None,
    matrix: Annotated[
        bool,
        typer.Option(
            "--matrix", help="Other defaults: lanes 1, 8, 32 and 100; flow 0 and 50 ms; round trip 0 and 10 ms."
        ),
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each program runs under each condition.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="Maximum duration of a run, from the first result on.")] = 5.0,
    requests: Annotated[int, typer.Option(min=20, help="Maximum number of requests in a run.")] = 4000,
    latencies: Annotated[
        int, typer.Option(min=0, help="Requests to time in each latency run, idle and at half load; 0 skips them.")
    ] = 200,
    json_: Annotated[bool, typer.Option("--json", help="Print every run as JSON; the tables go to stderr.")] = False,
) -> None:
    """Measure throughput, processor time, memory and latency of the worker beside other programs for the same work."""
    console = Console(stderr=json_)
    report = Report()
    cases = _cases(
        lanes or ([1, 8, 32, 100] if matrix else [8, 32]),
        flow_ms or ([0.0, 50.0] if matrix else [0.0]),
        round_trip_ms or ([0.0, 10.0] if matrix else [0.0]),
        _available(subject or list(DEFAULT_SUBJECTS), console),
    )
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("runs", total=rounds * (len(cases) + 2 * 2 * bool(latencies)))
        # Rounds are the outer loop: a change of the machine's load then affects every subject, and the ratios hold.
        for _ in range(rounds):
            for case in cases:
                progress.update(task, description=f"{case.subject}, {case.lanes} lanes")
                run = throughput.measure(case, seconds=seconds, max_requests=requests)
                report.throughput.setdefault(case, []).append(run)
                progress.advance(task)
        for _ in range(rounds if latencies else 0):
            for case, rate in _latency_runs(report):
                progress.update(task, description=f"{case.subject}, latency")
                timed = latency.measure(case, requests=latencies, per_second=rate)
                report.latency.setdefault((case, rate), []).append(timed)
                progress.advance(task)
    show(console, report)
    if json_:
        typer.echo(json.dumps(as_json(report), indent=2))


def _available(subjects: list[Subject], console: Console) -> list[Subject]:
    """Return the subjects that can run here, and print the reason for each other one."""
    reasons = {subject: celery_load.unavailable(subject) for subject in subjects}
    for subject, reason in reasons.items():
        if reason:
            console.print(f"Skipped {subject}: {reason}.", markup=False, soft_wrap=True)
    return [subject for subject in subjects if not reasons[subject]]


def _cases(lanes: list[int], flow_ms: list[float], round_trip_ms: list[float], subjects: list[Subject]) -> list[Case]:
    conditions = product(lanes, flow_ms, round_trip_ms)
    return [Case(subject, *condition) for condition in conditions for subject in subjects]


def _latency_runs(report: Report) -> list[tuple[Case, float | None]]:
    """Return floor and worker, each idle (None) and at half of the worker's measured throughput."""
    cases = [case for case in report.throughput if case.subject is Subject.WORKER and not case.flow_ms]
    if not cases:
        return []
    half = round(report.per_second(cases[0]) / 2)
    pair = [Case(subject, cases[0].lanes) for subject in (Subject.FLOOR, Subject.WORKER)]
    return [(case, rate) for rate in (None, half) for case in pair]


if __name__ == "__main__":
    cli()
