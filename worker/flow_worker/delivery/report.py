"""Reports the attempts of one sink to the log, the metrics and the health; folds the lines of an outage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from flow_worker.delivery.owed import Owed
from flow_worker.telemetry.logs import log
from flow_worker.telemetry.sink_health import SinkHealth

_log = logging.getLogger(__name__)
_EVERY_SECONDS = 60.0
"""Between two lines about the same outage."""


class Measures(Protocol):
    """Counts the attempts."""

    def attempted(self, sink: str, state: str, outcome: str, seconds: float) -> None:
        """Count an attempt: its outcome is `delivered`, `postponed`, `failed` or `given_up`."""
        ...


class NoMeasures:
    """Counts nothing."""

    def attempted(self, sink: str, state: str, outcome: str, seconds: float) -> None:
        """See `Measures.attempted`."""


class SinkReport:
    """The reports of one sink."""

    def __init__(
        self, sink: str, health: SinkHealth, measures: Measures, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.health = health
        self._sink = sink
        self._measures = measures
        self._monotonic = monotonic
        self._failing_since: float | None = None
        self._failures = 0
        self._next_line = float("-inf")

    def began(self) -> float:
        """Note that an attempt begins; return the time for the report of its end."""
        self.health.in_flight += 1
        return self._monotonic()

    def ended(self, owed: Owed, outcome: str, began: float) -> None:
        """Count an attempt that ended."""
        self.health.in_flight -= 1
        self._measures.attempted(self._sink, owed.state, outcome, self._monotonic() - began)

    def delivered(self, owed: Owed, note: str | None) -> None:
        """Report a success, and the end of an outage."""
        self.health.delivered += 1
        sentence = f"The sink '{self._sink}' has the state '{owed.state}' of a request."
        self._write(logging.INFO, "delivery.delivered", sentence, owed, note=note)
        self.works()

    def works(self) -> None:
        """Note that the sink works, also if it has nothing to do yet."""
        self.health.mark_available()
        if self._failing_since is None:
            return
        seconds = round(self._monotonic() - self._failing_since, 1)
        log(
            _log,
            logging.INFO,
            "delivery.recovered",
            f"The sink '{self._sink}' works again.",
            sink=self._sink,
            attempts=self._failures,
            seconds=seconds,
        )
        self._failing_since = None

    def failed(self, owed: Owed, code: str, cause: str) -> None:
        """Report a failure: its first one at once, then one line per minute."""
        self.health.mark_failing(f"{code}: {cause}")
        if self._failing_since is None:
            self._failing_since, self._failures = self._monotonic(), 0
        self._failures += 1
        if self._monotonic() < self._next_line:
            return
        self._next_line = self._monotonic() + _EVERY_SECONDS
        sentence = f"The sink '{self._sink}' fails, and the worker tries again; replies are not affected: {cause}."
        self._write(logging.WARNING, "delivery.failing", sentence, owed, code=code, attempts=self._failures)

    def given_up(self, owed: Owed, code: str, cause: str) -> None:
        """Report that a person must look at the delivery."""
        self.health.given_up += 1
        self.health.last_error = f"{code}: {cause}"
        sentence = (
            f"The worker gave up a delivery to the sink '{self._sink}': {cause}. The reply queue got the result. After "
            f"the remedy run: flow-worker deliveries retry --sink {self._sink}"
        )
        self._write(logging.ERROR, "delivery.given_up", sentence, owed, code=code)

    def internal_error(self, owed: Owed) -> None:
        """Report an error of the worker itself, with its traceback."""
        sentence = f"An internal error ended an attempt of the sink '{self._sink}'."
        self._write(logging.ERROR, "delivery.internal_error", sentence, owed)

    def _write(self, level: int, event: str, sentence: str, owed: Owed, **fields: str | int | None) -> None:
        log(
            _log,
            level,
            event,
            sentence,
            sink=self._sink,
            state=owed.state,
            flow=owed.flow,
            message_id=owed.message_id,
            correlation_id=owed.correlation_id,
            **fields,
        )
