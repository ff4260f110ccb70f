"""HTTP-triggered flows: check a call as Power Automate does, run, answer with its headers, and remember the call."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from aiohttp import web
from pydantic import JsonValue

from emulator.admission import Doorman, InputSchema, Refusal, check_state, parse_input, tracking_headers
from emulator.definitions import Fault, FlowDefinition, FlowResponse
from emulator.faults import Faults, answers, inflict

REMEMBERED_CALLS = 10_000
"""Of each flow; older ones are forgotten."""

_VERSION = "08584000000000000001"
_PLACEHOLDER = re.compile(r"\{(input(?:\.[A-Za-z0-9_-]+)*|run_id)\}")
_STRIPPED = re.compile(
    r"allow|content-(?!(?:disposition|encoding|type)$).*|cookie|expires|last-modified|set-cookie|transfer-encoding",
    re.IGNORECASE,
)
"""Headers the platform takes out of a Response action (Microsoft Learn, "Handle inbound HTTPS requests")."""


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
    """The platform's error code, if it refused."""


class Flow:
    """One flow: its definition, the faults in force, the calls it has seen."""

    def __init__(self, definition: FlowDefinition) -> None:
        self.definition = definition
        self.faults = Faults(definition.faults)
        self.schema = InputSchema(definition.input_schema)
        self.calls: deque[Call] = deque(maxlen=REMEMBERED_CALLS)

    def redefine(self, definition: FlowDefinition, *, new_faults: bool) -> None:
        """Go on under another definition. The faults in force stay unless there are new ones."""
        self.definition = definition
        self.schema = InputSchema(definition.input_schema)
        if new_faults:
            self.faults.put(definition.faults)

    def seen(self, request: web.Request) -> Call:
        """Remember a call."""
        call = Call(
            time=datetime.now(UTC).isoformat(),
            method=request.method,
            client_tracking_id=request.headers.get("x-ms-client-tracking-id"),
            traceparent=request.headers.get("traceparent"),
            content_type=request.headers.get("Content-Type"),
        )
        self.calls.append(call)
        return call


class FlowHost:
    """All flows, by name."""

    def __init__(self, definitions: Iterable[FlowDefinition], doorman: Doorman) -> None:
        self._flows = {definition.name: Flow(definition) for definition in definitions}
        self._doorman = doorman

    def put(self, name: str, patch: Mapping[str, JsonValue]) -> FlowDefinition:
        """Merge fields into a flow's definition, or make a flow. Raises `pydantic.ValidationError`."""
        flow = self._flows.get(name)
        now = flow.definition.model_dump(mode="json") if flow else {}
        definition = FlowDefinition.model_validate(now | dict(patch) | {"name": name}, by_name=True, by_alias=False)
        if flow is None:
            self._flows[name] = Flow(definition)
        else:
            flow.redefine(definition, new_faults="faults" in patch)
        return definition

    def calls(self, name: str) -> list[dict[str, object]]:
        """The calls a flow has seen, the oldest first. Raises `KeyError`."""
        return [asdict(call) for call in self._flows[name].calls]

    async def invoke(self, request: web.Request) -> web.StreamResponse:
        """`POST …/{name}/triggers/manual/paths/invoke`."""
        name = request.match_info["name"]
        flow = self._flows.get(name)
        if flow is None:
            return Refusal(404, "WorkflowNotFound", f"The workflow '{name}' could not be found.").response()
        call = flow.seen(request)
        fault = flow.faults.strike()
        try:
            answer = await self._answer(request, flow, call, fault)
        except Refusal as refusal:
            call.status, call.code = refusal.status, refusal.code
            return refusal.response()
        if answers(fault):
            call.status = answer.status
        return answer

    async def _answer(self, request: web.Request, flow: Flow, call: Call, fault: Fault | None) -> web.StreamResponse:
        """The fault's answer, or the flow's own. Raises `Refusal`."""
        if fault is None or not fault.turns_away:
            self._admit(request, flow, call, await request.read())
            if fault is None or fault.starts_run:
                call.run_id = _new_run_id()
        headers = _headers(flow.definition, call)
        answer = await inflict(request, fault, headers) if fault else None
        return await _run(flow.definition, call, headers) if answer is None else answer

    def _admit(self, request: web.Request, flow: Flow, call: Call, body: bytes) -> None:
        """Everything the platform checks before a run. Raises `Refusal`."""
        call.body = parse_input(body, request.content_type)
        self._doorman.admit(request, flow.definition)
        check_state(flow.definition)
        if request.method != flow.definition.method:
            raise Refusal(405, "MethodNotAllowed", f"The trigger takes {flow.definition.method} requests only.")
        flow.schema.check(call.body)


async def _run(flow: FlowDefinition, call: Call, headers: Mapping[str, str]) -> web.StreamResponse:
    if flow.response is None:
        return web.Response(status=202, headers=headers)
    await asyncio.sleep(flow.delay_seconds)
    payload, content_type = _content(flow.response, call)
    own = {name: value for name, value in flow.response.headers.items() if not _STRIPPED.fullmatch(name)}
    response = web.Response(status=flow.response.status, body=payload, headers=own)
    response.headers.update(headers)
    response.headers["Content-Type"] = content_type
    return response


def _content(response: FlowResponse, call: Call) -> tuple[bytes, str]:
    if response.echo or response.template is not None:
        value = call.body if response.echo else fill(response.template, call.body, call.run_id)
        return json.dumps(value).encode(), response.content_type or "application/json; charset=utf-8"
    return response.payload()


def fill(template: JsonValue, value: JsonValue, run_id: str | None) -> JsonValue:
    """The template with its placeholders replaced; one that leads nowhere becomes null, or an empty text."""
    match template:
        case dict():
            return {name: fill(item, value, run_id) for name, item in template.items()}
        case list():
            return [fill(item, value, run_id) for item in template]
        case str():
            alone = _PLACEHOLDER.fullmatch(template)
            if alone:
                return _look_up(alone[1], value, run_id)
            return _PLACEHOLDER.sub(lambda found: _written(_look_up(found[1], value, run_id)), template)
        case _:
            return template


def _look_up(path: str, value: JsonValue, run_id: str | None) -> JsonValue:
    if path == "run_id":
        return run_id
    for name in path.split(".")[1:]:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _written(value: JsonValue) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _new_run_id() -> str:
    """As the platform's look: digits, then the scale unit."""
    return f"0858{secrets.randbelow(10**26):026}CU{secrets.randbelow(100):02}"


def _headers(flow: FlowDefinition, call: Call) -> dict[str, str]:
    """The tracking headers, and if there is a run those that name it."""
    headers = tracking_headers()
    if call.run_id is None:
        return headers
    return headers | {
        "x-ms-client-tracking-id": call.client_tracking_id or call.run_id,
        "x-ms-execution-location": "localhost",
        "x-ms-trigger-history-name": call.run_id,
        "x-ms-workflow-id": flow.name,
        "x-ms-workflow-name": flow.name,
        "x-ms-workflow-run-id": call.run_id,
        "x-ms-workflow-system-id": f"/locations/localhost/scaleunits/local/workflows/{flow.name}",
        "x-ms-workflow-version": _VERSION,
    }
