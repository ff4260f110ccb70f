"""The gateway's metrics."""

from __future__ import annotations

from typing import Final

from flow_worker.gateway import api
from flow_worker.gateway.problems import KINDS, PROBLEMS_PATH, bounded_problem
from flow_worker.gateway.server import HttpServer
from flow_worker.gateway.store.port import PutResult
from flow_worker.gateway.submissions import Submissions
from flow_worker.gateway.waiters import Waiters
from flow_worker.telemetry.health import Health
from flow_worker.telemetry.metrics import (
    GATEWAY_CONNECTIONS,
    GATEWAY_QUEUE_AVAILABLE,
    GATEWAY_SUBMISSIONS,
    GATEWAY_WAITERS,
    OTHER,
    Metrics,
    bounded_method,
)

CLIENT_GONE: Final = "client_disconnected"
"""The error of a request whose caller did not wait for the response."""

_USUAL: Final = (
    *(("POST", api.REQUESTS, status) for status in (200, 202)),
    *(("GET", route, 200) for route in (api.REQUEST, api.EVENTS, api.FLOWS, api.FLOW, api.OPENAPI, PROBLEMS_PATH)),
    ("GET", api.REQUEST, 202),
)
_FAILURES: Final = (500, 503)


class Measures:
    """Records requests, and samples what is open and under way."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record one HTTP request. Status 0: its caller has gone."""
        failure = CLIENT_GONE if not status else str(status) if status >= 500 else ""
        shown = bounded_method(method), route or OTHER
        self._metrics.http_server_duration.record(seconds, *shown, status or "", failure)

    def problem(self, name: str) -> None:
        """Count a problem document."""
        self._metrics.gateway_problems.add(bounded_problem(name))

    def begin(self) -> None:
        """Export zeros, so that an alert sees the first event, and a share of failures is 0 without one."""
        for usual in _USUAL:
            self._metrics.http_server_duration.begin(*usual, "")
        for status in _FAILURES:
            self._metrics.http_server_duration.begin("POST", api.REQUESTS, status, str(status))
        for code in KINDS:
            self._metrics.gateway_problems.begin(code)
        for outcome in (*(one.value for one in PutResult), "returned"):
            self._metrics.gateway_replies.begin("result", outcome)
        self._metrics.gateway_replies.begin("other", "unreadable")
        self._metrics.gateway_result_delay.begin()
        self._metrics.gateway_store_duration.begin("add", "unavailable")

    def watch(self, server: HttpServer, waiters: Waiters, submissions: Submissions, health: Health) -> None:
        """Sample the connections, the waiting requests, the submissions under way, and the queues."""
        self._metrics.gauge(GATEWAY_CONNECTIONS, lambda: [(server.connections, {})])
        self._metrics.gauge(GATEWAY_WAITERS, lambda: [(waiters.count, {})])
        self._metrics.gauge(GATEWAY_SUBMISSIONS, lambda: [(submissions.count, {})])
        self._metrics.gauge(
            GATEWAY_QUEUE_AVAILABLE,
            lambda: [(int(connected > 0), {"queue": name}) for name, (_, connected) in health.lane_counts().items()],
        )
