"""The worker's exponential backoff and the pauses that use it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flow_worker.backoff import ExponentialBackoff
from flow_worker.pipeline.pauses import poll_pause, retry_pause
from flow_worker.settings import RetrySettings

RETRY = RetrySettings(base_seconds=2, max_pause_seconds=60, poll_seconds=20)


def test_pauses_double_from_the_first_to_the_maximum() -> None:
    backoff = ExponentialBackoff(0.2, 3.0)
    assert [backoff.seconds(doublings) for doublings in range(6)] == [0.2, 0.4, 0.8, 1.6, 3.0, 3.0]


@pytest.mark.parametrize("doublings", [0, 5, 1_000_000])
def test_jitter_keeps_a_pause_within_its_bounds(doublings: int) -> None:
    backoff = ExponentialBackoff(1.0, 8.0, jitter_from=0.5, jitter_to=1.5)
    bound = min(8.0, 2.0**doublings) if doublings < 10 else 8.0
    assert all(0.5 * bound <= backoff.seconds(doublings) <= 1.5 * bound for _ in range(100))


def test_the_pause_before_a_retry_has_full_jitter() -> None:
    pauses = {retry_pause(RETRY, 2) for _ in range(100)}
    assert len(pauses) > 50
    assert all(timedelta(0) <= pause <= timedelta(seconds=8) for pause in pauses)


@pytest.mark.parametrize(("running", "pause"), [(0, 20), (199, 20), (300, 30), (6000, 60)])
def test_the_pause_before_a_poll_is_a_tenth_of_the_runs_time_within_its_bounds(running: float, pause: float) -> None:
    assert poll_pause(RETRY, timedelta(seconds=running)) == timedelta(seconds=pause)
