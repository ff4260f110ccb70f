"""When a flow may be called: its bounds, its pauses, its breaker, and who is next."""

from flow_worker.flows.limits.call_limiter import PATIENCE_SECONDS, Pacing, status_poll_key
from flow_worker.flows.limits.flow_limiter import FlowState, Limits, NotNow

__all__ = ["PATIENCE_SECONDS", "FlowState", "Limits", "NotNow", "Pacing", "status_poll_key"]
