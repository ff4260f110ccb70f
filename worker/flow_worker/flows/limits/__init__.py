"""Decides when this process may call a flow: rate, concurrency, throttling, circuit breaker, lanes and turn."""

from flow_worker.flows.limits.call_limiter import MAX_WAIT_SECONDS, CallLimiter, status_poll_key
from flow_worker.flows.limits.flow_limiter import FlowLimits, FlowState, LimitCode, Postponement

__all__ = [
    "MAX_WAIT_SECONDS",
    "CallLimiter",
    "FlowLimits",
    "FlowState",
    "LimitCode",
    "Postponement",
    "status_poll_key",
]
