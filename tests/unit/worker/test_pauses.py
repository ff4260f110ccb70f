"""The pauses before a retry and before a status poll."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flow_worker.pipeline.pauses import poll_pause, retry_pause
from flow_worker.settings import RetrySettings

RETRY = RetrySettings(base_seconds=2, max_pause_seconds=60, poll_seconds=20)


def test_the_pause_before_a_retry_has_full_jitter() -> None:
    pauses = {retry_pause(RETRY, 2) for _ in range(100)}
    assert len(pauses) > 50
    assert all(timedelta(0) <= pause <= timedelta(seconds=8) for pause in pauses)


@pytest.mark.parametrize(("running", "pause"), [(0, 20), (199, 20), (300, 30), (6000, 60)])
def test_the_pause_before_a_poll_is_a_tenth_of_the_runs_time_within_its_bounds(running: float, pause: float) -> None:
    assert poll_pause(RETRY, timedelta(seconds=running)) == timedelta(seconds=pause)
