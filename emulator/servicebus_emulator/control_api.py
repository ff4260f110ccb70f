"""`/emulator/servicebus`: control of the Service Bus over HTTP, for programs in any language.

- `GET` returns the faults in force and the broker's time.
- `PUT` takes a `ControlRequest`. It changes the fields that the request names and leaves the rest alone.

`GET /emulator/ready` returns the ready line, for programs that did not start the emulator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

from aiohttp import web
from pydantic import Field, JsonValue, ValidationError

from servicebus_emulator.cloud.fields import Definition, Seconds
from servicebus_emulator.control import Control
from servicebus_emulator.servicebus.errors import DETACH_FORCED, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint, InjectedRefusal
from servicebus_emulator.validation import explain

_PATH = "/emulator/servicebus"
_MAX_ADVANCE_SECONDS = 10 * 366 * 86_400.0
_Condition = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[A-Za-z0-9.-]+)+$", max_length=128)]
_Queue = Annotated[str, Field(min_length=1, max_length=300)]


class RefusalDefinition(Definition):
    """A refusal, see `servicebus.faults.InjectedRefusal`."""

    at: FaultPoint
    condition: _Condition
    description: str = "Refused on demand."
    queue: _Queue | None = None
    times: int | None = Field(default=None, ge=1)

    def refusal(self) -> InjectedRefusal:
        """Return the refusal in the broker's form."""
        return InjectedRefusal(self.at, self.condition, self.description, self.queue, self.times)


class DetachDefinition(Definition):
    """The queue whose links are detached, and the condition that clients get."""

    queue: _Queue
    condition: _Condition = DETACH_FORCED


class ControlRequest(Definition):
    """State to set (the first three fields), and actions to run once, in the order of the fields."""

    frozen: bool | None = None
    """True: the broker neither reads nor answers; the connections stay open."""
    delay_seconds: Seconds | None = None
    """Handle every frame of clients this much later."""
    refusals: tuple[RefusalDefinition, ...] | None = None
    """All refusals, which replace those in force; an empty list ends them."""
    advance_seconds: float = Field(default=0, ge=0, le=_MAX_ADVANCE_SECONDS)
    """Advance the broker's clock."""
    expire_locks: tuple[_Queue, ...] = ()
    """Expire all locks on the messages and sessions of these queues."""
    detach: tuple[DetachDefinition, ...] = ()
    drop_connections: bool = False
    """Abort every connection without a close frame."""


Announcement = Callable[[], dict[str, JsonValue] | None]
"""Returns the emulator's addresses; None while it starts."""


def routes(control: Control, announcement: Announcement) -> Sequence[web.RouteDef]:
    """Return the routes for the web server."""
    api = _Api(control, announcement)
    return [web.get(_PATH, api.get), web.put(_PATH, api.put), web.get("/emulator/ready", api.get_ready)]


class _Api:
    def __init__(self, control: Control, announcement: Announcement) -> None:
        self._control = control
        self._announcement = announcement

    async def get_ready(self, _: web.Request) -> web.Response:
        announced = self._announcement()
        if announced is None:
            return web.json_response({"error": {"code": "Starting", "message": "The emulator starts."}}, status=503)
        return web.json_response(announced)

    async def get(self, _: web.Request) -> web.Response:
        now = datetime.fromtimestamp(self._control.now(), UTC)
        return web.json_response(
            {
                "frozen": self._control.frozen(),
                "delay_seconds": self._control.delay_seconds(),
                "refusals": [asdict(refusal) for refusal in self._control.refusals()],
                "now": now.isoformat(timespec="milliseconds"),
            }
        )

    async def put(self, request: web.Request) -> web.Response:
        try:
            control_request = ControlRequest.model_validate_json(await request.read(), by_name=True, by_alias=False)
            self._require_queues(control_request)
        except ValidationError as error:
            return _bad_request(explain(error))
        except ServiceBusError as error:
            return _bad_request(str(error))
        self._switch(control_request)
        self._act(control_request)
        return await self.get(request)

    def _require_queues(self, control_request: ControlRequest) -> None:
        """Raise `ServiceBusError` for an unknown queue before anything changes: a request applies as a whole or not."""
        refused = (refusal.queue for refusal in control_request.refusals or () if refusal.queue is not None)
        detached = (detach.queue for detach in control_request.detach)
        for queue in (*refused, *control_request.expire_locks, *detached):
            self._control.counts(queue)

    def _switch(self, control_request: ControlRequest) -> None:
        if control_request.frozen is not None:
            self._control.freeze() if control_request.frozen else self._control.thaw()
        if control_request.delay_seconds is not None:
            self._control.delay(control_request.delay_seconds)
        if control_request.refusals is not None:
            self._control.replace_refusals([refusal.refusal() for refusal in control_request.refusals])

    def _act(self, control_request: ControlRequest) -> None:
        if control_request.advance_seconds:
            self._control.advance(control_request.advance_seconds)
        for queue in control_request.expire_locks:
            self._control.expire_locks(queue)
        for detach in control_request.detach:
            self._control.force_detach(detach.queue, detach.condition)
        if control_request.drop_connections:
            self._control.drop_connections()


def _bad_request(message: str) -> web.Response:
    return web.json_response({"error": {"code": "InvalidRequest", "message": message}}, status=400)
