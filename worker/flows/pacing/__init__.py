"""When a flow may be called: its bounds, its pauses, its breaker, and who is next."""

from worker.flows.pacing.gate import FlowState, Limits, NotNow
from worker.flows.pacing.pacing import PATIENCE_SECONDS, Pacing, looks_at

__all__ = ["PATIENCE_SECONDS", "FlowState", "Limits", "NotNow", "Pacing", "looks_at"]
