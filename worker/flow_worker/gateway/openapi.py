"""The OpenAPI 3.1 document of the HTTP API, generated from the models of its documents."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from flow_contracts.result import FlowResult
from flow_worker.gateway.documents import FlowDescription, FlowList, PendingRequest, ProblemDocument
from flow_worker.gateway.problems import KINDS, MEDIA_TYPE
from flow_worker.version import worker_version

Node = dict[str, Any]
"""A part of a JSON document."""

_REF: Final = "#/components/schemas/{model}"
_KEY_PATTERN: Final = r'^("[ !#-\[\]-~]{1,255}"|[!#-~][!-~]{0,254})$'
_ID_PATTERN: Final = "^[A-Za-z0-9_-]{1,128}$"
_PROBLEMS: Final = (400, 401, 403, 404, 405, 408, 410, 413, 415, 422, 429, 503)


@lru_cache(maxsize=16)
def rendered(base_url: str, max_wait_seconds: int) -> bytes:
    """Return the document as JSON."""
    return json.dumps(document(base_url, max_wait_seconds), indent=1).encode()


def document(base_url: str, max_wait_seconds: int) -> Node:
    """Return the document. `base_url`: of the gateway."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flow-worker gateway",
            "version": worker_version(),
            "summary": "Starts Power Automate flows and returns their results.",
            "description": "A caller needs an access token of Microsoft Entra ID for this API. It reads only the "
            "results of its own requests.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_url}],
        "security": [{"entra": []}],
        "tags": [{"name": "requests", "description": "Start flows and read results."}, {"name": "flows"}],
        "paths": {
            "/v1/flows": {"get": _flows()},
            "/v1/flows/{flow}": {"get": _flow()},
            "/v1/flows/{flow}/requests": {"post": _submit(max_wait_seconds)},
            "/v1/requests/{id}": {"get": _read(max_wait_seconds)},
            "/v1/requests/{id}/events": {"get": _events()},
        },
        "components": {
            "schemas": _schemas(),
            "responses": {f"Problem{status}": _problem(status) for status in _PROBLEMS},
            "headers": _headers(),
            "securitySchemes": {"entra": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _schemas() -> Node:
    models = (FlowResult, PendingRequest, FlowList, FlowDescription, ProblemDocument)
    _, found = models_json_schema([(model, "serialization") for model in models], ref_template=_REF)
    schemas: Node = found["$defs"]
    return schemas


def _submit(max_wait_seconds: int) -> Node:
    return {
        "operationId": "startFlow",
        "summary": "Start a flow",
        "tags": ["requests"],
        "parameters": [
            _flow_name(),
            _wait(max_wait_seconds),
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "A string, in quotes or not. The same key with the same input is the same request.",
                "schema": {"type": "string", "pattern": _KEY_PATTERN},
                "example": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
            },
            _prefer(),
            _on_behalf_of(),
            {
                "name": "traceparent",
                "in": "header",
                "description": "W3C trace context, which the flow's trace continues.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {
            "description": "The input of the flow: any JSON value. Without a body the input is null.",
            "required": False,
            "content": {"application/json": {"schema": {}}},
        },
        "responses": {
            "200": _result("The result came within `wait`."),
            "202": _pending("The request is accepted. Location is its URL.") | {"links": _links()},
            **_problems(400, 401, 403, 405, 408, 413, 415, 422, 429, 503),
        },
    }


def _read(max_wait_seconds: int) -> Node:
    return {
        "operationId": "readResult",
        "summary": "Read the result of a request",
        "tags": ["requests"],
        "parameters": [_id(), _wait(max_wait_seconds), _settled(), _prefer()],
        "responses": {
            "200": _result("The result, whatever its status."),
            "202": _pending("The request has no result yet."),
            **_problems(400, 401, 404, 405, 410, 429, 503),
        },
    }


def _events() -> Node:
    stream: Node = {"text/event-stream": {}}  # OpenAPI 3.1 has no words for the events in a stream
    return {
        "operationId": "followRequest",
        "summary": "Follow the states of a request",
        "description": "Server-sent events: `state` with a pending request, and at the end `result` with the result. "
        "With `settled=true` the stream goes on after an `unknown` result, until `settled` with the settling result.",
        "tags": ["requests"],
        "parameters": [
            _id(),
            _settled(),
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "ID of the last event that the client has.",
                "schema": {"type": "string"},
            },
        ],
        "responses": {
            "200": {"description": "The events.", "content": stream},
            "204": {"description": "The client has the result already."},
            **_problems(400, 401, 404, 405, 410, 429, 503),
        },
    }


def _flows() -> Node:
    return {
        "operationId": "listFlows",
        "summary": "List the flows that the caller may start",
        "tags": ["flows"],
        "parameters": [_on_behalf_of()],
        "responses": {
            "200": _content("The flows.", "FlowList"),
            **_problems(400, 401, 403, 405, 429, 503),
        },
    }


def _flow() -> Node:
    return {
        "operationId": "readFlow",
        "summary": "Read one of these flows",
        "tags": ["flows"],
        "parameters": [_flow_name(), _on_behalf_of()],
        "responses": {
            "200": _content("The flow.", "FlowDescription"),
            **_problems(400, 401, 403, 404, 405, 429, 503),
        },
    }


def _flow_name() -> Node:
    return {
        "name": "flow",
        "in": "path",
        "required": True,
        "description": "Name of the flow.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        "example": "create-quote",
    }


def _on_behalf_of() -> Node:
    return {
        "name": "On-Behalf-Of",
        "in": "header",
        "description": "Object ID of the user for whom an application asks; asserters only.",
        "schema": {"type": "string", "format": "uuid"},
    }


def _id() -> Node:
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "ID of the request.",
        "schema": {"type": "string", "pattern": _ID_PATTERN},
    }


