"""Times that were measured, and what is said of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """Times in seconds."""

    count: int
    median: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Summary:
        """Raises `ValueError` if there are none."""
        if not seconds:
            raise ValueError("nothing was measured")
        return cls(len(seconds), statistics.median(seconds), percentile(seconds, 0.99))


def percentile(seconds: Sequence[float], part: float) -> float:
    """The smallest time that at least this part of them does not exceed (nearest rank)."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
