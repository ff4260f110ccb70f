"""The runs of flows. A run outlives the call that began it: its caller waits, disconnects or polls a status URL."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias
from urllib.parse import urlencode

from aiohttp import web
from pydantic import JsonValue

from servicebus_emulator.cloud.flows.definitions import AsynchronousResponse, FlowDefinition
from servicebus_emulator.cloud.flows.trigger_guard import TriggerGuard, TriggerRefusal, tracking_headers

MAX_RECORDS = 10_000
"""The calls, and the runs with a status URL, that the emulator keeps of each flow. It drops the oldest of more."""

RunObserver: TypeAlias = "Callable[[Run], None]"
"""Takes note that a run began or ended."""

_VERSION = "08584000000000000001"
_API_VERSION = "2016-06-01"


@dataclass(slots=True)
class FlowCall:
    """The record of a call that reached a flow. It never contains the bearer."""

    time: str
    """ISO 8601, UTC."""
    method: str
    client_tracking_id: str | None
    traceparent: str | None
    content_type: str | None
    run_id: str | None = None
    """None: the platform refused the call before a run."""
    body: JsonValue = None
    status: int | None = None
    """The status of the answer; None while there is no answer."""
    code: str | None = None
    """The platform's error code, if the platform itself wrote the answer."""
    effect: bool = False
    """A run began. The flow then acts, even if the caller never gets the answer."""
    finished: bool = False
    """That run reached its Response action, with or without a caller to answer."""
    polls: int = 0
    """The number of status polls of the run, faults and refusals included."""
    polled_with_bearer: bool = False
    """At least one status poll had the header `Authorization`."""

    @classmethod
    def of(cls, request: web.Request) -> FlowCall:
        """Return the record of a new request."""
        return cls(
            time=datetime.now(UTC).isoformat(),
            method=request.method,
            client_tracking_id=request.headers.get("x-ms-client-tracking-id"),
            traceparent=request.headers.get("traceparent"),
            content_type=request.headers.get("Content-Type"),
        )


class Run:
    """One run, from its start. It takes `extra_seconds` longer than the flow's definition says.

    It calls `changed` at its start and at its end.
    """

    def __init__(
        self,
        flow: FlowDefinition,
        call: FlowCall,
        request: web.Request,
        changed: RunObserver,
        extra_seconds: float = 0,
    ) -> None:
        self.id = f"0858{secrets.randbelow(10**26):026}CU{secrets.randbelow(100):02}"  # the form of the platform's IDs
        self.flow = flow
        self.call = call
        self.status: StatusUrl | None = None
        self.started = datetime.now(UTC)
        self.ended: datetime | None = None
        self._changed = changed
        self._done = asyncio.Event()
        self._polls_left = 0
        seconds = flow.delay_seconds + extra_seconds
        if flow.asynchronous is not None:
            self.status = StatusUrl(self.id, flow.asynchronous, request)
            self._polls_left = flow.asynchronous.done_after_polls
            seconds += flow.asynchronous.done_after_seconds
        call.run_id, call.effect = self.id, True
        changed(self)
        self._begin(seconds)

    @property
    def flow_name(self) -> str:
        """The flow's name."""
        return self.flow.name

    @property
    def tracking_id(self) -> str:
        """The caller's client tracking ID, else the run's ID."""
        return self.call.client_tracking_id or self.id

    @property
    def outcome_status(self) -> Literal["Succeeded", "Failed", "Cancelled"]:
        """The status of the run when it has ended."""
        return self.flow.run_status

    @property
    def error(self) -> tuple[str, str] | None:
        """Code and message of the error of a run that failed."""
        error = self.flow.run_error
        return (error.code, error.message) if self.flow.run_status == "Failed" else None

    def _begin(self, seconds: float) -> None:
        self._time_is_up = seconds == 0
        self._conclude()
        if seconds:
            # A timer and not the call's handler. aiohttp cancels the handler when the caller disconnects, but the
            # platform's runs continue without their caller.
            asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        self._time_is_up = True
        self._conclude()

    def _conclude(self) -> None:
        if self._time_is_up and self._polls_left == 0 and self.ended is None:
            self.call.finished = True
            self.ended = datetime.now(UTC)
            self._done.set()
            self._changed(self)

    async def outcome(self) -> None:
        """Wait until the run reaches its Response action."""
        await self._done.wait()

    def poll(self) -> bool:
        """Return whether the outcome is available; otherwise count this status poll towards it."""
        if self._done.is_set():
            return True
        self._polls_left = max(0, self._polls_left - 1)
        self._conclude()
        return False

    def headers(self) -> dict[str, str]:
        """Return the tracking headers and the headers that name the run."""
        return tracking_headers() | {
            "x-ms-client-tracking-id": self.tracking_id,
            "x-ms-execution-location": "localhost",
            "x-ms-trigger-history-name": self.id,
            "x-ms-workflow-id": self.flow.name,
            "x-ms-workflow-name": self.flow.name,
            "x-ms-workflow-run-id": self.id,
            "x-ms-workflow-system-id": f"/locations/localhost/scaleunits/local/workflows/{self.flow.name}",
            "x-ms-workflow-version": _VERSION,
        }