def _wait(max_seconds: int) -> Node:
    return {
        "name": "wait",
        "in": "query",
        "description": "Seconds to wait for the result.",
        "schema": {"type": "integer", "minimum": 0, "maximum": max_seconds, "default": 0},
    }


def _settled() -> Node:
    return {
        "name": "settled",
        "in": "query",
        "description": "Whether the wait goes on after an `unknown` result, until a settling result follows.",
        "schema": {"type": "boolean", "default": False},
    }


def _prefer() -> Node:
    return {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async`, `wait=n` (RFC 7240).",
        "schema": {"type": "string"},
        "example": "respond-async, wait=10",
    }


def _content(description: str, model: str) -> Node:
    schema = {"$ref": _REF.format(model=model)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _result(description: str) -> Node:
    names = ("Location", "Preference-Applied")
    return {**_content(description, "FlowResult"), "headers": {name: _header(name) for name in names}}


def _pending(description: str) -> Node:
    names = ("Location", "Retry-After", "Preference-Applied")
    return {**_content(description, "PendingRequest"), "headers": {name: _header(name) for name in names}}


def _links() -> Node:
    """Return the operations that take the ID of the accepted request."""
    parameters = {"id": "$response.body#/id"}
    return {name: {"operationId": name, "parameters": parameters} for name in ("readResult", "followRequest")}


def _header(name: str) -> Node:
    return {"$ref": f"#/components/headers/{name}"}


def _headers() -> Node:
    return {
        "Location": {"description": "URL of the request.", "schema": {"type": "string", "format": "uri"}},
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
        "Preference-Applied": {"description": "The preferences that count.", "schema": {"type": "string"}},
        "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
        "Allow": {"description": "The methods of the URL.", "schema": {"type": "string"}},
    }


def _problems(*statuses: int) -> Node:
    return {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}


def _problem(status: int) -> Node:
    codes = ", ".join(f"`{name}`" for name, kind in KINDS.items() if kind.status == status)
    found: Node = {
        "description": f"A problem: {codes}.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="ProblemDocument")}}},
    }
    of_status = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
    if status in of_status:
        found["headers"] = {of_status[status]: _header(of_status[status])}
    return found
