"""Serves the flows in a process that no fault touches, and appends each call to a file.

`python -m tests.faults.storm.flow_server FILE` prints its port. The input of a call names the flow's behaviour, so that
each request meets its own. The record is the truth about calls: a line before the flow acts, and one with the answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from aiohttp import web

TRACKING = "x-ms-client-tracking-id"
HANG_SECONDS = 30.0
_RESENDING = "repeat"
"""The idempotent flow: only the first call of a request meets trouble."""


class FlowServer:
    """Runs each call as its input asks for."""

    def __init__(self, record: TextIO) -> None:
        self._record = record
        self._calls: Counter[str] = Counter()
        self._polls: Counter[str] = Counter()

    async def invoke(self, request: web.Request) -> web.StreamResponse:
        """Answer one call."""
        flow, request_id = request.match_info["flow"], request.headers.get(TRACKING, "")
        input_ = await request.json()
        self._calls[request_id] += 1
        number = self._calls[request_id]
        behaviour = input_["behaviour"]
        if flow == _RESENDING and number > 1 and behaviour in {"hang", "reset", "half", "gateway"}:
            behaviour = "ok"
        throttled = behaviour == "throttle" and number <= input_["times"]
        self._write(request_id, event="call", flow=flow, number=number, ran=not throttled)
        return await self._answer(request, input_, "throttled" if throttled else behaviour)

    async def _answer(self, request: web.Request, input_: dict[str, Any], behaviour: str) -> web.StreamResponse:
        await asyncio.sleep(input_.get("seconds", 0))
        request_id = request.headers.get(TRACKING, "")
        match behaviour:
            case "throttled":
                return self._platform_error(request_id, 429, "TooManyRequests", {"Retry-After": "1"})
            case "gateway":
                return self._platform_error(request_id, 502, "NoResponse", {})
            case "fail":
                return self._own_answer(request_id, 422, {"error": {"code": "QuoteRejected", "message": "No."}})
            case "accepted":
                location = str(request.url.with_path(f"/runs/{request_id}").with_query({"sig": "storm"}))
                self._write(request_id, event="answer", status=202)
                return web.Response(status=202, headers=_run(request_id) | {"Location": location})
            case "hang":
                await asyncio.sleep(HANG_SECONDS)
                return self._own_answer(request_id, 200, {})
            case "reset" | "half":
                return await self._break(request, request_id, midway=behaviour == "half")
            case _:
                output = {"echo": input_["id"], "pad": "x" * input_.get("output_bytes", 0)}
                return self._own_answer(request_id, 200, output)

    async def poll(self, request: web.Request) -> web.Response:
        """Answer a status poll: 202 twice, then the outcome."""
        request_id = request.match_info["id"]
        self._polls[request_id] += 1
        if self._polls[request_id] <= 2:
            return web.Response(status=202, headers=_run(request_id) | {"Location": str(request.url)})
        self._write(request_id, event="outcome")
        return web.json_response({"echo": request_id}, headers=_run(request_id))

    async def _break(self, request: web.Request, request_id: str, *, midway: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers=_run(request_id))
        if midway:
            response.content_length = 1000
            await response.prepare(request)
            await response.write(b'{"echo": "')
        if request.transport is not None:
            request.transport.abort()
        return response

    def _own_answer(self, request_id: str, status: int, body: dict[str, Any]) -> web.Response:
        self._write(request_id, event="answer", status=status)
        return web.json_response(body, status=status, headers=_run(request_id))

    def _platform_error(self, request_id: str, status: int, code: str, headers: dict[str, str]) -> web.Response:
        self._write(request_id, event="answer", status=status)
        return web.json_response({"error": {"code": code, "message": "Not now."}}, status=status, headers=headers)

    def _write(self, request_id: str, **fields: Any) -> None:
        self._record.write(json.dumps({"id": request_id, "time": time.time()} | fields) + "\n")
        self._record.flush()


def _run(request_id: str) -> dict[str, str]:
    return {"x-ms-workflow-run-id": f"run-{request_id}"}


async def serve(record: Path) -> None:
    """Serve until the process is killed."""
    with record.open("a", encoding="utf-8") as lines:
        flows = FlowServer(lines)
        application = web.Application(client_max_size=8 * 1024 * 1024)
        application.add_routes([web.post("/flows/{flow}", flows.invoke), web.get("/runs/{id}", flows.poll)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)  # noqa: T201 - the storm reads this line
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
