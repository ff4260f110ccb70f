"""What the worker knows of its own health, and the endpoint that tells it.

`/health/live`: the event loop turns. `/health/ready`: every queue it listens to has a lane with a proven connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web


@dataclass
class LaneHealth:
    """One lane's connection: is it there, and what broke it last. Every call on it has a deadline, so it is known."""

    queue: str
    is_connected: bool = False
    trouble: str | None = None

    def connected(self) -> None:
        """The receiver was opened."""
        self.is_connected, self.trouble = True, None

    def lost(self, trouble: str) -> None:
        """The connection failed."""
        self.is_connected, self.trouble = False, trouble


class Health:
    """All lanes' health together."""

    def __init__(self) -> None:
        self._lanes: list[LaneHealth] = []
        self.draining = False

    def lane(self, queue: str) -> LaneHealth:
        """A new lane's entry."""
        entry = LaneHealth(queue)
        self._lanes.append(entry)
        return entry

    def report(self) -> dict[str, object]:
        """`ready`, and for each queue its lanes, those connected, and the last trouble."""
        queues: dict[str, dict[str, object]] = {}
        for name in dict.fromkeys(lane.queue for lane in self._lanes):
            lanes = [lane for lane in self._lanes if lane.queue == name]
            connected = sum(lane.is_connected for lane in lanes)
            trouble = next((lane.trouble for lane in lanes if lane.trouble), None)
            queues[name] = {"lanes": len(lanes), "connected": connected, "trouble": trouble}
        ready = not self.draining and bool(queues) and all(queue["connected"] for queue in queues.values())
        return {"ready": ready, "draining": self.draining, "queues": queues}


@asynccontextmanager
async def served(health: Health, host: str, port: int) -> AsyncIterator[None]:
    """Serve the endpoint while the block runs. Port 0: none. Raises `OSError` if the port is taken."""
    if port == 0:
        yield
        return
    app = web.Application()
    app.add_routes([web.get("/health/live", _live), web.get("/health/ready", _ready(health))])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
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
