"""Pauses the calls of a flow that answered 429."""

from __future__ import annotations

from datetime import datetime

from flow_worker.flows.limits.growing_pause import GrowingPause

_FIRST_SECONDS = 5.0
_MAX_SECONDS = 300.0
_JITTER = 0.2


class ThrottlePause:
    """One pause for all lanes: until the time that the flow names, or else doubling from 5 to 300 seconds."""

    def __init__(self) -> None:
        self._pause = GrowingPause(_FIRST_SECONDS, _MAX_SECONDS, jitter=_JITTER)

    @property
    def until(self) -> datetime:
        """The end of the latest pause."""
        return self._pause.until

    def begin(self, now: datetime) -> None:
        """Pause after a 429 without a time."""
        self._pause.begin(now)

    def begin_until(self, until: datetime) -> None:
        """Pause until the time that the flow named. Of two such times the later one counts."""
        self._pause.extend(until)

    def record_success(self) -> None:
        """Make the next pause short again."""
        self._pause.reset()
