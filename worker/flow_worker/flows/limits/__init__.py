"""Decides when this process may call a flow: by its flow and by its sender."""

from flow_worker.flows.limits.call_limiter import MAX_WAIT_SECONDS, CallLimiter, status_poll_key
from flow_worker.flows.limits.flow_limiter import FlowLimits, FlowState, LimitCode, Postponement
from flow_worker.flows.limits.sender_limiter import SenderLimits

__all__ = [
    "MAX_WAIT_SECONDS",
    "CallLimiter",
    "FlowLimits",
    "FlowState",
    "LimitCode",
    "Postponement",
    "SenderLimits",
    "status_poll_key",
]