class StatusUrl:
    """The URL that answers with a run's outcome, and the authorization that it needs.

    Its form is that of the logic.azure.com hosts. No document says if a flow for specific users signs the URL, so the
    definition chooses.
    """

    def __init__(self, run_id: str, asynchronous: AsynchronousResponse, trigger_request: web.Request) -> None:
        self._path = f"/runs/{run_id}/operations/{uuid.uuid4()}"
        self._signature = secrets.token_urlsafe(32) if asynchronous.signed_status_url else None
        self._lost = asynchronous.lost
        self.retry_after = asynchronous.retry_after
        self.location = self._absolute(trigger_request)
        """The absolute URL, at the host that the caller addressed. It is a secret if it is signed."""

    def _absolute(self, trigger_request: web.Request) -> str:
        query = {"api-version": _API_VERSION}
        if self._signature is not None:
            query |= {"sp": f"{self._path}/read", "sv": "1.0", "sig": self._signature}
        flow = trigger_request.path.rpartition("/triggers/")[0]
        return f"{trigger_request.scheme}://{trigger_request.host}{flow}{self._path}?{urlencode(query)}"

    def admit(self, request: web.Request, flow: FlowDefinition, trigger_guard: TriggerGuard) -> None:
        """Raise `TriggerRefusal` unless the request has the signature alone, or the bearer if the URL is unsigned."""
        if self._signature is None:
            trigger_guard.admit(request, flow)
            return
        signature, has_bearer = request.query.get("sig"), "Authorization" in request.headers
        if has_bearer:
            raise TriggerRefusal(
                "OAuthAccessPolicyNotFound" if signature is None else "DirectApiRequestHasMoreThanOneAuthorization"
            )
        if signature is None:
            raise TriggerRefusal("DirectApiAuthorizationRequired")
        if not secrets.compare_digest(signature.encode(), self._signature.encode()):
            raise TriggerRefusal("DirectApiInvalidAuthorizationSignature")

    def leads_here(self, request: web.Request) -> bool:
        """Return whether the request addresses this run, and the run is not lost."""
        return request.path.endswith(self._path) and not self._lost


class Runs:
    """A flow's runs that have a status URL, by run ID."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def add(self, run: Run) -> None:
        """Add a run; drop the oldest beyond `MAX_RECORDS`."""
        self._runs[run.id] = run
        if len(self._runs) > MAX_RECORDS:
            self._runs.popitem(last=False)

    def get(self, run_id: str) -> Run | None:
        """Return the run; None if it never existed or was dropped."""
        return self._runs.get(run_id)
