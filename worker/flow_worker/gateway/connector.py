"""The custom connector for Power Apps and Power Automate: OpenAPI 2.0 with the extensions of connectors.

`python -m flow_worker.gateway.connector clients/connector` writes the files; `--check` only compares them.
Microsoft Learn, "Create a custom connector from an OpenAPI definition" and "OpenAPI extensions for custom connectors".
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from flow_contracts.result import FlowResult
from flow_worker.gateway import openapi
from flow_worker.gateway.documents import FlowDescription, FlowList, PendingRequest, ProblemDocument

Node = dict[str, Any]
"""A part of a JSON document."""

_HOST: Final = "flows.contoso.com"
_CLIENT_ID: Final = "00000000-0000-0000-0000-000000000000"
_RESOURCE: Final = "api://flow-worker"
_LOGIN: Final = "https://login.microsoftonline.com"
_MAX_WAIT_SECONDS: Final = 100
"""Connectors end an action after about two minutes."""


def documents() -> dict[str, str]:
    """Return the text of each generated file, by name."""
    files = {
        "apiDefinition.swagger.json": definition(),
        "apiProperties.json": properties(),
        "openapi.json": openapi.document(f"https://{_HOST}", _MAX_WAIT_SECONDS),
    }
    return {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in files.items()}


def definition() -> Node:
    """Return `apiDefinition.swagger.json`."""
    return {
        "swagger": "2.0",
        "info": {
            "title": "Flow worker",
            "description": "Starts flows that the user may start, and returns their results.",
            "version": "1.0",
            "contact": {"name": "Your administrator"},
        },
        "host": _HOST,
        "basePath": "/",
        "schemes": ["https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": {
            "/v1/flows": {"get": _list_flows()},
            "/v1/flows/{flow}": {"get": _read_flow()},
            "/v1/flows/{flow}/requests": {"post": _start_flow()},
            "/v1/requests/{id}": {"get": _read_result()},
        },
        "definitions": _definitions(),
        "parameters": {},
        "responses": {},
        "securityDefinitions": {
            "entra": {
                "type": "oauth2",
                "flow": "accessCode",
                "authorizationUrl": f"{_LOGIN}/common/oauth2/authorize",
                "tokenUrl": f"{_LOGIN}/common/oauth2/token",
                "scopes": {f"{_RESOURCE}/access_as_user": "Start flows and read their results."},
            }
        },
        "security": [{"entra": [f"{_RESOURCE}/access_as_user"]}],
        "tags": [],
    }


def properties() -> Node:
    """Return `apiProperties.json`: how users of the connector sign in."""
    return {
        "properties": {
            "connectionParameters": {
                "token": {
                    "type": "oauthSetting",
                    "oAuthSettings": {
                        "identityProvider": "aad",
                        "clientId": _CLIENT_ID,
                        "scopes": [f"{_RESOURCE}/access_as_user"],
                        "redirectMode": "GlobalPerConnector",
                        "redirectUrl": "https://global.consent.azure-apim.net/redirect",
                        "properties": {"IsFirstParty": "False", "IsOnbehalfofLoginSupported": False},
                        "customParameters": {
                            "loginUri": {"value": _LOGIN},
                            "tenantId": {"value": "common"},
                            "resourceUri": {"value": _RESOURCE},
                            "enableOnbehalfOfLogin": {"value": "false"},
                        },
                    },
                }
            },
            "iconBrandColor": "#0b5cad",
            "capabilities": [],
            "publisher": "Your organization",
            "stackOwner": "Your organization",
        }
    }


def _start_flow() -> Node:
    flow = _flow_parameter() | {
        "x-ms-dynamic-values": {
            "operationId": "ListFlows",
            "value-path": "name",
            "value-title": "title",
            "value-collection": "flows",
        }
    }
    body = {
        "name": "input",
        "in": "body",
        "required": False,
        "description": "The input of the flow.",
        "x-ms-summary": "Input",
        "schema": {
            "type": "object",
            "x-ms-dynamic-schema": {
                "operationId": "ReadFlow",
                "parameters": {"flow": {"parameter": "flow"}},
                "value-path": "input_schema",
            },
        },
    }
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "type": "string",
        "maxLength": 255,
        "description": "The same key with the same input is the same request.",
        "x-ms-summary": "Idempotency key",
        "x-ms-visibility": "advanced",
    }
    return {
        "operationId": "StartFlow",
        "summary": "Start a flow and wait for its result",
        "description": "Starts a flow that the user may start. The action ends with the result.",
        "x-ms-visibility": "important",
        "parameters": [flow, body, key],
        "responses": {
            "200": _response("The result.", "FlowResult"),
            "202": _response("The request is accepted; the platform asks for the result.", "PendingRequest"),
            "default": _response("A problem.", "ProblemDocument"),
        },
    }


def _read_result() -> Node:
    number = {
        "name": "id",
        "in": "path",
        "required": True,
        "type": "string",
        "description": "ID of the request.",
        "x-ms-summary": "Request ID",
        "x-ms-url-encoding": "single",
    }
    wait = {
        "name": "wait",
        "in": "query",
        "required": False,
        "type": "integer",
        "minimum": 0,
        "maximum": _MAX_WAIT_SECONDS,
        "description": "Seconds to wait for the result.",
        "x-ms-summary": "Wait",
        "x-ms-visibility": "advanced",
    }
    return {
        "operationId": "ReadResult",
        "summary": "Read the result of a request",
        "description": "Returns the result of a request that the user started before.",
        "parameters": [number, wait],
        "responses": {
            "200": _response("The result.", "FlowResult"),
            "202": _response("The request has no result yet.", "PendingRequest"),
            "default": _response("A problem.", "ProblemDocument"),
        },
    }


def _list_flows() -> Node:
    return {
        "operationId": "ListFlows",
        "summary": "List the flows that the user may start",
        "description": "Returns the flows that the user may start.",
        "x-ms-visibility": "advanced",
        "parameters": [],
        "responses": {
            "200": _response("The flows.", "FlowList"),
            "default": _response("A problem.", "ProblemDocument"),
        },
    }


def _read_flow() -> Node:
    return {
        "operationId": "ReadFlow",
        "summary": "Read the input schema of a flow",
        "description": "The designer asks for the fields of the input.",
        "x-ms-visibility": "internal",
        "parameters": [_flow_parameter()],
        "responses": {
            "200": _response("The flow.", "FlowDescription"),
            "default": _response("A problem.", "ProblemDocument"),
        },
    }


def _flow_parameter() -> Node:
    return {
        "name": "flow",
        "in": "path",
        "required": True,
        "type": "string",
        "description": "Name of the flow.",
        "x-ms-summary": "Flow",
        "x-ms-url-encoding": "single",
    }


def _response(description: str, model: str) -> Node:
    return {"description": description, "schema": {"$ref": f"#/definitions/{model}"}}


def _definitions() -> Node:
    models = (FlowResult, PendingRequest, FlowList, FlowDescription, ProblemDocument)
    template = "#/definitions/{model}"
    _, found = models_json_schema([(model, "serialization") for model in models], ref_template=template)
    return {name: _as_swagger(schema) for name, schema in found["$defs"].items()}


def _as_swagger(schema: Any) -> Any:
    """Return a JSON Schema in the words of OpenAPI 2.0, which knows no null, `const`, `anyOf` and `examples`."""
    if isinstance(schema, list):
        return [_as_swagger(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema and isinstance(schema["properties"], dict):
        names = {name: _as_swagger(value) for name, value in schema["properties"].items()}
        rest = {key: value for key, value in schema.items() if key != "properties"}
        return _as_swagger(rest) | {"properties": names}
    alternatives = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    kept = {key: _as_swagger(value) for key, value in schema.items() if key not in ("anyOf", "examples", "const")}
    if kept.get("default", "") is None:
        del kept["default"]
    if "const" in schema:
        kept |= {"type": "string", "enum": [schema["const"]]}
    if "anyOf" in schema:
        if len(alternatives) == 1:
            kept |= _as_swagger(alternatives[0])  # several alternatives become any value
        if len(alternatives) < len(schema["anyOf"]):
            kept["x-nullable"] = True
    return kept


def main(arguments: list[str] | None = None) -> int:
    """Write or compare the files; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flow_worker.gateway.connector")
    parser.add_argument("folder", type=Path, help="the folder of the files; in the repository, clients/connector")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    options = parser.parse_args(arguments)
    stale = [name for name, text in documents().items() if _read(options.folder / name) != text]
    if not options.check:
        options.folder.mkdir(parents=True, exist_ok=True)
        for name, text in documents().items():
            (options.folder / name).write_text(text, encoding="utf-8", newline="\n")
        return 0
    for name in stale:
        sys.stderr.write(f"{options.folder / name} is out of date: run `make schema` and commit the result\n")
    return 1 if stale else 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
