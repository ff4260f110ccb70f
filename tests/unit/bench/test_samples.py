"""The arithmetic of the measurements."""

from __future__ import annotations

import json

import pytest

from bench.samples import Summary, percentile
from bench.turns import Measured, Sample, Turn, as_json, by_second, summary_of


def test_a_percentile_is_one_of_the_times_measured() -> None:
    times = [float(n) for n in range(1, 101)]
    assert (percentile(times, 0.99), percentile(times, 0.5), percentile(times, 1)) == (99, 50, 100)
    assert percentile([7.0], 0.99) == 7


def test_nothing_measured_is_no_summary() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Summary.of([])


def turn(*samples: tuple[float, float]) -> Turn:
    return Turn([Sample(at, seconds) for at, seconds in samples])


def test_the_ratio_is_of_the_medians_over_all_turns() -> None:
    alone = [turn((0, 1.0), (1, 2.0)), turn((0, 3.0))]
    measured = Measured(alone, [turn((0, 2.0), (1, 100.0)), turn((0, 3.0))])
    assert measured.ratio == 1.5
    said = json.loads(json.dumps(as_json(measured)))
    assert said["ratio"] == 1.5
    assert (said["alone"]["count"], said["alone"]["median"], said["alone"]["p99"]) == (3, 2.0, 3.0)


def test_a_trouble_of_the_first_second_shows_in_that_second_though_not_in_the_median() -> None:
    turns = [turn((0.0, 9.0), (1.0, 1.0), (2.0, 1.0), (2.9, 1.0)), turn((0.5, 7.0), (1.5, 1.0))]
    assert {second: summary.median for second, summary in by_second(turns).items()} == {0: 8.0, 1: 1.0, 2: 1.0}
    assert summary_of(turns).median == 1.0
