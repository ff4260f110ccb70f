"""Checks an installation from where the worker runs: settings, network, identity, queues, journal and services.

No check consumes a message, calls a flow, or changes what a running worker uses.
"""

from flow_worker.doctor.finding import Finding, Outcome
from flow_worker.doctor.run import examine

__all__ = ["Finding", "Outcome", "examine"]
