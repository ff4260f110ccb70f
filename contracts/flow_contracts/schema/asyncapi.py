"""The AsyncAPI 3.0 document: the queues, what travels over them, and how a result finds its request.

`headers` of a message are its AMQP 1.0 sections (part 3, 3.2), under the names the standard gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import models_json_schema

from flow_contracts.message import MAX_ID_CHARACTERS, Message
from flow_contracts.request import CONTRACT as REQUEST_CONTRACT
from flow_contracts.request import RequestBody
from flow_contracts.result import CONTRACT as RESULT_CONTRACT
from flow_contracts.result import FlowResult, Status
from flow_contracts.schema import examples

Document = dict[str, JsonValue]

_DESCRIPTION = """\
Starts Power Automate flows by messages over Azure Service Bus. This document describes the **sender**: what a front
end or a plug-in posts, and what it gets back.

Post a flow request to a request queue. The worker checks what the sender may do, calls the flow, and publishes exactly
one flow result to the reply queue, under the request's correlation ID and in the session the request asked for.\
"""


def asyncapi() -> Document:
    """The document."""
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
            "description": "Azure Service Bus. AMQP over WebSocket on port 443 serves as well.",
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
            "description": "Key name and key of a shared access policy; the SDKs sign a token for each queue with it.",
        },
    }


def _requests_channel() -> Document:
    return {
        "address": "flow-requests",
        "title": "Request queue",
        "description": (
            "Takes flow requests. It needs no sessions. With duplicate detection, a request posted twice under one "
            "message ID runs once."
        ),
        "messages": {"flowRequest": _ref("components", "messages", "flowRequest")},
    }


def _replies_channel() -> Document:
    return {
        "address": "flow-replies",
        "title": "Reply queue",
        "description": (
            "Holds flow results in sessions. A result stands in the session named by the request's "
            "reply-to-group-id; by default that is the correlation ID, and by default that is the message ID. "
            "Accept the session and peek to look, or receive and complete to take. One reader at a time can hold a "
            "session. Whoever may listen here and knows or lists session IDs can read results: use random ones."
        ),
        "messages": {"flowResult": _ref("components", "messages", "flowResult")},
    }


def _operations() -> Document:
    return {
        "submitRequest": {
            "action": "send",
            "title": "Ask for a flow to be run",
            "channel": _ref("channels", "flowRequests"),
            "messages": [_ref("channels", "flowRequests", "messages", "flowRequest")],
            "reply": {
                "channel": _ref("channels", "flowReplies"),
                "messages": [_ref("channels", "flowReplies", "messages", "flowResult")],
            },
        },
        "receiveResult": {
            "action": "receive",
            "title": "Look for the result",
            "channel": _ref("channels", "flowReplies"),
            "messages": [_ref("channels", "flowReplies", "messages", "flowResult")],
        },
    }


def _request_message() -> Document:
    properties: Document = {
        "message-id": _id("The idempotency key: unique to the request, the same when it is posted again."),
        "correlation-id": _id("What the result will carry. Default: the message ID."),
        "reply-to": _string("The reply queue, one of those the worker allows. Default: the worker's settings."),
        "reply-to-group-id": _id("The session of the result. Default: the correlation ID."),
        "content-type": _string("application/json"),
        "subject": _string("The flow's name, for people who look into the queue."),
    }
    application: Document = {
        "contract": {"const": REQUEST_CONTRACT, "description": "Name and version of this contract."},
        "traceparent": _string("W3C trace context. The SDKs' own Diagnostic-Id is read as well."),
    }
    return _message(
        RequestBody,
        "Flow request",
        _sections(properties, ["message-id"], application, ["contract"]),
        examples.requests(),
    )


def _result_message() -> Document:
    properties: Document = {
        "message-id": _id("The same for the same request, so that duplicate detection drops a second copy."),
        "correlation-id": _id("The request's correlation ID."),
        "group-id": _id("The session: the request's reply-to-group-id."),
        "content-type": {"const": "application/json"},
        "subject": _string("The flow's name."),
    }
    application: Document = {
        "contract": {"const": RESULT_CONTRACT, "description": "Name and version of this contract."},
        "status": {"enum": [status.value for status in Status], "description": "As in the payload."},
        "flow": _string("As in the payload; absent if the request could not be read."),
    }
    required = ["message-id", "correlation-id", "group-id", "content-type"]
    return _message(
        FlowResult,
        "Flow result",
        _sections(properties, required, application, ["contract", "status"]),
        examples.results(),
    )


def _message(model: type[BaseModel], title: str, headers: Document, shown: Mapping[str, Message]) -> Document:
    return {
        "name": title.replace(" ", "-").lower(),
        "title": title,
        "summary": (model.__doc__ or "").splitlines()[0],
        "contentType": "application/json",
        "traits": [_ref("components", "messageTraits", "correlated")],
        "headers": headers,
        "payload": _ref("components", "schemas", model.__name__),
        "examples": [_example(name, message) for name, message in shown.items()],
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
            "description": "One value from the request through the flow's run (x-ms-client-tracking-id) to the result.",
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
