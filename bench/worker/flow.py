"""A flow for benches, in a process of its own: answers 1 KB after a pause, and remembers when it was called.

`python -m bench.worker.flow PAUSE_MS` prints its port. `GET /calls` tells, by correlation ID, the moments of a call and
of its answer, as seconds since the epoch.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from aiohttp import web

ANSWER = json.dumps({"quote": "Q-1", "note": "x" * 1000}).encode()
TRACKING = "x-ms-client-tracking-id"
_RUN = {"x-ms-workflow-run-id": "08584000000000000000000000000CU00"}


class Flow:
    """Its calls, and how long it takes to each."""

    def __init__(self, pause_seconds: float) -> None:
        self._pause = pause_seconds
        self._calls: dict[str, tuple[float, float]] = {}

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a call."""
        called = time.time()
        await request.read()
        if self._pause:
            await asyncio.sleep(self._pause)
        self._calls[request.headers.get(TRACKING, "")] = (called, time.time())
        return web.Response(body=ANSWER, content_type="application/json", headers=_RUN)

    async def calls(self, _: web.Request) -> web.Response:
        """Tell of all calls."""
        return web.json_response(self._calls)


async def serve(pause_seconds: float) -> None:
    """Serve until killed."""
    flow = Flow(pause_seconds)
    application = web.Application()
    application.add_routes([web.get("/calls", flow.calls), web.post("/{path:.*}", flow.answer)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 - what the bench reads
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) / 1000))
