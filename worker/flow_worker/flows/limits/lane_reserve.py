"""Which lanes the calls of one flow may hold, so that some are left to the others."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

_RESERVE = 4
"""One in so many lanes of a queue is not for one flow alone."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a flow when it asks for a lane."""

    is_slow: bool
    has_failed: bool


class Lanes:
    """The lanes of each queue: a message waits for the lanes of its own queue only.

    A quarter of a queue's lanes is the reserve. Calls leave it free, except that a flow which holds no lane of the
    queue may take one of it unless its last call failed, and one that is not slow may take more as long as one lane is
    left; but no flow ever holds more than all lanes less the reserve. A queue with one lane has no reserve.
    """

    def __init__(self, of_queues: Mapping[str, int]) -> None:
        self._all = dict(of_queues)
        self._common = {queue: _less_reserve(lanes) for queue, lanes in of_queues.items()}
        self._taken: Counter[str] = Counter()
        self._held: Counter[tuple[str, str]] = Counter()

    @property
    def most_for_one(self) -> int:
        """How many lanes one flow may hold, over all queues."""
        return sum(self._common.values()) if self._common else sys.maxsize

    def has_one(self, queue: str, flow: str, health: Health) -> bool:
        """Whether a call of the flow may hold a lane of the queue; always, if the queue is none of those known."""
        if queue not in self._all:
            return True
        taken, held, common = self._taken[queue], self._held[queue, flow], self._common[queue]
        if held >= common:
            return False
        if taken < common:
            return True
        if not held:
            return not health.has_failed
        return taken < self._all[queue] - 1 and not health.is_slow

    def take(self, queue: str, flow: str) -> None:
        """A call of the flow holds a lane of the queue from now on."""
        self._taken[queue] += 1
        self._held[queue, flow] += 1

    def give_back(self, queue: str, flow: str) -> None:
        """It does no longer."""
        self._taken[queue] -= 1
        self._held[queue, flow] -= 1


def _less_reserve(lanes: int) -> int:
    return lanes if lanes < 2 else lanes - max(1, lanes // _RESERVE)
