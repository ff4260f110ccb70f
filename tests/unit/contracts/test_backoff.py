from __future__ import annotations

from itertools import islice

import pytest

from flow_contracts.backoff import ExponentialBackoff


def test_pauses_double_from_the_first_to_the_maximum() -> None:
    backoff = ExponentialBackoff(0.2, 3.0)
    assert [backoff.seconds(repetitions) for repetitions in range(6)] == [0.2, 0.4, 0.8, 1.6, 3.0, 3.0]


def test_pauses_grow_by_the_given_factor() -> None:
    pauses = ExponentialBackoff(0.5, 2.0, growth=1.6).pauses()
    assert list(islice(pauses, 5)) == pytest.approx([0.5, 0.8, 1.28, 2.0, 2.0])


@pytest.mark.parametrize("growth", [1.6, 2.0])
def test_an_outage_of_days_does_not_exhaust_the_pauses(growth: float) -> None:
    assert next(islice(ExponentialBackoff(0.2, 5.0, growth=growth).pauses(), 100_000, None)) == 5.0


@pytest.mark.parametrize("repetitions", [0, 5, 1_000_000])
def test_jitter_keeps_a_pause_within_its_bounds(repetitions: int) -> None:
    backoff = ExponentialBackoff(1.0, 8.0, jitter_from=0.5, jitter_to=1.5)
    bound = min(8.0, 2.0**repetitions) if repetitions < 10 else 8.0
    assert all(0.5 * bound <= backoff.seconds(repetitions) <= 1.5 * bound for _ in range(100))
