"""The worker's health: the connections of its lanes, its journal, and the HTTP endpoint that reports them.

`/health/live` answers 200 while the event loop runs. `/health/ready` answers 200 while the journal works and each queue
that the worker receives from has a connected lane, else 503. `/metrics` answers a scrape.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from flow_contracts.result import FlowResult
from flow_worker.telemetry.listening import listening
from flow_worker.telemetry.metrics_page import MetricsPage, no_metrics
from flow_worker.telemetry.recent_results import RecentResults
from flow_worker.telemetry.sink_health import SinkHealth
from flow_worker.telemetry.status_page import StatusCallers, StatusSource, no_status, status_handler


@dataclass
class LaneHealth:
    """The state of one lane's connection. It is never stale for long, because every call has a deadline."""

    queue: str
    is_connected: bool = False
    last_error: str | None = None
    on_connected: Callable[[str], None] = field(default=lambda _: None, repr=False)
    """Called with the queue's name at each connection."""
    recent: RecentResults = field(default_factory=RecentResults, repr=False)
    """The last results of all lanes."""

    def mark_connected(self) -> None:
        """The lane has opened its receiver."""
        self.is_connected, self.last_error = True, None
        self.on_connected(self.queue)

    def mark_result(self, result: FlowResult) -> None:
        """The lane has published a result and settled its request."""
        self.recent.add(result)

    def mark_disconnected(self, error: str) -> None:
        """The lane's connection has failed."""
        self.is_connected, self.last_error = False, error


@dataclass
class JournalHealth:
    """The state of the journal, by its latest operation that began an entry, or by its probe."""

    is_available: bool = True
    last_error: str | None = None
    is_lost: bool = False
    """The journal was deleted or replaced. The worker takes no more requests until it is restarted."""

    def mark_available(self) -> None:
        """The journal has taken a new entry."""
        self.is_available, self.last_error = True, None

    def mark_unavailable(self, error: str) -> None:
        """An operation of the journal has failed."""
        self.is_available, self.last_error = False, error


class Health:
    """The health of all lanes and of the journal, and whether the worker drains."""

    def __init__(self, *, clock_offset: Callable[[], float] = lambda: 0.0) -> None:
        """`clock_offset` returns the seconds by which this machine's clock is ahead of the broker's."""
        self.journal = JournalHealth()
        self.on_connected: Callable[[str], None] | None = None
        """Called with the queue's name each time a lane connects."""
        self.recent = RecentResults()
        self.status: StatusSource | None = None
        """Makes the worker's status; None while the worker starts."""
        self.seal: Mapping[str, str | None] | None = None
        """The IDs of the keys that seal the continuation messages; None until the worker has them."""
        self.sinks: dict[str, SinkHealth] = {}
        """The sinks beside the reply queue, by name."""
        self._lanes: list[LaneHealth] = []
        self._clock_offset = clock_offset
        self.draining = False

    def lane(self, queue: str) -> LaneHealth:
        """Register a lane of `queue` and return its entry, disconnected at first."""
        entry = LaneHealth(queue, on_connected=self._report_connection, recent=self.recent)
        self._lanes.append(entry)
        return entry

    def _report_connection(self, queue: str) -> None:
        if self.on_connected is not None:
            self.on_connected(queue)

    def lane_counts(self) -> dict[str, tuple[int, int]]:
        """Return the number of lanes of each queue, and how many of them are connected."""
        counts: dict[str, tuple[int, int]] = {}
        for lane in self._lanes:
            lanes, connected = counts.get(lane.queue, (0, 0))
            counts[lane.queue] = lanes + 1, connected + lane.is_connected
        return counts

    def is_connected(self, queue: str) -> bool:
        """Return whether a lane of the queue is connected."""
        return any(lane.is_connected for lane in self._lanes if lane.queue == queue)

    def report(self) -> dict[str, object]:
        """Return `ready`, `draining`, the state of the clock and of the journal, and that of each queue's lanes."""
        queues: dict[str, dict[str, object]] = {}
        for name in dict.fromkeys(lane.queue for lane in self._lanes):
            lanes = [lane for lane in self._lanes if lane.queue == name]
            lanes_connected = sum(lane.is_connected for lane in lanes)
            last_error = next((lane.last_error for lane in lanes if lane.last_error), None)
            queues[name] = {"lanes": len(lanes), "connected": lanes_connected, "last_error": last_error}
        # One connected lane is enough: its queue's requests are served, only slower. A worker without lanes is not
        # ready, because it has not started yet.
        connected = bool(queues) and all(queue["connected"] for queue in queues.values())
        ready = not self.draining and self.journal.is_available and connected
        journal = {"available": self.journal.is_available, "last_error": self.journal.last_error}
        # The worker corrects for a wrong clock, so that it remains ready.
        clock = {"offset_seconds": round(self._clock_offset(), 1) + 0.0}  # without the sign of -0.0
        report = {"ready": ready, "draining": self.draining, "clock": clock, "journal": journal, "queues": queues}
        if self.sinks:  # they do not decide about readiness: requests and replies work without them
            report["deliveries"] = {name: sink.report() for name, sink in self.sinks.items()}
        return report if self.seal is None else {**report, "continuations": dict(self.seal)}


@asynccontextmanager
async def serve_health(
    health: Health,
    host: str,
    port: int,
    *,
    setting: str = "health.port",
    status_callers: StatusCallers | None = "loopback",
    metrics_page: MetricsPage = no_metrics,
) -> AsyncIterator[None]:
    """Serve the endpoint while the block runs. Port 0 turns it off. Raises `CannotListen`.

    `setting`: of the port, for the error. `status_callers`: who gets an answer from `/status`. None: the endpoint is a
    gateway's, which has no status.
    """
    if port == 0:
        yield
        return
    app = web.Application()
    app.add_routes([web.get("/health/live", _live), web.get("/health/ready", _ready(health))])
    status = no_status if status_callers is None else status_handler(lambda: health.status, status_callers)
    app.add_routes([web.get("/status", status)])
    app.add_routes([web.get("/metrics", _metrics(metrics_page))])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        with listening(host, port, setting):
            await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


async def _live(_: web.Request) -> web.Response:
    return web.json_response({"live": True})


def _ready(health: Health) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        report = health.report()
        return web.json_response(report, status=200 if report["ready"] else 503)

    return answer


def _metrics(page: MetricsPage) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        found = await page(",".join(request.headers.getall("accept", [])))
        return web.Response(body=found.body, status=found.status, headers={"content-type": found.content_type})

    return answer
