"""Summarizes measured durations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """The count, the median and the 99th percentile of durations in seconds."""

    count: int
    median: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Summary:
        """Summarize durations. Raise `ValueError` if there are none."""
        if not seconds:
            raise ValueError("cannot summarize zero samples: the benchmark measured nothing")
        return cls(len(seconds), statistics.median(seconds), percentile(seconds, 0.99))


def percentile(seconds: Sequence[float], fraction: float) -> float:
    """Return the smallest sample that at least this fraction of the samples does not exceed (nearest rank).

    The nearest rank is always a measured value; interpolation would invent one between two samples.
    """
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]
