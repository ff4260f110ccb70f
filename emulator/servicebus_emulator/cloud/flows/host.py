"""Hosts the HTTP-triggered flows: checks a call as Power Automate does, runs the flow, answers, records the call."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from aiohttp import web
from pydantic import JsonValue

from servicebus_emulator.cloud.faults.definitions import Fault
from servicebus_emulator.cloud.faults.injection import inject, replace_answer, sends_status_line
from servicebus_emulator.cloud.faults.schedule import FaultSchedule
from servicebus_emulator.cloud.flows.definitions import FlowDefinition, FlowResponse
from servicebus_emulator.cloud.flows.runs import MAX_RECORDS, FlowCall, Run, RunObserver, Runs, StatusUrl
from servicebus_emulator.cloud.flows.templates import fill
from servicebus_emulator.cloud.flows.trigger_guard import (
    InputSchema,
    TriggerGuard,
    TriggerRefusal,
    check_state,
    parse_input,
    tracking_headers,
)

_REMOVED_HEADERS = re.compile(
    r"allow|content-(?!(?:disposition|encoding|type)$).*|cookie|expires|last-modified|set-cookie|transfer-encoding",
    re.IGNORECASE,
)
"""The headers that the platform removes from a Response action (Microsoft Learn, "Handle inbound HTTPS requests")."""


class Flow:
    """One flow: its definition, its active faults, the recorded calls, and the runs with a status URL."""

    def __init__(self, definition: FlowDefinition, observer: RunObserver) -> None:
        self.definition = definition
        self._observer = observer
        self.faults = FaultSchedule(definition.faults)
        self.poll_faults = FaultSchedule(definition.poll_faults)
        self.schema = InputSchema(definition.input_schema)
        self.calls: deque[FlowCall] = deque(maxlen=MAX_RECORDS)
        self.runs = Runs()

    def redefine(self, definition: FlowDefinition, changed: Iterable[str]) -> None:
        """Replace the definition. Active faults keep their counts unless `changed` names their field."""
        self.definition = definition
        self.schema = InputSchema(definition.input_schema)
        if "faults" in changed:
            self.faults.replace(definition.faults)
        if "poll_faults" in changed:
            self.poll_faults.replace(definition.poll_faults)

    def begin_run(self, call: FlowCall, request: web.Request, fault: Fault | None) -> Run:
        """Begin a run. A `delay` fault prolongs it."""
        extra_seconds = fault.delay_seconds if fault is not None and fault.kind == "delay" else 0
        run = Run(self.definition, call, request, self._changed, extra_seconds)
        if run.status is not None:
            self.runs.add(run)
        return run

    def _changed(self, run: Run) -> None:
        if run.flow.in_solution:
            self._observer(run)


class FlowHost:
    """All flows, by name."""

    def __init__(
        self,
        definitions: Iterable[FlowDefinition],
        trigger_guard: TriggerGuard,
        observer: RunObserver = lambda _: None,
    ) -> None:
        """`observer` takes note of the runs of flows that are in a solution."""
        self._observer = observer
        self._flows = {definition.name: Flow(definition, observer) for definition in definitions}
        self._trigger_guard = trigger_guard

    def names(self) -> list[str]:
        """Return the names of all flows."""
        return list(self._flows)

    def put(self, name: str, patch: Mapping[str, JsonValue]) -> FlowDefinition:
        """Merge fields into a flow's definition, or create the flow. Raise `pydantic.ValidationError` on a mistake."""
        flow = self._flows.get(name)
        current = flow.definition.model_dump(mode="json") if flow else {}
        definition = FlowDefinition.model_validate(current | dict(patch) | {"name": name}, by_name=True, by_alias=False)
        if flow is None:
            self._flows[name] = Flow(definition, self._observer)
        else:
            flow.redefine(definition, patch)
        return definition

    def calls(self, name: str) -> list[dict[str, object]]:
        """Return the recorded calls of a flow, oldest first. Raise `KeyError` if there is no such flow."""
        return [asdict(call) for call in self._flows[name].calls]

    async def invoke(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST …/{name}/triggers/manual/paths/invoke`."""
        name = request.match_info["name"]
        flow = self._flows.get(name)
        if flow is None:
            return TriggerRefusal("WorkflowNotFound", workflow=name).response()
        call = FlowCall.of(request)
        flow.calls.append(call)
        fault = flow.faults.next_fault()
        try:
            response = await self._answer(request, flow, call, fault)
        except TriggerRefusal as refusal:
            call.status, call.code = refusal.status, refusal.code
            return refusal.response()
        if sends_status_line(fault):
            platform_answer = fault.platform_answer if fault is not None else None
            call.status = response.status
            call.code = platform_answer.code if platform_answer is not None else None
        return response

    async def _answer(
        self, request: web.Request, flow: Flow, call: FlowCall, fault: Fault | None
    ) -> web.StreamResponse:
        """Return the fault's answer, or the flow's. Raise `TriggerRefusal` if a check fails."""
        if fault is None or fault.kind != "reset_before_reading":
            call.body = parse_input(await request.read(), request.content_type)
        if fault is None or not fault.precedes_checks:
            self._check(request, flow, call)
        if fault is not None and not fault.begins_run:
            return await replace_answer(request, fault, tracking_headers())
        # The run begins before the fault is injected: a caller whose connection breaks has still started the flow.
        run = flow.begin_run(call, request, fault)
        response = await inject(request, fault, run.headers()) if fault is not None else None
        return await _first_answer(run) if response is None else response

    def _check(self, request: web.Request, flow: Flow, call: FlowCall) -> None:
        """Check everything that the platform checks before a run, in its order. Raise `TriggerRefusal`."""
        self._trigger_guard.admit(request, flow.definition)
        check_state(flow.definition)
        if request.method != flow.definition.method:
            raise TriggerRefusal("MethodNotAllowed", detail=flow.definition.method)
        flow.schema.check(call.body)

    async def poll(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET …/{name}/runs/{run_id}/operations/{operation_id}`: 202 during the run, then its outcome."""
        name, run_id = request.match_info["name"], request.match_info["run_id"]
        flow = self._flows.get(name)
        run = flow.runs.get(run_id) if flow is not None else None
        if flow is None or run is None or run.status is None:
            return TriggerRefusal("WorkflowRunNotFound", workflow=name, run=run_id).response()
        run.call.polls += 1
        run.call.polled_with_bearer |= "Authorization" in request.headers
        try:
            return await self._poll_answer(request, run, run.status, flow.poll_faults.next_fault())
        except TriggerRefusal as refusal:
            return refusal.response()

    async def _poll_answer(
        self, request: web.Request, run: Run, status: StatusUrl, fault: Fault | None
    ) -> web.StreamResponse:
        """Return the fault's answer, or the state of the run. Raise `TriggerRefusal` if a check fails."""
        if fault is not None and fault.precedes_checks:
            return await replace_answer(request, fault, tracking_headers())
        status.admit(request, run.flow, self._trigger_guard)
        if not status.leads_here(request):
            raise TriggerRefusal("WorkflowRunNotFound", workflow=run.flow.name, run=run.id)
        response = await inject(request, fault, run.headers()) if fault is not None else None
        return _next_answer(run, status) if response is None else response


async def _first_answer(run: Run) -> web.Response:
    """Return the answer to the call that began the run."""
    if run.status is not None:
        return _pending(run, run.status)
    if run.flow.response is None:
        return web.Response(status=202, headers=run.headers())
    await run.outcome()
    return _response(run, run.flow.response)


def _next_answer(run: Run, status: StatusUrl) -> web.Response:
    """Return the answer to a status poll."""
    if run.poll() and run.flow.response is not None:
        return _response(run, run.flow.response)
    return _pending(run, status)


def _pending(run: Run, status: StatusUrl) -> web.Response:
    headers = run.headers() | {"Location": status.location}
    if status.retry_after is not None:
        headers["Retry-After"] = status.retry_after
    return web.Response(status=202, headers=headers)


def _response(run: Run, definition: FlowResponse) -> web.Response:
    """Return the Response action's answer."""
    payload, content_type = _content(definition, run.call)
    headers = {name: value for name, value in definition.headers.items() if not _REMOVED_HEADERS.fullmatch(name)}
    response = web.Response(status=definition.status, body=payload, headers=headers)
    response.headers.update(run.headers())
    response.headers["Content-Type"] = content_type
    return response


def _content(response: FlowResponse, call: FlowCall) -> tuple[bytes, str]:
    if response.echo or response.template is not None:
        value = call.body if response.echo else fill(response.template, call.body, call.run_id)
        return json.dumps(value).encode(), response.content_type or "application/json; charset=utf-8"
    return response.payload()
