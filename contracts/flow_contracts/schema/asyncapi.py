"""Builds the AsyncAPI 3.0 document: the queues, their messages, and the correlation of results with requests.

`headers` of a message are its AMQP 1.0 sections (part 3, 3.2), under the names of the standard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import models_json_schema

from flow_contracts.message import MAX_ID_CHARACTERS, Message
from flow_contracts.reply_key import KEY_PATTERN, KEY_PROPERTY, MAC_PROPERTY
from flow_contracts.request import CONTRACT as REQUEST_CONTRACT
from flow_contracts.request import RequestBody
from flow_contracts.result import CONTRACT as RESULT_CONTRACT
from flow_contracts.result import FlowResult, Status
from flow_contracts.schema import examples
from flow_contracts.trace_context import TRACEPARENT

Document = dict[str, JsonValue]

_DESCRIPTION = """\
Starts Power Automate flows by messages over Azure Service Bus. This document describes the **sender**: the messages
that a front end or a plug-in posts and receives.

Post a flow request to a request queue. The worker checks the sender's rights, calls the flow, and publishes exactly one
flow result to the reply queue. The result has the request's correlation ID, and the session that the request names.\
"""


def asyncapi() -> Document:
    """Build the document."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:flow-worker",
        "info": {"title": "flow-worker", "version": "1.0.0", "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": {"flowRequests": _requests_channel(), "flowReplies": _replies_channel()},
        "operations": _operations(),
        "components": {
            "messages": {"flowRequest": _request_message(), "flowResult": _result_message()},
            "messageTraits": {"correlated": _correlated()},
            "schemas": _schemas(),
            "securitySchemes": _security_schemes(),
        },
    }


def _servers() -> Document:
    return {
        "azure": {
            "host": "{namespace}.servicebus.windows.net:5671",
            "protocol": "amqps",
            "protocolVersion": "1.0",
            "description": "Azure Service Bus. AMQP over WebSocket on port 443 works as well.",
            "variables": {"namespace": {"description": "The Service Bus namespace."}},
            "security": [_ref("components", "securitySchemes", name) for name in _security_schemes()],
        },
        "emulator": {
            "host": "localhost:5672",
            "protocol": "amqp",
            "protocolVersion": "1.0",
            "description": "The emulator on a developer's machine.",
            "security": [_ref("components", "securitySchemes", "sharedAccessSignature")],
        },
    }


def _security_schemes() -> Document:
    return {
        "entra": {
            "type": "oauth2",
            "description": (
                "A Microsoft Entra ID token. The identity needs Azure Service Bus Data Sender on the request queue "
                "and Azure Service Bus Data Receiver on the reply queue."
            ),
            "flows": {
                "clientCredentials": {
                    "tokenUrl": "https://login.microsoftonline.com/organizations/oauth2/v2.0/token",
                    "availableScopes": {"https://servicebus.azure.net/.default": "Service Bus, by role assignment"},
                }
            },
        },
        "sharedAccessSignature": {
            "type": "userPassword",
            "description": "Name and key of a shared access policy. The SDKs sign a token for each queue with the key.",
        },
    }


def _requests_channel() -> Document:
    return {
        "address": "flow-requests",
        "title": "Request queue",
        "description": (
            "Holds flow requests. It needs no sessions. With duplicate detection, a request posted twice under one "
            "message ID runs once."
        ),
        "messages": {"flowRequest": _ref("components", "messages", "flowRequest")},
    }


def _replies_channel() -> Document:
    return {
        "address": "flow-replies",
        "title": "Reply queue",
        "description": (
            "Holds flow results in sessions. The session of a result is the request's reply-to-group-id. Its default "
            "is the correlation ID, whose default is the message ID. Accept the session; then peek to read the result, "
            "or receive and complete to take it. A session has one reader at a time. Anyone who may listen here and "
            "knows or lists session IDs can read results, so use random IDs."
        ),
        "messages": {"flowResult": _ref("components", "messages", "flowResult")},
    }


def _operations() -> Document:
    return {
        "submitRequest": {
            "action": "send",
            "title": "Request a flow run",
            "channel": _ref("channels", "flowRequests"),
            "messages": [_ref("channels", "flowRequests", "messages", "flowRequest")],
            "reply": {
                "channel": _ref("channels", "flowReplies"),
                "messages": [_ref("channels", "flowReplies", "messages", "flowResult")],
            },
        },
        "receiveResult": {
            "action": "receive",
            "title": "Receive the result",
            "channel": _ref("channels", "flowReplies"),
            "messages": [_ref("channels", "flowReplies", "messages", "flowResult")],
        },
    }


def _request_message() -> Document:
    properties: Document = {
        "message-id": _id("The idempotency key: unique to the request, and the same if the sender posts it again."),
        "correlation-id": _id("The correlation ID of the result. Default: the message ID."),
        "reply-to": _string("A reply queue that the worker's settings allow. Default: the first of them."),
        "reply-to-group-id": _id("The session of the result. Default: the correlation ID."),
        "content-type": _string("application/json"),
        "subject": _string("The flow's name, for a person who inspects the queue."),
    }
    application: Document = {
        "contract": {"const": REQUEST_CONTRACT, "description": "Name and version of this contract."},
        TRACEPARENT: _string("W3C trace context. The worker also reads the SDKs' own property Diagnostic-Id."),
        KEY_PROPERTY: {
            "type": "string",
            "pattern": f"^{KEY_PATTERN}$",
            "description": (
                "A secret of the sender, with at least 128 random bits. The result then has a MAC under it. Use a new "
                "key for each request."
            ),
        },
    }
    return _message(
        RequestBody,
        "Flow request",
        _sections(properties, ["message-id"], application, ["contract"]),
        examples.requests(),
    )


def _result_message() -> Document:
    properties: Document = {
        "message-id": _id("The same for each copy of a result, so that duplicate detection drops the second one."),
        "correlation-id": _id("The request's correlation ID."),
        "group-id": _id("The session: the request's reply-to-group-id."),
        "content-type": {"const": "application/json"},
        "subject": _string("The flow's name."),
    }
    application: Document = {
        "contract": {"const": RESULT_CONTRACT, "description": "Name and version of this contract."},
        "status": {"enum": [status.value for status in Status], "description": "The payload's status."},
        "flow": _string("The payload's flow; absent if the worker could not read the request."),
        "settled_by": _string("The payload's settled_by; absent unless the result settles an unknown one."),
        TRACEPARENT: _string("W3C trace context of the worker's send operation. The MAC does not cover it."),
        MAC_PROPERTY: {
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": (
                f"Present if the request has a {KEY_PROPERTY}: HMAC-SHA256, in lower-case hexadecimal, with the ASCII "
                "bytes of that key, over the contract, a line feed, the message-id, a line feed, and the bytes of the "
                "body. Ignore a result with a missing or wrong MAC."
            ),
        },
    }
    required = ["message-id", "correlation-id", "group-id", "content-type"]
    return _message(
        FlowResult,
        "Flow result",
        _sections(properties, required, application, ["contract", "status"]),
        examples.results(),
    )


def _message(model: type[BaseModel], title: str, headers: Document, messages: Mapping[str, Message]) -> Document:
    return {
        "name": title.replace(" ", "-").lower(),
        "title": title,
        "summary": (model.__doc__ or "").splitlines()[0],
        "contentType": "application/json",
        "traits": [_ref("components", "messageTraits", "correlated")],
        "headers": headers,
        "payload": _ref("components", "schemas", model.__name__),
        "examples": [_example(name, message) for name, message in messages.items()],
    }


def _sections(
    properties: Document, required_properties: list[str], application: Document, required_application: list[str]
) -> Document:
    return {
        "type": "object",
        "required": ["properties", "application-properties"],
        "properties": {
            "header": {
                "type": "object",
                "properties": {
                    "ttl": {
                        "type": "integer",
                        "minimum": 1,
                        "description": "Time to live in milliseconds. Default: the queue's.",
                    }
                },
            },
            "properties": {"type": "object", "required": [*required_properties], "properties": properties},
            "application-properties": {
                "type": "object",
                "required": [*required_application],
                "properties": application,
            },
        },
    }


def _example(name: str, message: Message) -> Document:
    properties: Document = {
        "message-id": message.message_id,
        "correlation-id": message.correlation_id,
        "group-id": message.session_id,
        "reply-to": message.reply_to,
        "reply-to-group-id": message.reply_to_session_id,
        "content-type": message.content_type,
        "subject": message.subject,
    }
    headers: Document = {
        "properties": {key: value for key, value in properties.items() if value is not None},
        "application-properties": dict(message.application_properties),
    }
    if message.time_to_live is not None:
        headers["header"] = {"ttl": int(message.time_to_live.total_seconds() * 1000)}
    return {"name": name, "headers": headers, "payload": json.loads(message.body)}


def _correlated() -> Document:
    return {
        "correlationId": {
            "location": "$message.header#/properties/correlation-id",
            "description": "The same value in the request and the result. The flow run has it in "
            "x-ms-client-tracking-id, or a hash if it has other characters than letters, digits, '.', '_' and '-'.",
        }
    }


def _schemas() -> Document:
    _, shared = models_json_schema(
        [(RequestBody, "validation"), (FlowResult, "validation")], ref_template="#/components/schemas/{model}"
    )
    schemas: Document = shared["$defs"]
    return schemas


def _id(description: str) -> Document:
    return {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS, "description": description}


def _string(description: str) -> Document:
    return {"type": "string", "description": description}


def _ref(*steps: str) -> Document:
    return {"$ref": "#/" + "/".join(steps)}
