"""The status of a running worker, for `flow-worker status`: its lanes, flows, limits, circuit breakers, last results.

It holds numbers, the names in the settings, and the worker's own words: no ID, sender, input, output or URL. It leaves
out a flow name that only a sender wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from flow_worker.flows.limits import CallLimiter, FlowState, status_poll_key
from flow_worker.settings import LimitSettings, Settings
from flow_worker.telemetry.health import Health
from flow_worker.version import worker_version


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Makes the status of one worker."""

    settings: Settings
    health: Health
    limiter: CallLimiter
    started: datetime
    now: Callable[[], datetime]

    def __call__(self) -> dict[str, JsonValue]:
        """Return the status at this moment as JSON."""
        report = self.health.report()
        states = self.limiter.state()
        return {
            "version": worker_version(),
            "started": self.started.isoformat(timespec="seconds"),
            "now": self.now().isoformat(timespec="seconds"),
            "ready": bool(report["ready"]),
            "draining": bool(report["draining"]),
            "clock": _json(report["clock"]),
            "journal": _json(report["journal"]),
            "queues": _json(report["queues"]),
            "deliveries": _json(report.get("deliveries", {})),
            "flows": {name: self._flow(name, states) for name in self.settings.flows},
            "results": {
                "counts": dict(self.health.recent.counts),
                "last": self.health.recent.as_json(self.settings.flows.keys()),
            },
        }

    def _flow(self, name: str, states: Mapping[str, FlowState]) -> JsonValue:
        limits = self.settings.flows[name].limits or self.settings.limits
        return {
            "limits": _limits(limits),
            "calls": _state(states[name], limits),
            "status_polls": _state(states[status_poll_key(name)], limits),
        }


def _limits(limits: LimitSettings) -> JsonValue:
    return {
        "max_in_flight": limits.max_in_flight,
        "max_calls": limits.max_calls,
        "window_seconds": limits.window_seconds,
        "breaker_failures": limits.breaker_failures,
    }


def _state(state: FlowState, limits: LimitSettings) -> JsonValue:
    closed = state.closed
    average = state.average_seconds
    return {
        "in_flight": state.in_flight,
        "waiting": state.all_waiting,
        "calls_in_window": state.calls_in_window,
        "average_seconds": None if average is None else round(average, 3),
        "failures_in_a_row": state.failures_in_a_row,
        "circuit_breaker": _breaker(state, limits),
        "paused_by": None if closed is None else closed.code,
        "paused_until": None if closed is None else closed.until.isoformat(timespec="seconds"),
        "cause": None if closed is None else closed.cause,
    }


def _breaker(state: FlowState, limits: LimitSettings) -> str:
    if state.closed is not None and state.closed.code == "flow_circuit_open":
        return "open"
    return "half-open" if state.failures_in_a_row >= limits.breaker_failures else "closed"


def _json(part: object) -> JsonValue:
    """Return a part of the readiness report, which consists of JSON values, as such."""
    if isinstance(part, Mapping):
        return {str(name): _json(value) for name, value in part.items()}
    return part if isinstance(part, (str, int, float, bool)) else None
