"""Run the benchmarks with little load, and test their arithmetic. No test asserts a duration."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from bench.emulator import Sdk, unavailable
from bench.summary import Summary
from bench.worker.case import Case, Subject
from bench.worker.latency import Latency
from bench.worker.report import Report, as_json
from bench.worker.throughput import NoResultError, Observation, Throughput, throughput_of
from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.timeout(300)


def json_output(module: str, *arguments: str) -> dict[str, list[dict[str, object]]]:
    """Run a benchmark and return the JSON that it prints."""
    completed = subprocess.run(
        [sys.executable, "-m", module, "--json", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        encoding="utf-8",
        timeout=270,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    document: dict[str, list[dict[str, object]]] = json.loads(completed.stdout)
    return document


def test_the_worker_benchmark_measures_the_worker_beside_the_floor() -> None:
    little = ["--lanes", "2", "--rounds", "1", "--requests", "60", "--latencies", "20", "--seconds", "10"]
    document = json_output("bench.worker", "--subject", "floor", "--subject", "flow-worker", *little)
    assert [run["subject"] for run in document["throughput"]] == ["floor", "flow-worker"]
    assert [(run["subject"], run["per_second"] is None) for run in document["latency"]] == [
        ("floor", True),
        ("flow-worker", True),
        ("floor", False),
        ("flow-worker", False),
    ]


@pytest.mark.skipif(find_spec("celery") is not None, reason="Celery is installed")
def test_without_celery_the_worker_benchmark_says_how_to_install_it() -> None:
    command = [sys.executable, "-m", "bench.worker", "--subject", "celery", "--latencies", "0", "--json"]
    completed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert json.loads(completed.stdout)["throughput"] == []
    assert 'pip install "celery[azureservicebus]"' in completed.stderr


def test_the_benchmark_of_the_metrics_measures_them_with_and_without_an_exporter() -> None:
    added: Any = json_output("bench.metrics", "--rounds", "20")
    assert 0 < added["without SDK"] < added["Prometheus"]
    assert added["Prometheus"] < added["Prometheus and spans, all sampled"]
    assert added["without SDK"] < 40, "without an SDK, telemetry takes a few microseconds of a request"


def test_the_emulator_benchmark_measures_every_installed_sdk() -> None:
    document = json_output("bench.emulator", "--rounds", "1", "--scale", "0.005")
    sdks = {run["sdk"] for run in document["runs"]}
    assert sdks == {"Python"} | ({"JavaScript"} if unavailable(Sdk.JAVASCRIPT) is None else set())


def observation(at: float, results: int, cpu: float = 0.0, rss: float = 1.0) -> Observation:
    return Observation(at, results, cpu, rss)


def test_throughput_counts_only_the_results_between_warm_up_and_cool_down() -> None:
    observations = [
        observation(0, 0),
        observation(10, 1),
        observation(11, 20, 1.0),
        observation(13, 80, 1.6, rss=7),
        observation(20, 100, 9.0),
    ]
    run = throughput_of(observations, started_at=4, max_requests=100)
    assert (run.per_second, run.rss_mb, run.first_result_seconds) == (30, 7, 6)
    assert run.cpu_us == pytest.approx(10_000)
    with pytest.raises(NoResultError):
        throughput_of([observation(0, 0)], started_at=0, max_requests=10)


def test_ratios_compare_medians_under_the_same_conditions() -> None:
    def runs(*rates: float) -> list[Throughput]:
        return [Throughput(rate, 1, 1, 1) for rate in rates]

    worker, floor = Case(Subject.WORKER, 8), Case(Subject.FLOOR, 8)
    report = Report({worker: runs(10, 30, 20), floor: runs(40, 40, 90), Case(Subject.FLOOR, 32): runs(1)})
    assert report.ratio(worker, Subject.FLOOR) == 0.5
    assert report.ratio(worker, Subject.DOCUMENTED) is None
    summary = Summary.of([1.0])
    report.latency[worker, None] = [Latency(summary, summary)]
    assert json.loads(json.dumps(as_json(report)))["latency"][0]["runs"][0]["to_flow"]["median"] == 1.0
