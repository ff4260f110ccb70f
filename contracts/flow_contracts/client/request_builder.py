"""Builds a request from the arguments of `submit`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import TypedDict

from pydantic import JsonValue, SecretStr, ValidationError

from flow_contracts.request import FlowRequest, InvalidRequest, describe_problems


class RequestOptions(TypedDict, total=False):
    """The optional arguments of `submit`."""

    claim: SecretStr | str | None
    """Proof of the sender: a token for the worker's own audience."""
    on_behalf_of: str | None
    """The user for whom a trusted sender sends the request."""
    message_id: str | None
    """The idempotency key, at most 128 characters; by default a random UUID."""
    correlation_id: str | None
    """The key of the result, at most 128 characters; by default a random UUID.

    Anybody who can guess it and may listen to the reply queue can read the result.
    """
    time_to_live: timedelta | None
    """After this time the worker does not run the request any more; by default the queue's time to live."""
    reply_key: SecretStr | str | None
    """The key under which the worker authenticates the result; by default the client derives one from a random secret.

    A program that reads the result in another process, or sends the same request again from one, makes the key with
    `new_reply_key`, keeps it beside the message ID, and keeps it secret.
    """
    traceparent: str | None
    """The W3C trace context that the worker continues; by default that of the current OpenTelemetry span."""


def build_request(
    flow: str,
    value: JsonValue,
    options: RequestOptions,
    *,
    reply_to: str,
    key_for: Callable[[str, str | None], SecretStr],
    session_id: str | None = None,
) -> FlowRequest:
    """Build the request; its result goes to `session_id` (default: the correlation ID). Raises `InvalidRequest`.

    `key_for` returns the default reply key for a correlation ID and the sender's message ID. The same request that is
    sent again must keep its key: duplicate detection may drop the second message, and the result then has a MAC under
    the key of the first.
    """
    claim, reply_key = options.get("claim"), options.get("reply_key")
    correlation_id = options.get("correlation_id") or str(uuid.uuid4())
    if reply_key is None:
        reply_key = key_for(correlation_id, options.get("message_id"))
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
            reply_key=SecretStr(reply_key) if isinstance(reply_key, str) else reply_key,
        )
    except ValidationError as error:  # `from None`: pydantic's error quotes the values, the claim among them
        raise InvalidRequest("malformed_request", describe_problems(error)) from None
