"""How a sender's call becomes a request."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TypedDict

from pydantic import JsonValue, SecretStr, ValidationError

from flow_contracts.request import FlowRequest, InvalidRequest, explain


class Options(TypedDict, total=False):
    """What may be said about a request beside its flow and input."""

    claim: SecretStr | str | None
    """Proof of who asks: a token for the worker's own audience."""
    on_behalf_of: str | None
    message_id: str | None
    """The idempotency key, at most 128 characters; by default a random UUID."""
    correlation_id: str | None
    """What the result is found by, at most 128 characters; by default a random UUID. Who can guess it and may listen
    to the reply queue can read the result."""
    time_to_live: timedelta | None
    """How long the request is worth running; by default as long as the queue keeps it."""
    traceparent: str | None
    """W3C trace context to go on with."""


def request_of(
    flow: str, value: JsonValue, options: Options, *, reply_to: str, session_id: str | None = None
) -> FlowRequest:
    """The request, its result to go to `session_id` (default: the correlation ID). Raises `InvalidRequest`."""
    claim = options.get("claim")
    correlation_id = options.get("correlation_id") or str(uuid.uuid4())
    try:
        return FlowRequest(
            flow=flow,
            input=value,
            claim=SecretStr(claim) if isinstance(claim, str) else claim,
            on_behalf_of=options.get("on_behalf_of"),
            message_id=options.get("message_id") or str(uuid.uuid4()),
            correlation_id=correlation_id,
            reply_to=reply_to,
            reply_to_session_id=session_id or correlation_id,
            time_to_live=options.get("time_to_live"),
            traceparent=options.get("traceparent"),
        )
    except ValidationError as error:
        raise InvalidRequest("malformed_request", explain(error)) from None
