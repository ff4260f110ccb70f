"""Wraps the worker's ports, so that metrics and traces are recorded outside the pipeline's own code."""

from flow_worker.instrumentation.installation import Instrumentation

__all__ = ["Instrumentation"]
