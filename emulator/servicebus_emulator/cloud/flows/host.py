"""HTTP-triggered flows: check a call as Power Automate does, run, answer with its headers, and remember the call."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from aiohttp import web
from pydantic import JsonValue

from servicebus_emulator.cloud.definitions import Fault, FlowDefinition, FlowResponse
from servicebus_emulator.cloud.faults import Faults, answers, inflict, instead
from servicebus_emulator.cloud.flows.runs import REMEMBERED, Call, Run, Runs, StatusUrl
from servicebus_emulator.cloud.flows.trigger_guard import (
    InputSchema,
    Refusal,
    TriggerGuard,
    check_state,
    parse_input,
    tracking_headers,
)

_PLACEHOLDER = re.compile(r"\{(input(?:\.[A-Za-z0-9_-]+)*|run_id)\}")
_STRIPPED = re.compile(
    r"allow|content-(?!(?:disposition|encoding|type)$).*|cookie|expires|last-modified|set-cookie|transfer-encoding",
    re.IGNORECASE,
)
"""Headers the platform takes out of a Response action (Microsoft Learn, "Handle inbound HTTPS requests")."""


class Flow:
    """One flow: its definition, the faults in force, the calls it has seen, the runs that can be asked about."""

    def __init__(self, definition: FlowDefinition) -> None:
        self.definition = definition
        self.faults = Faults(definition.faults)
        self.poll_faults = Faults(definition.poll_faults)
        self.schema = InputSchema(definition.input_schema)
        self.calls: deque[Call] = deque(maxlen=REMEMBERED)
        self.runs = Runs()

    def redefine(self, definition: FlowDefinition, changed: Iterable[str]) -> None:
        """Go on under another definition. Faults in force stay unless they are among what changed."""
        self.definition = definition
        self.schema = InputSchema(definition.input_schema)
        if "faults" in changed:
            self.faults.put(definition.faults)
        if "poll_faults" in changed:
            self.poll_faults.put(definition.poll_faults)

    def begin(self, call: Call, request: web.Request, fault: Fault | None) -> Run:
        """Begin a run; a fault that only delays makes it take that much longer."""
        late = fault.delay_seconds if fault is not None and fault.kind == "delay" else 0
        run = Run(self.definition, call, request, late)
        if run.status is not None:
            self.runs.add(run)
        return run


class FlowHost:
    """All flows, by name."""

    def __init__(self, definitions: Iterable[FlowDefinition], trigger_guard: TriggerGuard) -> None:
        self._flows = {definition.name: Flow(definition) for definition in definitions}
        self._trigger_guard = trigger_guard

    def put(self, name: str, patch: Mapping[str, JsonValue]) -> FlowDefinition:
        """Merge fields into a flow's definition, or make a flow. Raises `pydantic.ValidationError`."""
        flow = self._flows.get(name)
        now = flow.definition.model_dump(mode="json") if flow else {}
        definition = FlowDefinition.model_validate(now | dict(patch) | {"name": name}, by_name=True, by_alias=False)
        if flow is None:
            self._flows[name] = Flow(definition)
        else:
            flow.redefine(definition, patch)
        return definition

    def calls(self, name: str) -> list[dict[str, object]]:
        """The calls a flow has seen, the oldest first. Raises `KeyError`."""
        return [asdict(call) for call in self._flows[name].calls]

    async def invoke(self, request: web.Request) -> web.StreamResponse:
        """`POST …/{name}/triggers/manual/paths/invoke`."""
        name = request.match_info["name"]
        flow = self._flows.get(name)
        if flow is None:
            return Refusal("WorkflowNotFound", workflow=name).response()
        call = Call.of(request)
        flow.calls.append(call)
        fault = flow.faults.strike()
        try:
            answer = await self._answer(request, flow, call, fault)
        except Refusal as refusal:
            call.status, call.code = refusal.status, refusal.code
            return refusal.response()
        if answers(fault):
            call.status = answer.status
            call.code = fault.behaviour.code if fault is not None and fault.behaviour is not None else None
        return answer

    async def _answer(self, request: web.Request, flow: Flow, call: Call, fault: Fault | None) -> web.StreamResponse:
        """The fault's answer, or the flow's own. Raises `Refusal`."""
        if fault is None or fault.kind != "reset_before_reading":
            call.body = parse_input(await request.read(), request.content_type)
        if fault is None or not fault.turns_away:
            self._admit(request, flow, call)
        if fault is not None and not fault.begins_run:
            return await instead(request, fault, tracking_headers())
        run = flow.begin(call, request, fault)
        answer = await inflict(request, fault, run.headers()) if fault is not None else None
        return await _first_answer(run) if answer is None else answer

    def _admit(self, request: web.Request, flow: Flow, call: Call) -> None:
        """Everything the platform checks before a run. Raises `Refusal`."""
        self._trigger_guard.admit(request, flow.definition)
        check_state(flow.definition)
        if request.method != flow.definition.method:
            raise Refusal("MethodNotAllowed", detail=flow.definition.method)
        flow.schema.check(call.body)

    async def poll(self, request: web.Request) -> web.StreamResponse:
        """`GET …/{name}/runs/{run_id}/operations/{operation_id}`: 202 while the run goes on, then its outcome."""
        name, run_id = request.match_info["name"], request.match_info["run_id"]
        flow = self._flows.get(name)
        run = flow.runs.get(run_id) if flow is not None else None
        if flow is None or run is None or run.status is None:
            return Refusal("WorkflowRunNotFound", workflow=name, run=run_id).response()
        run.call.polls += 1
        run.call.polled_with_bearer |= "Authorization" in request.headers
        try:
            return await self._status(request, run, run.status, flow.poll_faults.strike())
        except Refusal as refusal:
            return refusal.response()

    async def _status(
        self, request: web.Request, run: Run, status: StatusUrl, fault: Fault | None
    ) -> web.StreamResponse:
        """The fault's answer, or how it stands with the run. Raises `Refusal`."""
        if fault is not None and fault.turns_away:
            return await instead(request, fault, tracking_headers())
        status.admit(request, run.flow, self._trigger_guard)
        if not status.leads_here(request):
            raise Refusal("WorkflowRunNotFound", workflow=run.flow.name, run=run.id)
        answer = await inflict(request, fault, run.headers()) if fault is not None else None
        return _next_answer(run, status) if answer is None else answer


async def _first_answer(run: Run) -> web.Response:
    """What the call that began the run gets."""
    if run.status is not None:
        return _pending(run, run.status)
    if run.flow.response is None:
        return web.Response(status=202, headers=run.headers())
    await run.outcome()
    return _response(run, run.flow.response)


def _next_answer(run: Run, status: StatusUrl) -> web.Response:
    """What a poll gets."""
    if run.polled() and run.flow.response is not None:
        return _response(run, run.flow.response)
    return _pending(run, status)


def _pending(run: Run, status: StatusUrl) -> web.Response:
    headers = run.headers() | {"Location": status.location}
    if status.retry_after is not None:
        headers["Retry-After"] = status.retry_after
    return web.Response(status=202, headers=headers)


def _response(run: Run, response: FlowResponse) -> web.Response:
    """The Response action's answer."""
    payload, content_type = _content(response, run.call)
    own = {name: value for name, value in response.headers.items() if not _STRIPPED.fullmatch(name)}
    answer = web.Response(status=response.status, body=payload, headers=own)
    answer.headers.update(run.headers())
    answer.headers["Content-Type"] = content_type
    return answer


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
