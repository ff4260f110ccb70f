"""Runs of flows: each outlives the call that began it, whether its caller waits, hangs up or asks a status URL."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from aiohttp import web
from pydantic import JsonValue

from servicebus_emulator.cloud.definitions import Asynchronous, FlowDefinition
from servicebus_emulator.cloud.flows.trigger_guard import Refusal, TriggerGuard, tracking_headers

REMEMBERED = 10_000
"""Calls, and runs with a status URL, of each flow; older ones are forgotten."""

_VERSION = "08584000000000000001"
_API_VERSION = "2016-06-01"


@dataclass(slots=True)
class Call:
    """A call that reached a flow; never with its bearer."""

    time: str
    """ISO 8601, UTC."""
    method: str
    client_tracking_id: str | None
    traceparent: str | None
    content_type: str | None
    run_id: str | None = None
    """None: turned away before a run."""
    body: JsonValue = None
    status: int | None = None
    """What was answered; None: nothing, or nothing yet."""
    code: str | None = None
    """The platform's error code, if the answer was its own."""
    effect: bool = False
    """Whether a run began. What the flow does is then done, whatever the caller came to know of it."""
    finished: bool = False
    """Whether that run came to its Response action, with or without a caller to answer."""
    polls: int = 0
    """How often the run's status URL was asked, faults and refusals included."""
    polled_with_bearer: bool = False
    """Whether a poll ever brought an `Authorization` header."""

    @classmethod
    def of(cls, request: web.Request) -> Call:
        """The record of a request that has just come."""
        return cls(
            time=datetime.now(UTC).isoformat(),
            method=request.method,
            client_tracking_id=request.headers.get("x-ms-client-tracking-id"),
            traceparent=request.headers.get("traceparent"),
            content_type=request.headers.get("Content-Type"),
        )


class Run:
    """One run, from its first moment, begun by `request`. `late_seconds` is how much longer than usual it takes."""

    def __init__(self, flow: FlowDefinition, call: Call, request: web.Request, late_seconds: float = 0) -> None:
        self.id = f"0858{secrets.randbelow(10**26):026}CU{secrets.randbelow(100):02}"  # as the platform's look
        self.flow = flow
        self.call = call
        self.status: StatusUrl | None = None
        self._done = asyncio.Event()
        self._polls_left = 0
        seconds = flow.delay_seconds + late_seconds
        if flow.asynchronous is not None:
            self.status = StatusUrl(self.id, flow.asynchronous, request)
            self._polls_left = flow.asynchronous.done_after_polls
            seconds += flow.asynchronous.done_after_seconds
        call.run_id, call.effect = self.id, True
        self._begin(seconds)

    def _begin(self, seconds: float) -> None:
        self._time_over = seconds == 0
        self._conclude()
        if seconds:
            # A timer, not a part of the call's handler: nothing the caller does ends the run.
            asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        self._time_over = True
        self._conclude()

    def _conclude(self) -> None:
        if self._time_over and self._polls_left == 0:
            self.call.finished = True
            self._done.set()

    async def outcome(self) -> None:
        """Wait until the Response action is reached."""
        await self._done.wait()

    def polled(self) -> bool:
        """Whether the outcome is there; if not, this poll counts towards it."""
        if self._done.is_set():
            return True
        self._polls_left = max(0, self._polls_left - 1)
        self._conclude()
        return False

    def headers(self) -> dict[str, str]:
        """The tracking headers and those that name the run."""
        return tracking_headers() | {
            "x-ms-client-tracking-id": self.call.client_tracking_id or self.id,
            "x-ms-execution-location": "localhost",
            "x-ms-trigger-history-name": self.id,
            "x-ms-workflow-id": self.flow.name,
            "x-ms-workflow-name": self.flow.name,
            "x-ms-workflow-run-id": self.id,
            "x-ms-workflow-system-id": f"/locations/localhost/scaleunits/local/workflows/{self.flow.name}",
            "x-ms-workflow-version": _VERSION,
        }


class StatusUrl:
    """Where a run's outcome is asked for, and by whom.

    Its shape is the one seen on the logic.azure.com hosts; whether a flow for specific users signs it there nobody
    tells, hence both ways.
    """

    def __init__(self, run_id: str, asynchronous: Asynchronous, invoked: web.Request) -> None:
        self._path = f"/runs/{run_id}/operations/{uuid.uuid4()}"
        self._signature = secrets.token_urlsafe(32) if asynchronous.signed_status_url else None
        self._lost = asynchronous.lost
        self.retry_after = asynchronous.retry_after
        self.location = self._below(invoked)
        """Absolute, at the host that the call came to. A secret if it is signed."""

    def _below(self, invoked: web.Request) -> str:
        query = {"api-version": _API_VERSION}
        if self._signature is not None:
            query |= {"sp": f"{self._path}/read", "sv": "1.0", "sig": self._signature}
        flow = invoked.path.rpartition("/triggers/")[0]
        return f"{invoked.scheme}://{invoked.host}{flow}{self._path}?{urlencode(query)}"

    def admit(self, request: web.Request, flow: FlowDefinition, trigger_guard: TriggerGuard) -> None:
        """Raises `Refusal` unless the request has the signature and nothing else, or a bearer if there is none."""
        if self._signature is None:
            trigger_guard.admit(request, flow)
            return
        given, bearer = request.query.get("sig"), "Authorization" in request.headers
        if bearer:
            raise Refusal(
                "OAuthAccessPolicyNotFound" if given is None else "DirectApiRequestHasMoreThanOneAuthorization"
            )
        if given is None:
            raise Refusal("DirectApiAuthorizationRequired")
        if not secrets.compare_digest(given.encode(), self._signature.encode()):
            raise Refusal("DirectApiInvalidAuthorizationSignature")

    def leads_here(self, request: web.Request) -> bool:
        """Whether the request asks for this run, and the run is not lost."""
        return request.path.endswith(self._path) and not self._lost


class Runs:
    """A flow's runs that have a status URL, by run ID."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def add(self, run: Run) -> None:
        """Remember a run, and forget the oldest of too many."""
        self._runs[run.id] = run
        if len(self._runs) > REMEMBERED:
            self._runs.popitem(last=False)

    def get(self, run_id: str) -> Run | None:
        """The run, if it is still known."""
        return self._runs.get(run_id)
