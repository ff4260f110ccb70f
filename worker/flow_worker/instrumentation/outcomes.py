"""Records the published results, and adds the outcomes to their spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from flow_worker.flows.known_codes import bounded_code
from flow_worker.instrumentation.bounds import Bounds
from flow_worker.instrumentation.spans import Spans
from flow_worker.pipeline.keys import LockHeld, always_held
from flow_worker.pipeline.outcome import Continue, Outcome, Reply, reply_of
from flow_worker.runtime.ports import OutcomeSender
from flow_worker.telemetry.metrics import Metrics


class ObservedDispatcher:
    """An `OutcomeSender` whose published results are counted and timed."""

    def __init__(
        self,
        dispatcher: OutcomeSender,
        metrics: Metrics,
        spans: Spans,
        bounds: Bounds,
        *,
        now: Callable[[], datetime],
        for_dead_letters: bool = False,
    ) -> None:
        """`now` returns the broker's time."""
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._spans = spans
        self._bounds = bounds
        self._now = now
        self._for_dead_letters = for_dead_letters

    async def send(self, outcome: Outcome, *, lock_held: LockHeld = always_held) -> Outcome:
        """See `OutcomeSender.send`."""
        sent = await self._dispatcher.send(outcome, lock_held=lock_held)
        self._record(sent)
        return sent

    async def send_together(self, outcomes: Sequence[tuple[Reply | Continue, LockHeld]]) -> bool:
        """See `OutcomeSender.send_together`."""
        are_sent = await self._dispatcher.send_together(outcomes)
        for outcome, _ in outcomes if are_sent else ():
            self._record(outcome)
        return are_sent

    def _record(self, sent: Outcome) -> None:
        self._spans.sent(sent)
        if (reply := reply_of(sent)) is not None:
            result = reply.result
            flow, status = self._bounds.flow(result.flow), result.status.value
            code = bounded_code(result.error.code if result.error else None)
            self._metrics.requests.add(flow, status, code)
            if self._for_dead_letters:
                self._metrics.dead_letters.add(status, code)
            if result.times.accepted is not None:
                seconds = (self._now() - result.times.accepted).total_seconds()
                self._metrics.request_duration.record(seconds, flow, status)

    async def mark_published(self, outcome: Outcome) -> None:
        """See `OutcomeSender.mark_published`."""
        await self._dispatcher.mark_published(outcome)
