"""`/emulator/servicebus`: trouble for the Service Bus on demand, for programs in any language.

- `GET` what is frozen, delayed and refused at present, and the broker's time
- `PUT` a `ServiceBusPatch`: what it names is changed or done, the rest stays
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

from aiohttp import web
from pydantic import Field, ValidationError

from servicebus_emulator.cloud.definitions import Definition, Seconds
from servicebus_emulator.control import Control
from servicebus_emulator.servicebus.errors import DETACH_FORCED, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint, InjectedRefusal
from servicebus_emulator.validation import explain

_PATH = "/emulator/servicebus"
_MAX_MOVE_SECONDS = 10 * 366 * 86_400.0
_Condition = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[A-Za-z0-9.-]+)+$", max_length=128)]
_Queue = Annotated[str, Field(min_length=1, max_length=300)]


class RefusalDefinition(Definition):
    """What is refused: see `emulator.servicebus.faults.Refusal`."""

    at: FaultPoint
    condition: _Condition
    description: str = "Refused on demand."
    queue: _Queue | None = None
    times: int | None = Field(default=None, ge=1)

    def refusal(self) -> InjectedRefusal:
        """In the broker's own form."""
        return InjectedRefusal(self.at, self.condition, self.description, self.queue, self.times)


class Detachment(Definition):
    """The links of a queue are detached, with a condition."""

    queue: _Queue
    condition: _Condition = DETACH_FORCED


class ServiceBusPatch(Definition):
    """Switches first, then what is done once, in this order."""

    frozen: bool | None = None
    """Neither read nor answer; the connections stay up."""
    delay_seconds: Seconds | None = None
    """Act on what clients say only so much later."""
    refusals: tuple[RefusalDefinition, ...] | None = None
    """All that is refused; an empty list ends it."""
    advance_seconds: float = Field(default=0, ge=0, le=_MAX_MOVE_SECONDS)
    """Let time pass for the broker at once."""
    expire_locks: tuple[_Queue, ...] = ()
    """End every lock on these queues' messages and sessions."""
    detach: tuple[Detachment, ...] = ()
    drop_connections: bool = False
    """Break every connection without a word."""


def routes(control: Control) -> Sequence[web.RouteDef]:
    """What the web server answers."""
    api = _Api(control)
    return [web.get(_PATH, api.get), web.put(_PATH, api.put)]


class _Api:
    def __init__(self, control: Control) -> None:
        self._control = control

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
            patch = ServiceBusPatch.model_validate_json(await request.read(), by_name=True, by_alias=False)
            self._require_queues(patch)
        except ValidationError as error:
            return _bad_request(explain(error))
        except ServiceBusError as error:
            return _bad_request(str(error))
        self._switch(patch)
        self._act(patch)
        return await self.get(request)

    def _require_queues(self, patch: ServiceBusPatch) -> None:
        """All or nothing: a queue that is not there is found out before anything is done."""
        refused = (one.queue for one in patch.refusals or () if one.queue is not None)
        for queue in (*refused, *patch.expire_locks, *(one.queue for one in patch.detach)):
            self._control.counts(queue)

    def _switch(self, patch: ServiceBusPatch) -> None:
        if patch.frozen is not None:
            self._control.freeze() if patch.frozen else self._control.thaw()
        if patch.delay_seconds is not None:
            self._control.delay(patch.delay_seconds)
        if patch.refusals is not None:
            self._control.put_refusals([one.refusal() for one in patch.refusals])

    def _act(self, patch: ServiceBusPatch) -> None:
        if patch.advance_seconds:
            self._control.advance(patch.advance_seconds)
        for queue in patch.expire_locks:
            self._control.expire_locks(queue)
        for one in patch.detach:
            self._control.force_detach(one.queue, one.condition)
        if patch.drop_connections:
            self._control.drop_connections()


def _bad_request(message: str) -> web.Response:
    return web.json_response({"error": {"code": "InvalidRequest", "message": message}}, status=400)
