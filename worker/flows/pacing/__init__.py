"""When a flow may be called: its bounds, its pauses, its breaker, and who is next."""

from worker.flows.pacing.gate import FlowState, Limits, NotNow
from worker.flows.pacing.pacing import Pacing

__all__ = ["FlowState", "Limits", "NotNow", "Pacing"]
