"""The last results of this worker, for its status: without IDs, senders, outputs and error texts."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from flow_contracts.result import FlowResult

_MAX_RESULTS = 20
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,63}")
"""A flow chooses some codes. Anything else than a name could be a text, which does not belong in a status."""


@dataclass(frozen=True, slots=True)
class RecentResult:
    """One result, reduced to what its status shows."""

    flow: str | None
    status: str
    code: str | None
    http_status: int | None
    attempts: int
    finished: datetime | None
    seconds: float | None

    def as_json(self, flows: Collection[str]) -> dict[str, JsonValue]:
        """Return the result as JSON. A flow that is not among `flows` has a name that its sender made up."""
        return {
            "finished": self.finished.isoformat(timespec="seconds") if self.finished else None,
            "flow": self.flow if self.flow in flows else None,
            "status": self.status,
            "code": self.code if self.code is None or _CODE.fullmatch(self.code) else "other",
            "http_status": self.http_status,
            "attempts": self.attempts,
            "seconds": self.seconds,
        }


class RecentResults:
    """The last results, newest last, and the number of all results by status."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._results: deque[RecentResult] = deque(maxlen=_MAX_RESULTS)

    def add(self, result: FlowResult) -> None:
        """Count a result and remember it."""
        status, times = result.status.value, result.times
        self.counts[status] = self.counts.get(status, 0) + 1
        code = result.error.code if result.error else None
        self._results.append(
            RecentResult(result.flow, status, code, result.http_status, result.attempts, times.finished, times.seconds)
        )

    def as_json(self, flows: Collection[str]) -> list[JsonValue]:
        """Return the results as JSON, newest first."""
        return [result.as_json(flows) for result in reversed(self._results)]
