"""The storm can fail: its oracle finds each of three workers that break a promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.storm.faults import Fault, kill_worker, outlast_window
from tests.faults.storm.load import PLAIN
from tests.faults.storm.storm import Plan, run_storm

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("mutant", "finding", "fault", "pause_seconds"),
    [
        ("forgets-interrupted-calls", "double", kill_worker, 1.5),
        ("publishes-before-it-journals", "dup", outlast_window, 3),
        ("settles-before-it-publishes", "lost", kill_worker, 1.5),
    ],
)
async def test_the_oracle_finds_a_worker_that_breaks_a_promise(
    mutant: str, finding: str, fault: Fault, pause_seconds: float, tmp_path: Path
) -> None:
    plan = Plan(
        seed=13,
        seconds=6,
        rate=6,
        workers=2,
        pause_seconds=pause_seconds,
        window_seconds=20,
        lock_seconds=5,
        drain_seconds=20,
        mutant=mutant,
        kinds=PLAIN,
        faults=((fault, 1),),
    )
    report = await run_storm(plan, tmp_path)
    assert getattr(report.findings, finding), "\n".join([report.line, *report.details])
