"""The pipeline's port to the flows, so that a wrapper can stand in between."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from pydantic import JsonValue

from flow_worker.flows.answer import Answer
from flow_worker.flows.registry import Flow
from flow_worker.pipeline.job import Job


class Progress(Protocol):
    """Learns how far requests have come."""

    def calling(self, job: Job) -> AbstractContextManager[None]:
        """Enclose the call of the job's flow. Neither delays the call nor raises an error."""
        ...


class NoProgress:
    """A `Progress` that nobody reads."""

    def calling(self, job: Job) -> AbstractContextManager[None]:
        """See `Progress.calling`."""
        return nullcontext()


class Deliveries(Protocol):
    """Learns which requests are admitted, for the sinks beside the reply queue."""

    async def admitted(self, job: Job) -> None:
        """Note that the proven sender may start the job's flow. Raises no error."""
        ...


class NoDeliveries:
    """A `Deliveries` without sinks."""

    async def admitted(self, job: Job) -> None:
        """See `Deliveries.admitted`."""


class Caller(Protocol):
    """Calls flows and polls their runs."""

    async def token(self, *, fresh: bool = False) -> str:
        """Return the bearer token for the next call. Raises `TemporarilyUnavailable`.

        `fresh`: bypass the caches, because the flow rejected the cached token.
        """
        ...

    async def invoke(
        self, flow: Flow, input_: JsonValue, *, token: str, correlation_id: str, traceparent: str | None
    ) -> Answer:
        """Call the flow and return its response. Raises `CallFailed`."""
        ...

    async def poll(self, flow: Flow, status_url: str, *, token: str) -> Answer:
        """Request the status of a run and return the response. Raises `CallFailed`."""
        ...
