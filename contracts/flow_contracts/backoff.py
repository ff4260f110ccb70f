"""Growing pauses between repetitions, for everything in the client and the worker that retries."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_GROWTHS = 32
"""Far beyond any bound in use; more would overflow a float after an outage of days."""


@dataclass(frozen=True, slots=True)
class ExponentialBackoff:
    """Pauses that grow by a factor with each repetition up to a bound, multiplied by a random jitter.

    Jitter keeps processes that failed together from retrying together (AWS Architecture Blog, "Exponential backoff and
    jitter"). From 0 to 1 is full jitter; from 1 to 1 is no jitter.
    """

    first_seconds: float
    max_seconds: float
    """The bound of a pause before jitter."""
    growth: float = 2.0
    jitter_from: float = 1.0
    jitter_to: float = 1.0

    def seconds(self, repetitions: int) -> float:
        """Return the pause in seconds after that many repetitions; 0 returns the first pause."""
        bound = min(self.max_seconds, self.first_seconds * self.growth ** min(repetitions, _MAX_GROWTHS))
        return bound * random.uniform(self.jitter_from, self.jitter_to)  # noqa: S311 - jitter, not a secret

    def pauses(self) -> Iterator[float]:
        """Yield the pause after each repetition in seconds, without end."""
        return map(self.seconds, itertools.count())
