"""A gateway that answers each request with the next step of a script: the faults that a real one shows rarely."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from flow_contracts.result import FlowResult, Status

Step = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST_ID = "4c1f0c2e9d7a4b58"
PENDING = {"id": REQUEST_ID, "flow": "create-quote", "status": "pending", "state": "queued", "attempts": 0}
RESULT = FlowResult(
    status=Status.SUCCEEDED,
    flow="create-quote",
    output={"quote": "Q-1"},
    correlation_id=REQUEST_ID,
    request_message_id=REQUEST_ID,
)


@dataclass(frozen=True)
class Seen:
    """A request that the gateway got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class ScriptedGateway:
    """A running gateway."""

    steps: list[Step]
    url: str = ""
    seen: list[Seen] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Take the next step; the last one repeats."""
        self.seen.append(Seen(request.method, request.path_qs, request.headers.copy(), await request.read()))
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return await step(request)

    def headers(self, name: str) -> list[str | None]:
        """Return this header of each request."""
        return [seen.headers.get(name) for seen in self.seen]


def answer(status: int, document: Any, **headers: str) -> Step:
    """Answer with JSON; underscores of header names are hyphens."""

    async def step(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(document, status=status, headers=named)

    return step


def text(status: int, content: str, **headers: str) -> Step:
    """Answer with text, as a proxy before the gateway does."""

    async def step(_: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status, text=content, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return step


def problem(status: int, code: str, **headers: str) -> Step:
    """Answer with a problem document."""
    return answer(status, {"status": status, "code": code, "detail": f"This is {code}."}, **headers)


def pending(retry_after: str = "0") -> Step:
    """Answer 202."""
    return answer(202, PENDING, Retry_After=retry_after)


async def finished(_: web.Request) -> web.StreamResponse:
    """Answer with the result."""
    return web.json_response(text=RESULT.model_dump_json())


async def cut(request: web.Request) -> web.StreamResponse:
    """Cut the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@asynccontextmanager
async def scripted_gateway(*steps: Step) -> AsyncIterator[ScriptedGateway]:
    """Run a gateway until the block ends."""
    gateway = ScriptedGateway(list(steps))
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", gateway.answer)
    server = TestServer(application)
    await server.start_server()
    try:
        gateway.url = str(server.make_url("")).rstrip("/")
        yield gateway
    finally:
        await server.close()
