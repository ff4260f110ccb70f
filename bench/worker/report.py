"""Shows the measurements as tables and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from bench.worker.case import Case, Subject
from bench.worker.latency import Latency
from bench.worker.throughput import Throughput

_MIN_WIDTH = 145
"""Columns. On a narrower console, rich would cut the figures off."""


@dataclass
class Report:
    """All runs of one invocation by case; latencies also by load (requests a second, None if idle)."""

    throughput: dict[Case, list[Throughput]] = field(default_factory=dict)
    latency: dict[tuple[Case, float | None], list[Latency]] = field(default_factory=dict)

    def per_second(self, case: Case) -> float:
        """Return the median requests a second of the runs of a case."""
        return statistics.median(run.per_second for run in self.throughput[case])

    def lane_efficiency(self, case: Case) -> float | None:
        """Return the throughput divided by lanes ÷ flow time, the maximum if only the flow took time.

        None if the flow answers immediately: the maximum is infinite then.
        """
        return self.per_second(case) * case.flow_ms / 1000 / case.lanes if case.flow_ms else None

    def ratio(self, case: Case, baseline: Subject) -> float | None:
        """Return the throughput divided by that of `baseline` under the same conditions; None if not measured."""
        other = Case(baseline, case.lanes, case.flow_ms, case.round_trip_ms)
        return self.per_second(case) / self.per_second(other) if other in self.throughput else None


def as_json(report: Report) -> JsonValue:
    """Return every run for programs."""
    return {
        "throughput": [
            {**asdict(case), "runs": [asdict(run) for run in runs]} for case, runs in report.throughput.items()
        ],
        "latency": [
            {**asdict(case), "per_second": rate, "runs": [asdict(run) for run in runs]}
            for (case, rate), runs in report.latency.items()
        ],
    }


def show(console: Console, report: Report) -> None:
    """Print the medians of the runs, their spread, and the ratios."""
    console.width = max(console.width, _MIN_WIDTH)
    if report.throughput:
        console.print(_throughput_table(report))
    if report.latency:
        console.print(_latency_table(report.latency))


def _throughput_table(report: Report) -> Table:
    table = Table(title="Throughput: medians of the runs", title_justify="left")
    for name in (
        "lanes",
        "flow",
        "round\ntrip",
        "program",
        "requests/s",
        "min-max",
        "CPU µs/\nrequest",
        "ratio to\nfloor",
        "ratio to\ndocumented",
        "ratio to\nlanes ÷ flow",
        "first\nresult",
        "max\nRSS",
    ):
        table.add_column(name, justify="left" if name == "program" else "right", no_wrap=True)
    for case, runs in report.throughput.items():
        rates = [run.per_second for run in runs]
        is_worker = case.subject in (Subject.WORKER, Subject.TWO_WORKERS)
        table.add_row(
            str(case.lanes),
            f"{case.flow_ms:g} ms",
            f"{case.round_trip_ms:g} ms",
            case.subject,
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f}-{max(rates):,.0f}",
            f"{statistics.median(run.cpu_us for run in runs):,.0f}",
            _ratio(report.ratio(case, Subject.FLOOR)) if is_worker else "",
            _ratio(report.ratio(case, Subject.DOCUMENTED)) if is_worker else "",
            _ratio(report.lane_efficiency(case)),
            f"{statistics.median(run.first_result_seconds for run in runs):.1f} s",
            f"{max(run.rss_mb for run in runs):.0f} MB",
            end_section=case.subject is Subject.WORKER,
        )
    return table


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _latency_table(latency: Mapping[tuple[Case, float | None], Sequence[Latency]]) -> Table:
    table = Table(title="Latency: medians of the runs", title_justify="left")
    for name in ("load", "program", "enqueued → flow called, p50", "p99", "flow's answer → result, p50", "p99"):
        table.add_column(name, justify="left" if name == "program" else "right")
    for (case, rate), runs in latency.items():
        figures = [(run.to_flow.median, run.to_flow.p99, run.to_result.median, run.to_result.p99) for run in runs]
        columns = [f"{1000 * statistics.median(values):.1f} ms" for values in zip(*figures, strict=True)]
        load = "idle" if rate is None else f"{rate:.0f}/s"
        table.add_row(load, case.subject, *columns)
    return table
