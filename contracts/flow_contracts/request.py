"""The request to run a flow, `flow-request/1`: its model, and both ways between model and message."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, SecretStr, ValidationError

from flow_contracts import jsontext
from flow_contracts.message import MAX_ID_CHARACTERS, Message, PropertyValue, fits_id

CONTRACT = "flow-request/1"
CONTENT_TYPE = "application/json"

MAX_BODY_BYTES = 1 << 20
"""As much as azure-servicebus for Python receives in one message (its links say max-message-size 1 MiB)."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, version 00 and whatever keeps its form."""


InvalidRequestCode = Literal[
    "malformed_request",
    "unsupported_contract",
    "unsupported_format",
    "input_truncated",
    "organization_unknown",
    "message_not_mapped",
]


class InvalidRequest(Exception):
    """The request can be answered but not understood; `message` is safe to show and quotes no value of the request."""

    def __init__(self, code: InvalidRequestCode, message: str, *, address: ReplyAddress | None = None) -> None:
        super().__init__(message)
        self.code: InvalidRequestCode = code
        self.message = message
        self.address = address
        """Where the answer belongs, if it is the body that says it; None if the broker's properties do."""


class Unanswerable(Exception):
    """The request names no usable place for its result; `reason` is fit to be a dead-letter reason."""

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(description)
        self.reason = reason
        self.description = description


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """Where the result of a request belongs. It can be told even if the request's body is beyond reading."""

    message_id: str
    correlation_id: str
    session_id: str
    queue: str | None
    """The reply queue as asked; None leaves it to the worker's settings."""

    @classmethod
    def of(cls, message: Message) -> Self:
        """Read the broker's properties with their defaults. Raises `Unanswerable`."""
        if not message.message_id:
            raise Unanswerable(
                "message_id_missing", "The request has no message ID: set one that is unique to the request."
            )
        correlation_id = message.correlation_id or message.message_id
        session_id = message.reply_to_session_id or correlation_id
        _require_short("message ID", message.message_id)
        _require_short("correlation ID", correlation_id)
        _require_short("reply-to session ID", session_id)
        return cls(message.message_id, correlation_id, session_id, message.reply_to or None)


def _require_short(name: str, value: str) -> None:
    if not fits_id(value):
        reason = re.sub(r"\W", "_", name).lower() + "_too_long"
        raise Unanswerable(reason, f"The request's {name} is longer than {MAX_ID_CHARACTERS} characters: shorten it.")


def _id(value: str) -> str:
    if not fits_id(value):
        raise ValueError(f"must have at most {MAX_ID_CHARACTERS} characters")
    return value


Id = Annotated[str, Field(min_length=1), AfterValidator(_id)]
"""A message, session or correlation ID that Service Bus takes."""


