"""Keeps lanes free, so that one slow flow cannot hold all lanes of a queue."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

_RESERVED_PART = 4
"""One in four lanes of a queue belongs to the reserve."""


@dataclass(frozen=True, slots=True)
class FlowCondition:
    """The condition of a flow at the moment when it needs a lane."""

    is_slow: bool
    has_failed: bool
    """The last call with evidence for the flow's health failed."""


class LaneReserve:
    """Counts the lanes that each flow holds in each queue. Queues are separate, as their lanes serve one queue only.

    A quarter of a queue's lanes is the reserve:

    - Calls normally leave the reserve free.
    - A flow that holds no lane of the queue may take one from the reserve, unless its last call failed.
    - A flow that is not slow may take more, as long as one lane stays free.
    - No flow ever holds more than all lanes less the reserve.

    A queue with one lane has no reserve.
    """

    def __init__(self, lanes: Mapping[str, int]) -> None:
        """`lanes` is the number of lanes of each queue."""
        self._lanes = dict(lanes)
        self._common = {queue: _without_reserve(count) for queue, count in lanes.items()}
        self._taken: Counter[str] = Counter()
        self._held: Counter[tuple[str, str]] = Counter()

    @property
    def max_per_flow(self) -> int:
        """The number of lanes, over all queues, that one flow may hold."""
        return sum(self._common.values()) if self._common else sys.maxsize

    def has_lane(self, queue: str, flow: str, condition: FlowCondition) -> bool:
        """Return whether a call of the flow may hold a lane of the queue; always true for an unknown queue."""
        if queue not in self._lanes:
            return True
        taken, held, common = self._taken[queue], self._held[queue, flow], self._common[queue]
        if held >= common:
            return False
        if taken < common:
            return True
        # From here on the call would take a lane of the reserve.
        if not held:
            return not condition.has_failed
        return taken < self._lanes[queue] - 1 and not condition.is_slow

    def take(self, queue: str, flow: str) -> None:
        """Count a lane of the queue as held by a call of the flow."""
        self._taken[queue] += 1
        self._held[queue, flow] += 1

    def release(self, queue: str, flow: str) -> None:
        """Count a lane of the queue as held no longer."""
        self._taken[queue] -= 1
        self._held[queue, flow] -= 1


def _without_reserve(lanes: int) -> int:
    return lanes if lanes < 2 else lanes - max(1, lanes // _RESERVED_PART)
