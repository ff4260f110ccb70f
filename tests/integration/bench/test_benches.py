"""The benches run, on little; what they say is arithmetic, never a limit of time."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from bench.emulator import missing
from bench.samples import Summary
from bench.worker.latency import Latency
from bench.worker.report import Report, as_json
from bench.worker.stage import Cell
from bench.worker.throughput import Glance, NothingCame, Throughput, of
from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.timeout(180)


def said(module: str, *arguments: str) -> dict[str, list[dict[str, object]]]:
    """What a bench prints as JSON."""
    ended = subprocess.run(
        [sys.executable, "-m", module, "--json", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        encoding="utf-8",
        timeout=150,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    document: dict[str, list[dict[str, object]]] = json.loads(ended.stdout)
    return document


def test_the_worker_is_measured_beside_its_floor() -> None:
    little = ["--lanes", "2", "--rounds", "1", "--requests", "60", "--latencies", "20", "--seconds", "10"]
    document = said("bench.worker", "--who", "floor", "--who", "flow-worker", *little)
    assert [run["subject"] for run in document["throughput"]] == ["floor", "flow-worker"]
    assert [(run["subject"], run["per_second"] is None) for run in document["latency"]] == [
        ("floor", True),
        ("flow-worker", True),
        ("floor", False),
        ("flow-worker", False),
    ]


@pytest.mark.skipif(find_spec("celery") is not None, reason="Celery is there")
def test_without_celery_the_bench_says_how_to_get_it() -> None:
    command = [sys.executable, "-m", "bench.worker", "--who", "celery", "--latencies", "0", "--json"]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert json.loads(ended.stdout)["throughput"] == []
    assert 'pip install "celery[azureservicebus]"' in ended.stderr


def test_the_emulator_is_measured_with_every_sdk_there_is() -> None:
    document = said("bench.emulator", "--rounds", "1", "--share", "0.005")
    sdks = {run["sdk"] for run in document["runs"]}
    assert sdks == {"Python"} | ({"JavaScript"} if missing("JavaScript") is None else set())


def glance(at: float, results: int, cpu: float = 0.0, rss: float = 1.0) -> Glance:
    return Glance(at, results, cpu, rss)


def test_throughput_is_what_lies_between_warm_up_and_cool_down() -> None:
    glances = [glance(0, 0), glance(10, 1), glance(11, 20, 1.0), glance(13, 80, 1.6, rss=7), glance(20, 100, 9.0)]
    run = of(glances, started_at=4, most=100)
    assert (run.per_second, run.rss_mb, run.first_result_seconds) == (30, 7, 6)
    assert run.cpu_us == pytest.approx(10_000)
    with pytest.raises(NothingCame):
        of([glance(0, 0)], started_at=0, most=10)


def test_ratios_are_of_medians_under_the_same_conditions() -> None:
    def runs(*rates: float) -> list[Throughput]:
        return [Throughput(rate, 1, 1, 1) for rate in rates]

    worker, floor = Cell("flow-worker", 8), Cell("floor", 8)
    report = Report({worker: runs(10, 30, 20), floor: runs(40, 40, 90), Cell("floor", 32): runs(1)})
    assert report.ratio(worker, "floor") == 0.5
    assert report.ratio(worker, "documented") is None
    summary = Summary.of([1.0])
    report.latency[worker, None] = [Latency(summary, summary)]
    assert json.loads(json.dumps(as_json(report)))["latency"][0]["runs"][0]["to_flow"]["median"] == 1.0
