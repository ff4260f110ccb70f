"""A pause that doubles with each repetition."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flow_contracts.backoff import ExponentialBackoff

LONG_AGO = datetime.min.replace(tzinfo=UTC)


class GrowingPause:
    """A pause that ends at `until`. Each pause is twice as long as the one before, from `first` to `longest` seconds.

    `jitter` is the fraction of its length by which a pause may be shorter or longer. `reset` starts over at `first`.
    """

    def __init__(self, first: float, longest: float, *, jitter: float = 0.0) -> None:
        self._pauses = ExponentialBackoff(first, longest, jitter_from=1 - jitter, jitter_to=1 + jitter)
        self.until = LONG_AGO
        self.repetitions = 0
        """The number of pauses since the last reset."""

    def begin(self, now: datetime) -> None:
        """Begin the next pause. A pause that ends later than the new one is kept."""
        seconds = self._pauses.seconds(self.repetitions)
        self.repetitions += 1
        self.extend(now + timedelta(seconds=seconds))

    def extend(self, until: datetime) -> None:
        """Let the pause last at least until `until`. This does not count as a repetition."""
        self.until = max(self.until, until)

    def reset(self) -> None:
        """Make the next pause the shortest one. A pause that is under way goes to its end."""
        self.repetitions = 0
