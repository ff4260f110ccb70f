"""Keeps lanes free for other senders, so that one sender's slow calls cannot hold all lanes of a queue."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping

_RESERVED_PART = 4
"""One in four lanes of a queue stays free for other senders."""
_MIN_LANES = 4
"""With fewer lanes there is no room for this reserve beside the one of the flows."""


class SenderLanes:
    """Counts the lanes that the calls of each sender hold in each queue.

    A sender's calls leave a quarter of a queue's lanes to other senders. Those of one of its flows hold at most half
    of the lanes, if there are other flows. Quick calls may hold more lanes, because they soon free them again. The last
    lane is always for a sender without one. A queue with less than four lanes has no reserve.
    """

    def __init__(self, lanes: Mapping[str, int], *, several_flows: bool) -> None:
        """`lanes` is the number of lanes of each queue."""
        self._lanes = {queue: count for queue, count in lanes.items() if count >= _MIN_LANES}
        self._several_flows = several_flows
        self._taken: Counter[str] = Counter()
        self._held: Counter[tuple[str, ...]] = Counter()
        """By queue and sender, and by queue, sender and flow; without zeros, because senders are many."""

    def has_lane(self, queue: str, sender: str, flow: str, *, is_quick: bool) -> bool:
        """Return whether a call may hold a lane of the queue; always true for a queue without a reserve."""
        lanes = self._lanes.get(queue)
        if lanes is None or not sender:
            return True
        held, taken = self._held[queue, sender], self._taken[queue]
        common = lanes - lanes // _RESERVED_PART
        if held and taken >= max(common, lanes - 1):
            return False
        if is_quick:
            return True
        of_flow = lanes // 2 if self._several_flows else common
        return held < common and self._held[queue, sender, flow] < of_flow

    def max_waiting(self, queue: str) -> int:
        """Return how many lanes of the queue may hold requests of one sender that wait for a place."""
        lanes = self._lanes.get(queue)
        return sys.maxsize if lanes is None else lanes // _RESERVED_PART

    def take(self, queue: str, sender: str, flow: str) -> None:
        """Count a lane of the queue as held by a call of the sender."""
        self._taken[queue] += 1
        for key in ((queue, sender), (queue, sender, flow)):
            self._held[key] += 1

    def release(self, queue: str, sender: str, flow: str) -> None:
        """Count a lane of the queue as held no longer."""
        self._taken[queue] -= 1
        for key in ((queue, sender), (queue, sender, flow)):
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
