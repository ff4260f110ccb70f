"""The schedule of faults: decides which fault the next call meets."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

from servicebus_emulator.cloud.faults.definitions import Fault


class FaultSchedule:
    """The active faults in order. Each stays first until its `next_calls` are used up."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._active: deque[_ActiveFault] = deque()
        self.replace(faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Replace all faults; their counts and random choices start again."""
        self._active = deque(_ActiveFault(fault) for fault in faults)

    def next_fault(self) -> Fault | None:
        """Count one call and return the fault that it meets; None if it passes."""
        if not self._active:
            return None
        first = self._active[0]
        fault = first.next_fault()
        if first.calls_left == 0:
            self._active.popleft()
        return fault


class _ActiveFault:
    """A fault, the calls it still applies to (None: all), and the random choice of its share."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self.calls_left = fault.next_calls
        self._random = random.Random(fault.seed)  # noqa: S311 - which calls fail is no secret

    def next_fault(self) -> Fault | None:
        # A call that passes counts too, so that `next_calls` bounds the calls and not the failures among them.
        if self.calls_left is not None:
            self.calls_left -= 1
        if self._fault.kind == "pass" or self._random.random() >= self._fault.share:
            return None
        return self._fault