class RequestBody(BaseModel):
    """What the body of a request message says, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, title="Flow request")

    flow: str = Field(
        min_length=1,
        max_length=128,
        description="Name of the flow, as the worker's registry has it.",
        examples=["create-quote"],
    )
    input: JsonValue = Field(  # whoever reads a body has made sure that it is JSON
        default=None,
        repr=False,
        description=f"What the flow's trigger gets as its body: any JSON, at most {jsontext.MAX_DEPTH} levels deep.",
        examples=[{"customer": "Contoso", "amount": 1250}],
    )
    claim: SecretStr | None = Field(
        default=None,
        min_length=1,
        max_length=1 << 16,
        description="Proof of who sends this: a token for the worker's own audience. Never logged, never answered.",
    )
    on_behalf_of: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="The user for whom a trusted sender asks; refused from senders who may not name another.",
    )


class FlowRequest(RequestBody):
    """A request with its broker properties: everything the worker needs to run the flow and to answer."""

    input: jsontext.Json = Field(default=None, repr=False)
    message_id: Id = Field(description="The idempotency key.")
    correlation_id: Id
    reply_to: str | None = None
    reply_to_session_id: Id
    time_to_live: timedelta | None = Field(default=None, gt=timedelta(0))
    traceparent: str | None = None

    @property
    def address(self) -> ReplyAddress:
        """Where the result belongs."""
        return ReplyAddress(self.message_id, self.correlation_id, self.reply_to_session_id, self.reply_to)

    def to_message(self) -> Message:
        """The message to send, claim included."""
        body: dict[str, JsonValue] = {"flow": self.flow, "input": self.input}
        if self.claim is not None:
            body["claim"] = self.claim.get_secret_value()
        if self.on_behalf_of is not None:
            body["on_behalf_of"] = self.on_behalf_of
        properties: dict[str, PropertyValue] = {"contract": CONTRACT}
        if self.traceparent is not None:
            properties["traceparent"] = self.traceparent
        return Message(
            body=jsontext.dump(body),
            content_type=CONTENT_TYPE,
            message_id=self.message_id,
            correlation_id=self.correlation_id,
            reply_to=self.reply_to,
            reply_to_session_id=self.reply_to_session_id,
            subject=self.flow,
            time_to_live=self.time_to_live,
            application_properties=properties,
        )

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read a request. Raises `Unanswerable` if its result would have no place, else `InvalidRequest`."""
        address = ReplyAddress.of(message)
        _require_contract(message)
        body = _read_body(message.body)
        return cls(
            **dict(body),
            message_id=address.message_id,
            correlation_id=address.correlation_id,
            reply_to=address.queue,
            reply_to_session_id=address.session_id,
            time_to_live=message.time_to_live or None,
            traceparent=_traceparent(message),
        )


def digest(flow: str, value: JsonValue, on_behalf_of: str | None) -> str:
    """What a claim may be bound to instead of the message ID: SHA-256, in hex, over what is asked.

    Of `{"flow": …, "input": …, "on_behalf_of": …}` (the last only if it is given) as JSON in UTF-8 with sorted keys, no
    spaces and no escapes but those JSON needs. Senders in other languages had better bind to the message ID: languages
    differ in how they write numbers.
    """
    asked: dict[str, JsonValue] = {"flow": flow, "input": value}
    if on_behalf_of is not None:
        asked["on_behalf_of"] = on_behalf_of
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _require_contract(message: Message) -> None:
    if message.application_properties.get("contract") != CONTRACT:
        raise InvalidRequest(
            "unsupported_contract",
            f"The application property 'contract' must be '{CONTRACT}'; it is missing or says something else.",
        )


def _read_body(data: bytes) -> RequestBody:
    if len(data) > MAX_BODY_BYTES:
        raise InvalidRequest(
            "malformed_request", f"The body has {len(data)} bytes, more than the {MAX_BODY_BYTES} a request may have."
        )
    try:
        document = jsontext.parse(data, max_depth=jsontext.MAX_DEPTH + 1)
    except jsontext.NotJson as error:
        raise InvalidRequest("malformed_request", f"The body {error}; it must be one JSON object.") from None
    if not isinstance(document, dict):
        raise InvalidRequest("malformed_request", "The body must be a JSON object with at least the field 'flow'.")
    try:
        return RequestBody.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest("malformed_request", explain(error)) from None


def explain(error: ValidationError) -> str:
    """Which fields of a request are wrong and how, without a word of what they held."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        field = str(problem["loc"][0])[:64]
        if problem["type"] == "extra_forbidden":
            problems.append(f"unknown field {field!r} (allowed: {', '.join(RequestBody.model_fields)})")
        else:
            problems.append(f"field {field!r}: {problem['msg'].removeprefix('Value error, ')}")
    return f"This is not a flow request: {'; '.join(problems[:5])}."


def _traceparent(message: Message) -> str | None:
    """The sender's trace, also as azure-servicebus's own instrumentation writes it; a malformed one is no trace."""
    for name in ("traceparent", "Diagnostic-Id"):
        value = message.application_properties.get(name)
        if isinstance(value, str) and _TRACEPARENT.fullmatch(value):
            return value
    return None
