"""Folds the lines of SDKs that repeat: in an outage, each link writes the same line several times a second.

A folded line is counted, and a later line reports the count. So the log hides no failure for ever.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TextIO

EVERY_SECONDS = 10.0
"""The least time between two lines about the same failure."""

_MAX_KINDS = 256
"""The kinds of records that are counted apart. Some SDK messages contain texts of a peer, and each kind has a timer."""
_MAX_KEY_CHARACTERS = 200

_SDK_LOGGERS = frozenset({"azure", "uamqp", "httpx", "aiohttp", "opentelemetry"})


def is_from_sdk(record: logging.LogRecord) -> bool:
    """Return whether an SDK wrote the record."""
    return record.name.split(".")[0] in _SDK_LOGGERS


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Cancel the call."""
        ...


Later = Callable[[float, Callable[[], None]], Timer]
"""Calls a function after some seconds."""


def _in_thread(seconds: float, call: Callable[[], None]) -> Timer:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer


@dataclass(slots=True)
class _Folded:
    """The repetitions of one record since its line."""

    last: logging.LogRecord
    count: int = 0
    timer: Timer | None = field(default=None, repr=False)


class FoldingHandler(logging.StreamHandler[TextIO]):
    """Writes a record of an SDK once per interval, and then how often it came. All other records pass."""

    def __init__(self, stream: TextIO, *, later: Later = _in_thread) -> None:
        super().__init__(stream)
        self._later = later
        self._folded: dict[tuple[str, int, str], _Folded] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it."""
        if not is_from_sdk(record):
            super().emit(record)
            return
        key = (record.name, record.levelno, str(record.msg)[:_MAX_KEY_CHARACTERS])
        if key not in self._folded and len(self._folded) >= _MAX_KINDS:
            key = (record.name, record.levelno, "")
        folded = self._folded.get(key)
        if folded is not None:
            folded.last, folded.count = record, folded.count + 1
            return
        self._folded[key] = folded = _Folded(record)
        super().emit(record)
        folded.timer = self._later(EVERY_SECONDS, lambda: self._summarize(key))

    def close(self) -> None:
        """Write the counts that no line has reported yet."""
        for key, folded in list(self._folded.items()):
            if folded.timer is not None:
                folded.timer.cancel()
            self._summarize(key, again=False)
        super().close()

    def _summarize(self, key: tuple[str, int, str], *, again: bool = True) -> None:
        with self.lock or threading.RLock():
            folded = self._folded.pop(key, None)
            if folded is None or folded.count == 0:
                return
            summary = copy.copy(folded.last)
            summary.msg = "%s (%d times more within %g s)"
            summary.args = (folded.last.getMessage(), folded.count, EVERY_SECONDS)
            super().emit(summary)
            if again:  # the record still comes: count on, instead of another first line
                self._folded[key] = following = _Folded(folded.last)
                following.timer = self._later(EVERY_SECONDS, lambda: self._summarize(key))
