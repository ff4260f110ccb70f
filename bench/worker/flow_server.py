"""A flow for benchmarks: answers 1 KB after a fixed time and records the time of each call.

`python -m bench.worker.flow_server MILLISECONDS` prints its port. `GET /calls` returns, by correlation ID, the times of
a call and of its answer in seconds since the epoch.
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


class FlowServer:
    """Answers calls after a fixed time and keeps the times of all calls."""

    def __init__(self, answer_after_seconds: float) -> None:
        self._answer_after = answer_after_seconds
        self._calls: dict[str, tuple[float, float]] = {}

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a call."""
        called_at = time.time()  # before the body is read: the worker's call counts from its first byte
        await request.read()
        if self._answer_after:
            await asyncio.sleep(self._answer_after)
        self._calls[request.headers.get(TRACKING, "")] = (called_at, time.time())
        return web.Response(body=ANSWER, content_type="application/json", headers=_RUN)

    async def calls(self, _: web.Request) -> web.Response:
        """Return the times of all calls."""
        return web.json_response(self._calls)


async def serve(answer_after_seconds: float) -> None:
    """Serve until the process is killed."""
    flow = FlowServer(answer_after_seconds)
    application = web.Application()
    application.add_routes([web.get("/calls", flow.calls), web.post("/{path:.*}", flow.answer)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 - bench.worker.environment reads this line
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) / 1000))
