"""Test the arithmetic of summaries and of the comparison with and without noise."""

from __future__ import annotations

import json

import pytest

from bench.phases import Comparison, Phase, Sample, as_json, by_second, summary_of
from bench.summary import Summary, percentile


def test_a_percentile_is_one_of_the_measured_times() -> None:
    times = [float(n) for n in range(1, 101)]
    assert (percentile(times, 0.99), percentile(times, 0.5), percentile(times, 1)) == (99, 50, 100)
    assert percentile([7.0], 0.99) == 7


def test_a_summary_of_zero_samples_raises_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Summary.of([])


def phase(*samples: tuple[float, float]) -> Phase:
    return Phase([Sample(at, seconds) for at, seconds in samples])


def test_the_ratio_divides_the_medians_over_all_phases() -> None:
    alone = [phase((0, 1.0), (1, 2.0)), phase((0, 3.0))]
    comparison = Comparison(alone, [phase((0, 2.0), (1, 100.0)), phase((0, 3.0))])
    assert comparison.ratio == 1.5
    document = json.loads(json.dumps(as_json(comparison)))
    assert document["ratio"] == 1.5
    assert (document["alone"]["count"], document["alone"]["median"], document["alone"]["p99"]) == (3, 2.0, 3.0)


def test_a_slow_first_second_shows_in_that_second_though_not_in_the_median() -> None:
    phases = [phase((0.0, 9.0), (1.0, 1.0), (2.0, 1.0), (2.9, 1.0)), phase((0.5, 7.0), (1.5, 1.0))]
    assert {second: summary.median for second, summary in by_second(phases).items()} == {0: 8.0, 1: 1.0, 2: 1.0}
    assert summary_of(phases).median == 1.0
