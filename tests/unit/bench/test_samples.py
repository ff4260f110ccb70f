"""The arithmetic of the measurements."""

from __future__ import annotations

import pytest

from bench.noisy_neighbour import Load, Measured, as_json
from bench.samples import Summary, percentile


def test_a_percentile_is_one_of_the_times_measured() -> None:
    times = [float(n) for n in range(1, 101)]
    assert (percentile(times, 0.99), percentile(times, 0.5), percentile(times, 1)) == (99, 50, 100)
    assert percentile([7.0], 0.99) == 7


def test_nothing_measured_is_no_summary() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Summary.of([])


def test_the_ratio_is_of_the_medians_over_all_turns() -> None:
    measured = Measured(alone=[[1.0, 2.0], [3.0]], beside=[[2.0, 100.0], [3.0]])
    assert measured.ratio == 1.5
    said = as_json(measured, Load(1, 1, 4))
    assert said["ratio"] == 1.5
    assert said["alone"] == {"count": 3, "median": 2.0, "p99": 3.0}
