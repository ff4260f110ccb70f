"""Lets the event loop run while another thread decodes an answer."""

from __future__ import annotations

import time

_WORK_SECONDS = 0.004
_REST_SECONDS = 0.001


class Rests:
    """Rests between two steps of work, if the work since the last rest was long.

    A thread that computes holds the interpreter lock. The event loop needs the lock again after each system call, and
    waits up to one step and 5 ms for it each time. During a rest it gets the lock at once.
    """

    def __init__(self) -> None:
        self._rested_at = time.perf_counter()

    def __call__(self) -> None:
        """Rest. Not on the event loop."""
        if time.perf_counter() - self._rested_at >= _WORK_SECONDS:
            time.sleep(_REST_SECONDS)
            self._rested_at = time.perf_counter()
