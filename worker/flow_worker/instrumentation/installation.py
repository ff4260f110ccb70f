"""Builds the wrappers, and registers the gauges that read the worker's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opentelemetry.trace import Tracer

from flow_worker.broker_clock import BrokerClock
from flow_worker.flows.known_codes import bounded_code
from flow_worker.flows.limits import FlowState, status_poll_key
from flow_worker.instrumentation.bounds import Bounds
from flow_worker.instrumentation.bus import ObservedBus, lane_states
from flow_worker.instrumentation.caller import ObservedCaller
from flow_worker.instrumentation.journal import ObservedJournal
from flow_worker.instrumentation.outcomes import ObservedDispatcher
from flow_worker.instrumentation.propagation import PropagatingBus
from flow_worker.instrumentation.spans import Spans
from flow_worker.journal import Journal
from flow_worker.pipeline.ports import Caller
from flow_worker.runtime.ports import Bus, OutcomeSender
from flow_worker.settings import Settings
from flow_worker.telemetry import metrics as definitions
from flow_worker.telemetry.health import Health
from flow_worker.telemetry.instruments import Definition, Sample
from flow_worker.telemetry.metrics import Metrics

_FLOW_GAUGES: Mapping[Definition, Callable[[FlowState], float]] = {
    definitions.IN_FLIGHT: lambda state: state.in_flight,
    definitions.WAITING: lambda state: state.all_waiting,
    definitions.CALLS_IN_WINDOW: lambda state: state.calls_in_window,
    definitions.CIRCUIT_OPEN: lambda state: _is_closed_by(state, "flow_circuit_open"),
    definitions.THROTTLED: lambda state: _is_closed_by(state, "flow_throttled"),
}

_DEAD_LETTERS = (("expired", "request_expired"), ("failed", "deliveries_exceeded"))
"""The usual results of dead letters."""
_RESULTS = (
    ("succeeded", ""),
    ("failed", "http_5xx"),
    ("unknown", "flow_no_answer"),
    ("refused", "flow_not_allowed"),
)
"""The usual results of a flow's requests."""


class Instrumentation:
    """The instrumentation of one worker."""

    def __init__(self, metrics: Metrics, settings: Settings, clock: BrokerClock, tracer: Tracer | None = None) -> None:
        """`tracer` is None without an SDK."""
        self._metrics = metrics
        self._is_idle = tracer is None and not metrics.are_recorded
        self._bounds = Bounds(settings)
        self._spans = Spans(tracer, settings, self._bounds)
        self._flows = tuple(settings.flows)
        self._clock = clock
        metrics.gauge(definitions.CLOCK_OFFSET, lambda: [(clock.offset_seconds, {})])
        self._begin_counters(settings)

    # --- wrappers --------------------------------------------------------------------------------------------------

    def bus(self, bus: Bus, health: Health, senders: Callable[[], Mapping[str, int]] = dict) -> Bus:
        """Return the bus with its messages and connections measured. `senders` returns the open senders by queue."""
        if self._is_idle:
            return PropagatingBus(bus, self._spans)
        observed = ObservedBus(bus, self._metrics, self._spans, namespace=self._bounds.namespace, now=self._clock.now)
        self._metrics.gauge(definitions.LANES, lambda: lane_states(health.lane_counts(), observed.busy))
        self._metrics.gauge(
            definitions.SENDERS_OPEN, lambda: [(count, {"queue": queue}) for queue, count in senders().items()]
        )
        return observed

    def journal(self, journal: Journal, health: Health) -> Journal:
        """Return the journal with its operations measured."""
        self._metrics.gauge(definitions.JOURNAL_AVAILABLE, lambda: [(int(health.journal.is_available), {})])
        if not self._metrics.are_recorded:
            return journal
        return ObservedJournal(journal, self._metrics.journal_duration)

    def caller(self, caller: Caller) -> Caller:
        """Return the caller with its requests measured. Without an SDK, the flow gets the sender's trace context."""
        if self._is_idle:
            return caller
        return ObservedCaller(caller, self._metrics, self._spans, self._bounds)

    def dispatcher(self, dispatcher: OutcomeSender, *, for_dead_letters: bool = False) -> OutcomeSender:
        """Return the dispatcher with its published results measured."""
        if self._is_idle:
            return dispatcher
        return ObservedDispatcher(
            dispatcher,
            self._metrics,
            self._spans,
            self._bounds,
            now=self._clock.now,
            for_dead_letters=for_dead_letters,
        )

    def _begin_counters(self, settings: Settings) -> None:
        """Export zeros, so that an alert sees the first event, and a share of failures is 0 without one."""
        for queue in (*(queue.name for queue in settings.request_queues), settings.continuations.queue):
            for counter in (self._metrics.locks_lost, self._metrics.renewals_failed, self._metrics.reconnects):
                counter.begin(queue)
        for status, code in _DEAD_LETTERS:
            self._metrics.dead_letters.begin(status, code)
        for flow in settings.flows:
            self._metrics.calls.begin(flow, "call", "http_2xx")
            for status, code in _RESULTS:
                self._metrics.requests.begin(flow, status, code)
        self._metrics.journal_duration.begin("acquire", "journal_unavailable")
        for audience in ("flow", "dataverse") if settings.dataverse.url else ("flow",):
            self._metrics.token_duration.begin(audience, "")

    # --- listeners and gauges --------------------------------------------------------------------------------------

    def decided(self, queue: str, authority: str | None, code: str | None) -> None:
        """Count a decision about a sender from a request queue; without a proven sender, the queue's authority."""
        if self._is_idle:
            return
        shown, refusal = authority or self._bounds.authority(queue), bounded_code(code)
        self._metrics.decisions.add(shown, refusal)
        self._spans.decided(shown, refusal, is_proven=authority is not None)

    def watch_limits(self, states: Callable[[], Mapping[str, FlowState]]) -> None:
        """Read the gauges of the flows' limits."""
        self._metrics.gauges(_FLOW_GAUGES, lambda: self._of_flows(states()))

    def _of_flows(self, states: Mapping[str, FlowState]) -> Mapping[str, list[Sample]]:
        keys = [
            (states[key], {"flow": flow, "kind": kind})
            for flow in self._flows
            for kind, key in (("call", flow), ("poll", status_poll_key(flow)))
        ]
        return {one.name: [(read(state), labels) for state, labels in keys] for one, read in _FLOW_GAUGES.items()}


def _is_closed_by(state: FlowState, code: str) -> int:
    return int(state.closed is not None and state.closed.code == code)
