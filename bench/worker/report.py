"""What was measured, as tables and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from bench.worker.latency import Latency
from bench.worker.stage import TWO_WORKERS, WORKER, Cell
from bench.worker.throughput import Throughput

FLOOR, PEER = "floor", "documented"
_WIDTH = 120
"""Figures that are cut off are none."""


@dataclass
class Report:
    """All runs of one invocation, by what was measured."""

    throughput: dict[Cell, list[Throughput]] = field(default_factory=dict)
    latency: dict[tuple[Cell, float | None], list[Latency]] = field(default_factory=dict)

    def per_second(self, cell: Cell) -> float:
        """The median of its runs."""
        return statistics.median(run.per_second for run in self.throughput[cell])

    def of_law(self, cell: Cell) -> float | None:
        """Its requests a second over what its lanes could do if only the flow took time; None if that takes none."""
        return self.per_second(cell) * cell.pause_ms / 1000 / cell.lanes if cell.pause_ms else None

    def ratio(self, cell: Cell, subject: str) -> float | None:
        """Its requests a second over those of `subject` under the same conditions; None if that was not measured."""
        other = Cell(subject, cell.lanes, cell.pause_ms, cell.round_trip_ms)
        return self.per_second(cell) / self.per_second(other) if other in self.throughput else None


def as_json(report: Report) -> JsonValue:
    """Every run."""
    return {
        "throughput": [
            {**asdict(cell), "runs": [asdict(run) for run in runs]} for cell, runs in report.throughput.items()
        ],
        "latency": [
            {**asdict(cell), "per_second": rate, "runs": [asdict(run) for run in runs]}
            for (cell, rate), runs in report.latency.items()
        ],
    }


def show(console: Console, report: Report) -> None:
    """Medians of the runs, their spread, and the ratios."""
    console.width = max(console.width, _WIDTH)
    if report.throughput:
        console.print(_throughput_table(report))
    if report.latency:
        console.print(_latency_table(report.latency))


def _throughput_table(report: Report) -> Table:
    title = (
        "throughput: medians (least to most); ratios of requests a second: to the floor, to the SDK's documented way,"
    )
    table = Table(title=f"{title} to lanes ÷ flow time", title_justify="left")
    for name in (
        "lanes",
        "flow",
        "round trip",
        "who",
        "requests/s",
        "",
        "CPU µs",
        "floor",
        "SDK",
        "lanes",
        "first",
        "RSS",
    ):
        table.add_column(name, justify="left" if name == "who" else "right", no_wrap=True)
    for cell, runs in report.throughput.items():
        rates = [run.per_second for run in runs]
        ours = cell.subject in (WORKER, TWO_WORKERS)
        table.add_row(
            str(cell.lanes),
            f"{cell.pause_ms:g} ms",
            f"{cell.round_trip_ms:g} ms",
            cell.subject,
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f}-{max(rates):,.0f}",
            f"{statistics.median(run.cpu_us for run in runs):,.0f}",
            _ratio(report.ratio(cell, FLOOR)) if ours else "",
            _ratio(report.ratio(cell, PEER)) if ours else "",
            _ratio(report.of_law(cell)),
            f"{statistics.median(run.first_result_seconds for run in runs):.1f} s",
            f"{max(run.rss_mb for run in runs):.0f} MB",
            end_section=cell.subject == WORKER,
        )
    return table


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _latency_table(latency: Mapping[tuple[Cell, float | None], Sequence[Latency]]) -> Table:
    table = Table(title="latency: medians of the runs", title_justify="left")
    for name in ("load", "who", "enqueued → flow, p50", "p99", "answer → result, p50", "p99"):
        table.add_column(name, justify="left" if name == "who" else "right")
    for (cell, rate), runs in latency.items():
        sums = [(run.to_flow.median, run.to_flow.p99, run.to_result.median, run.to_result.p99) for run in runs]
        columns = [f"{1000 * statistics.median(values):.1f} ms" for values in zip(*sums, strict=True)]
        load = "idle" if rate is None else f"{rate:.0f}/s"
        table.add_row(load, cell.subject, *columns)
    return table
