"""The HTTP API: its routes and handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aiohttp import HttpVersion11, web
from pydantic import JsonValue

from flow_contracts import strict_json
from flow_worker.access.gateway_message_ids import request_id_of
from flow_worker.gateway import headers, openapi, problems
from flow_worker.gateway.callers import Caller, Callers
from flow_worker.gateway.connection import CONTINUE, TooManyPieces
from flow_worker.gateway.documents import pending, retry_after
from flow_worker.gateway.edge import Edge
from flow_worker.gateway.events import EventStreams
from flow_worker.gateway.flows import FlowCatalog
from flow_worker.gateway.headers import Waiting
from flow_worker.gateway.limits import RateLimiter
from flow_worker.gateway.problems import Problem
from flow_worker.gateway.results import Results
from flow_worker.gateway.spans import current_traceparent, name_request
from flow_worker.gateway.store.port import RequestRecord, RequestState, StateName, StoredRequest
from flow_worker.gateway.submissions import Submission, Submissions
from flow_worker.gateway.uploads import Uploads
from flow_worker.settings import GatewayLimits

REQUESTS: Final = "/v1/flows/{flow}/requests"
REQUEST: Final = "/v1/requests/{id}"
EVENTS: Final = "/v1/requests/{id}/events"
FLOWS: Final = "/v1/flows"
FLOW: Final = "/v1/flows/{flow}"
OPENAPI: Final = "/openapi.json"


@dataclass(frozen=True, slots=True)
class Api:
    """The handlers of one gateway, and the parts that they use."""

    limits: GatewayLimits
    callers: Callers
    submissions: Submissions
    results: Results
    streams: EventStreams
    catalog: FlowCatalog
    submission_rate: RateLimiter
    read_rate: RateLimiter
    uploads: Uploads
    base_url: Callable[[web.Request], str]
    now: Callable[[], datetime]

    def application(self, edge: Edge) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[edge.middleware], client_max_size=self.limits.max_body_bytes)
        app.on_response_prepare.append(edge.prepare)
        app.router.add_post(REQUESTS, self.submit, expect_handler=_after_authentication)
        app.router.add_get(REQUEST, self.read, allow_head=False)
        app.router.add_get(EVENTS, self.events, allow_head=False)
        app.router.add_get(FLOWS, self.flows, allow_head=False)
        app.router.add_get(FLOW, self.flow, allow_head=False)
        app.router.add_get(OPENAPI, self.document, allow_head=False)
        app.router.add_get(problems.PROBLEMS_PATH, self.problems_page, allow_head=False)
        return app

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/flows/{flow}/requests`."""
        caller = await self._caller(request)
        self.submission_rate.take(caller.id)
        waiting = headers.waiting(request, self.limits.max_wait_seconds, by_preference=True)
        key, user = headers.idempotency_key(request), headers.on_behalf_of(request)
        acting = self.callers.acting(caller, user)
        value, size = await self._input(request, caller)
        flow = request.match_info["flow"]
        trace_parent = current_traceparent(headers.traceparent(request))
        submission = Submission(flow, value, key, user, trace_parent, size)
        accepted = await self.submissions.submit(caller, acting, submission)
        if accepted.is_new and not waiting.seconds:
            return self._response(request, _queued(accepted.record), waiting)  # spares a read of the store
        found = await self.results.wait(caller.id, accepted.record.id, waiting.seconds)
        return self._response(request, found, waiting)

    async def read(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/requests/{id}`."""
        caller = await self._reader(request)
        waiting = headers.waiting(request, self.limits.max_wait_seconds, by_preference=True)
        settled = headers.until_settled(request)
        found = await self.results.wait(caller.id, _id(request), waiting.seconds, settled=settled)
        return self._response(request, found, waiting)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/requests/{id}/events`."""
        caller = await self._reader(request)
        request_id = _id(request)
        location = self._location(request, request_id)
        settled, expires = headers.until_settled(request), caller.proven.expires
        return await self.streams.stream(request, caller.id, request_id, location, expires, settled=settled)

    async def flows(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/flows`."""
        caller = await self._reader(request)
        acting = self.callers.acting(caller, headers.on_behalf_of(request))
        found = await self.catalog.of(acting.principal)
        return _json(found.model_dump_json().encode())

    async def flow(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/flows/{flow}`, for designers that ask for the fields of the input."""
        caller = await self._reader(request)
        acting = self.callers.acting(caller, headers.on_behalf_of(request))
        found = await self.catalog.find(acting.principal, request.match_info["flow"])
        return _json(found.model_dump_json().encode())

    async def document(self, request: web.Request) -> web.StreamResponse:
        """`GET /openapi.json`, for everybody: it names no flow."""
        return _json(openapi.rendered(self.base_url(request), self.limits.max_wait_seconds))

    async def problems_page(self, _: web.Request) -> web.StreamResponse:
        """Explain the codes of problems, for everybody."""
        return web.Response(text=problems.page(), content_type="text/html")

    async def _reader(self, request: web.Request) -> Caller:
        caller = await self._caller(request)
        self.read_rate.take(caller.id)
        return caller

    async def _caller(self, request: web.Request) -> Caller:
        """Return the caller. Until then the request takes no place from those under way.

        A token with an invented key waits for the issuer, which may hang: strangers could take all places.
        """
        with self.results.active.suspended():
            return await self.callers.authenticate(request)

    async def _input(self, request: web.Request, caller: Caller) -> tuple[JsonValue, int]:
        """Return the input, None for an empty body, and the bytes of the body. Raises `Problem`."""
        headers.require_no_coding(request)
        if (request.content_length or 0) > self.limits.max_body_bytes:
            raise problems.of_http(web.HTTPRequestEntityTooLarge(self.limits.max_body_bytes, 0))
        # Most bodies come together with the head.
        try:
            body = await (request.read() if request.content.is_eof() else self._slow_body(request, caller))
        except TooManyPieces:
            sentence = "The body arrives in too many small pieces; send it at once, or in chunks of a kilobyte or more."
            raise Problem("malformed_request", sentence) from None
        if not body:
            return None, 0
        headers.require_json(request)
        try:
            return strict_json.parse(body, max_values=strict_json.MAX_VALUES), len(body)
        except strict_json.NotJson as error:
            raise Problem("malformed_request", f"The input {error}.") from None

    async def _slow_body(self, request: web.Request, caller: Caller) -> bytes:
        """Return a body that has not arrived yet. Meanwhile it takes no place from the requests under way.

        Otherwise two callers, who need no role for it, could take all places with bodies that never end.
        """
        async with self.uploads.deadline(caller.id):
            with self.results.active.suspended():
                if request.headers.get("Expect", "").lower() == CONTINUE and request.version == HttpVersion11:
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0  # the response has not begun
                return await request.read()

    def _response(self, request: web.Request, found: StoredRequest, waiting: Waiting) -> web.Response:
        name_request(found.record.id, found.record.trace_parent)
        applied = waiting.headers(is_pending=found.result is None)
        location = self._location(request, found.record.id)
        if found.result is not None:
            return _json(found.result.body, headers={"Location": location, **applied})
        seconds = retry_after(found, self.now().timestamp())
        more = {"Location": location, "Retry-After": str(seconds), **applied}
        return _json(pending(found, location).model_dump_json().encode(), status=202, headers=more)

    def _location(self, request: web.Request, request_id: str) -> str:
        return f"{self.base_url(request)}/v1/requests/{request_id}"


def _id(request: web.Request) -> str:
    """Return the request's ID. Operators find the message ID in logs and results, and it leads there, too."""
    return request_id_of(request.match_info["id"])


async def _after_authentication(_: web.Request) -> None:
    """Send no `100 Continue` yet, for which a client with `Expect` waits: strangers need not send their body."""


def _queued(record: RequestRecord) -> StoredRequest:
    return StoredRequest(record, RequestState(StateName.QUEUED, record.created_at))


def _json(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
