"""Exponential pauses between repetitions, for everything in the worker that retries."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MAX_DOUBLINGS = 32
"""Far beyond any bound in use; more would overflow a float after an outage of days."""


@dataclass(frozen=True, slots=True)
class ExponentialBackoff:
    """Pauses that double with each repetition up to a bound, multiplied by a random jitter.

    Jitter keeps workers that failed together from retrying together (AWS Architecture Blog, "Exponential backoff and
    jitter"): from 0 to 1 is full jitter, from 1 to 1 is none.
    """

    first_seconds: float
    max_seconds: float
    """The bound of a pause before jitter."""
    jitter_from: float = 1.0
    jitter_to: float = 1.0

    def seconds(self, doublings: int) -> float:
        """Return the pause in seconds after that many doublings of the first one."""
        bound = min(self.max_seconds, self.first_seconds * (1 << min(doublings, _MAX_DOUBLINGS)))
        return bound * random.uniform(self.jitter_from, self.jitter_to)  # noqa: S311 - jitter, not a secret
