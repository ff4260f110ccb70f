"""The request to run a flow, `flow-request/1`: its model, and its conversion to and from a message."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    field_validator,
)

from flow_contracts import strict_json
from flow_contracts.claim import clean_claim
from flow_contracts.message import MAX_ID_CHARACTERS, Message, PropertyValue, fits_id, property_of
from flow_contracts.reply_key import KEY_PROPERTY, RULE, ReplyKey, read_reply_key
from flow_contracts.request_body import NotOneObject, parse_object
from flow_contracts.trace_context import TRACEPARENT, read_traceparent

CONTRACT = "flow-request/1"
CONTENT_TYPE = "application/json"

_MAX_FIELDS = 20
"""More fields than a request has. A body with more is refused for one of them."""

InvalidRequestCode = Literal[
    "malformed_request",
    "unsupported_contract",
    "unsupported_format",
    "input_truncated",
]


class InvalidRequest(Exception):
    """The request is invalid, but its reply address is readable, so its sender gets a result that says so.

    The opposite case is `Unanswerable`. `message` quotes no value of the request, so it may appear in the result.
    """

    def __init__(self, code: InvalidRequestCode, message: str, *, address: ReplyAddress | None = None) -> None:
        super().__init__(message)
        self.code: InvalidRequestCode = code
        self.message = message
        self.address = address
        """The reply address, if only the body contains it; None if it follows from the broker properties."""


class Unanswerable(Exception):
    """The request has no usable reply address, so no result can reach its sender: the message must be dead-lettered.

    `reason` and `description` are the dead-letter reason and description.
    """

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(description)
        self.reason = reason
        self.description = description


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """The reply address of a request. It is readable even if the request's body is not."""

    message_id: str
    correlation_id: str
    session_id: str
    queue: str | None
    """The reply queue that the sender names; None leaves it to the worker's settings."""
    reply_key: SecretStr | None = field(default=None, repr=False)
    """The key under which the worker authenticates the result; None if the sender names none."""

    @classmethod
    def of(cls, message: Message) -> Self:
        """Derive the address from the broker properties and their defaults. Raises `Unanswerable`."""
        if not message.message_id:
            raise Unanswerable(
                "message_id_missing", "The request has no message ID: set a message ID that is unique to the request."
            )
        correlation_id = message.correlation_id or message.message_id
        session_id = message.reply_to_session_id or correlation_id
        _require_short("message ID", message.message_id)
        _require_short("correlation ID", correlation_id)
        _require_short("reply-to session ID", session_id)
        reply_key = read_reply_key(property_of(message, KEY_PROPERTY))
        return cls(message.message_id, correlation_id, session_id, message.reply_to or None, reply_key)


def _require_short(name: str, value: str) -> None:
    if not fits_id(value):
        reason = re.sub(r"\W", "_", name).lower() + "_too_long"
        raise Unanswerable(reason, f"The request's {name} is longer than {MAX_ID_CHARACTERS} characters: shorten it.")


def _validate_id(value: str) -> str:
    if not fits_id(value):
        raise ValueError(f"must have at most {MAX_ID_CHARACTERS} characters")
    return value


Id = Annotated[str, Field(min_length=1), AfterValidator(_validate_id)]
"""A message, session or correlation ID that Service Bus accepts."""


MAX_FLOW_NAME_LENGTH = 128


def _validate_input(value: JsonValue) -> JsonValue:
    return strict_json.validate(value, max_values=strict_json.MAX_VALUES)


