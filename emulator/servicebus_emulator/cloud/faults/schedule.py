"""The schedule of faults: decides which fault the next call meets."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from servicebus_emulator.cloud.faults.definitions import Fault

_F = TypeVar("_F", bound=Fault)


class FaultSchedule(Generic[_F]):
    """The active faults in order. Each stays first until its `next_calls` are used up."""

    def __init__(self, faults: Iterable[_F] = ()) -> None:
        self._active: deque[_ActiveFault[_F]] = deque()
        self.replace(faults)

    def replace(self, faults: Iterable[_F]) -> None:
        """Replace all faults; their counts and random choices start again."""
        self._active = deque(_ActiveFault(fault) for fault in faults)

    def next_fault(self, applies: Callable[[_F], bool] = lambda _: True) -> _F | None:
        """Count one call and return the fault that it meets; None if it passes.

        The call does not count for faults that do not apply to it.
        """
        first = next((active for active in self._active if applies(active.fault)), None)
        if first is None:
            return None
        fault = first.next_fault()
        if first.calls_left == 0:
            self._active.remove(first)
        return fault


class _ActiveFault(Generic[_F]):
    """A fault, the calls it still applies to (None: all), and the random choice of its share."""

    def __init__(self, fault: _F) -> None:
        self.fault = fault
        self.calls_left = fault.next_calls
        self._random = random.Random(fault.seed)  # noqa: S311 - which calls fail is no secret

    def next_fault(self) -> _F | None:
        # A call that passes counts too, so that `next_calls` bounds the calls and not the failures among them.
        if self.calls_left is not None:
            self.calls_left -= 1
        if self.fault.kind == "pass" or self._random.random() >= self.fault.share:
            return None
        return self.fault
