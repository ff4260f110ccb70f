"""The gateway's metrics."""

from __future__ import annotations

from typing import Final

from flow_worker.gateway.server import HttpServer
from flow_worker.gateway.submissions import Submissions
from flow_worker.gateway.waiters import Waiters
from flow_worker.telemetry.metrics import GATEWAY_CONNECTIONS, GATEWAY_SUBMISSIONS, GATEWAY_WAITERS, OTHER, Metrics

_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class Measures:
    """Records requests, and samples what is open and under way."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record one HTTP request."""
        name = method if method in _METHODS else OTHER
        self._metrics.http_server_duration.record(seconds, name, route or OTHER, status)

    def watch(self, server: HttpServer, waiters: Waiters, submissions: Submissions) -> None:
        """Sample the connections, the waiting requests and the submissions under way."""
        self._metrics.gauge(GATEWAY_CONNECTIONS, lambda: [(server.connections, {})])
        self._metrics.gauge(GATEWAY_WAITERS, lambda: [(waiters.count, {})])
        self._metrics.gauge(GATEWAY_SUBMISSIONS, lambda: [(submissions.count, {})])
