"""Builds jobs and replies for the tests of deliveries."""

from __future__ import annotations

from typing import Any

from flow_worker.access.principal import Principal
from flow_worker.pipeline.job import Job
from tests.support.outbox import NOW

ADA = Principal(tenant="tenant", oid="ada", kind="user", roles=frozenset(), authority="entra")


def job(**changes: Any) -> Job:
    """Return the job of a proven request."""
    values: dict[str, Any] = {
        "origin": "flow-requests:1:2026-11-30T12:00:00+00:00",
        "number": 0,
        "request_queue": "flow-requests",
        "flow": "create-quote",
        "input": {"customer": "Contoso"},
        "input_hash": "hash",
        "principal": ADA,
        "message_id": "m-1",
        "correlation_id": "c-1",
        "reply_to_session_id": "c-1",
        "accepted": NOW,
    }
    return Job(**values | changes)