class RequestBody(BaseModel):
    """The JSON body of a request message."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, title="Flow request")

    flow: str = Field(
        min_length=1,
        max_length=MAX_FLOW_NAME_LENGTH,
        description="Name of the flow in the worker's registry.",
        examples=["create-quote"],
    )
    input: JsonValue = Field(  # not strict_json.Json: `_read_body` has already checked the whole body
        default=None,
        repr=False,
        description=f"The body for the flow's trigger: any JSON value of at most {strict_json.MAX_DEPTH} levels. "
        f"The body may have {strict_json.MAX_VALUES} values.",
        examples=[{"customer": "Contoso", "amount": 1250}],
    )
    claim: SecretStr | None = Field(
        default=None,
        min_length=1,
        max_length=1 << 16,
        description="Proof of the sender: a token for the worker's audience. No log and no result contains it.",
    )
    on_behalf_of: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="The user for whom a trusted sender acts. The worker refuses it from every other sender.",
    )

    @field_validator("claim", mode="after")
    @classmethod
    def _clean_claim(cls, claim: SecretStr | None) -> SecretStr | None:
        """Take a claim for what it is although its sender copied more than the token."""
        if claim is None:
            return None
        text = claim.get_secret_value()
        token = clean_claim(text)
        if not token:
            raise ValueError("has no token")
        return claim if token is text else SecretStr(token)


class FlowRequest(RequestBody):
    """A request with its broker properties: everything that the worker needs to call the flow and to reply."""

    input: Annotated[JsonValue, AfterValidator(_validate_input)] = Field(default=None, repr=False)
    message_id: Id = Field(description="The idempotency key.")
    correlation_id: Id
    reply_to: str | None = None
    reply_to_session_id: Id
    time_to_live: timedelta | None = Field(default=None, gt=timedelta(0))
    traceparent: str | None = None
    reply_key: ReplyKey | None = None

    @property
    def address(self) -> ReplyAddress:
        """The reply address."""
        return ReplyAddress(
            self.message_id, self.correlation_id, self.reply_to_session_id, self.reply_to, self.reply_key
        )

    def to_message(self) -> Message:
        """Build the message to send, with the claim and the reply key."""
        body: dict[str, JsonValue] = {"flow": self.flow, "input": self.input}
        if self.claim is not None:
            body["claim"] = self.claim.get_secret_value()
        if self.on_behalf_of is not None:
            body["on_behalf_of"] = self.on_behalf_of
        properties: dict[str, PropertyValue] = {"contract": CONTRACT}
        if self.traceparent is not None:
            properties[TRACEPARENT] = self.traceparent
        if self.reply_key is not None:
            properties[KEY_PROPERTY] = self.reply_key.get_secret_value()
        return Message(
            body=strict_json.dump(body),
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
        """Parse a request. Raises `Unanswerable` if no result can reach its sender, else `InvalidRequest`."""
        # The address first: every later refusal needs it to reach the sender.
        address = ReplyAddress.of(message)
        _require_contract(message)
        _require_valid_reply_key(message)
        envelope, input_ = _read_body(message)
        request = cls(
            **{name: value for name, value in envelope if name != "input"},
            message_id=address.message_id,
            correlation_id=address.correlation_id,
            reply_to=address.queue,
            reply_to_session_id=address.session_id,
            time_to_live=message.time_to_live or None,
            traceparent=read_traceparent(message),
            reply_key=address.reply_key,
        )
        return request.with_checked_input(input_)

    def with_checked_input(self, value: JsonValue) -> Self:
        """Return the request with an input that strict JSON text held. Another validation would double the cost."""
        return self.model_copy(update={"input": value})


def request_digest(flow: str, value: JsonValue, on_behalf_of: str | None) -> str:
    """Return the SHA-256 digest of a request, in hexadecimal. A claim may be bound to it instead of the message ID.

    The digest covers `{"flow": …, "input": …, "on_behalf_of": …}`, the last field only if present. The form is UTF-8
    JSON with sorted keys, no spaces, and only the escapes that JSON requires. Senders in other languages should bind
    the claim to the message ID instead, because languages format numbers differently.
    """
    content: dict[str, JsonValue] = {"flow": flow, "input": value}
    if on_behalf_of is not None:
        content["on_behalf_of"] = on_behalf_of
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _require_contract(message: Message) -> None:
    if property_of(message, "contract") != CONTRACT:
        raise InvalidRequest(
            "unsupported_contract",
            f"The application property 'contract' must be '{CONTRACT}'; it is missing or has another value.",
        )


def _require_valid_reply_key(message: Message) -> None:
    """Refuse a malformed key: the sender expects an authenticated result and would wait in vain for it."""
    value = property_of(message, KEY_PROPERTY)
    if value is not None and read_reply_key(value) is None:
        raise InvalidRequest("malformed_request", f"The application property '{KEY_PROPERTY}' {RULE}.")


def _read_body(message: Message) -> tuple[RequestBody, JsonValue]:
    """Return the body without its input, and the input."""
    try:
        document = parse_object(message)
    except NotOneObject as error:
        raise InvalidRequest("malformed_request", str(error)) from None
    input_ = document.pop("input", None)
    # A body may name thousands of unknown fields, and the refusal names the first ones only.
    first = dict(itertools.islice(document.items(), _MAX_FIELDS)) if len(document) > _MAX_FIELDS else document
    try:
        return RequestBody.model_validate(first), input_
    except ValidationError as error:
        raise InvalidRequest("malformed_request", describe_problems(error)) from None


def describe_problems(error: ValidationError) -> str:
    """Name the invalid fields of a request and their problems. The text quotes no value, which may be a claim."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        field = str(problem["loc"][0])[:64]  # an unknown field has a name that the sender chose
        if problem["type"] == "extra_forbidden":
            problems.append(f"unknown field {field!r} (allowed: {', '.join(RequestBody.model_fields)})")
        else:
            problems.append(f"field {field!r}: {problem['msg'].removeprefix('Value error, ')}")
    return f"This is not a flow request: {'; '.join(problems[:5])}."
