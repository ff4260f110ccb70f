"""Records and traces the calls of flows and the polls of their runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

from opentelemetry.trace import Span
from pydantic import JsonValue

from flow_worker.errors import CallFailed
from flow_worker.flows.answer import Answer
from flow_worker.flows.invoker import STATUS_URL_NOT_ALLOWED, STATUS_URL_NOT_SIGNED
from flow_worker.flows.known_codes import bounded_code
from flow_worker.flows.registry import Flow
from flow_worker.instrumentation.bounds import Bounds, bounded_status
from flow_worker.instrumentation.spans import Spans, end
from flow_worker.pipeline.ports import Caller
from flow_worker.telemetry.metrics import Metrics, error_type

_NOT_SENT = frozenset({STATUS_URL_NOT_ALLOWED, STATUS_URL_NOT_SIGNED})


class ObservedCaller:
    """A `Caller` whose requests are counted, timed and traced. It records a server and a flow, and never a URL."""

    def __init__(self, caller: Caller, metrics: Metrics, spans: Spans, bounds: Bounds) -> None:
        self._caller = caller
        self._metrics = metrics
        self._spans = spans
        self._bounds = bounds

    async def token(self, *, fresh: bool = False) -> str:
        """See `Caller.token`. Most tokens come from a cache; `ManagedIdentity` records the others."""
        return await self._caller.token(fresh=fresh)

    async def invoke(
        self, flow: Flow, input_: JsonValue, *, token: str, correlation_id: str, traceparent: str | None
    ) -> Answer:
        """See `Caller.invoke`. The flow gets the trace context of the call's span instead of the sender's."""
        span = self._spans.call("POST", flow.name, flow.url)
        calling = self._caller.invoke(
            flow,
            input_,
            token=token,
            correlation_id=correlation_id,
            traceparent=self._spans.traceparent(span, traceparent),
        )
        return await self._timed("call", "POST", flow, flow.url, span, calling)

    async def poll(self, flow: Flow, status_url: str, *, token: str) -> Answer:
        """See `Caller.poll`."""
        span = self._spans.call("GET", flow.name, status_url)
        polling = self._caller.poll(flow, status_url, token=token)
        return await self._timed("poll", "GET", flow, status_url, span, polling)

    async def _timed(
        self, kind: str, method: str, flow: Flow, url: str, span: Span | None, work: Awaitable[Answer]
    ) -> Answer:
        began = time.perf_counter()
        status: int | str = ""
        try:
            answer = await work
        except BaseException as error:
            outcome = failure = _failure(error)
            raise
        else:
            status = bounded_status(answer.status)
            outcome = f"http_{answer.status // 100}xx" if isinstance(status, int) else status
            failure = str(status) if answer.status >= 400 else ""
            return answer
        finally:
            name = self._bounds.flow(flow.name)
            self._metrics.calls.add(name, kind, outcome)
            end(span, failure, status)
            if failure not in _NOT_SENT:
                seconds = time.perf_counter() - began
                server = self._bounds.server(url)
                self._metrics.http_duration.record(seconds, method, *server, status, failure, name)


def _failure(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "interrupted"
    return bounded_code(error.code) if isinstance(error, CallFailed) else error_type(error)
