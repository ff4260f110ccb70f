"""A request that goes on later: what waits in the continuation queue, and when it is due.

A retry or a poll is a scheduled message in a queue that only the worker may send to, never a sleeping lane. It carries
what was proven already (the principal), so it needs no second proof; only what was not proven yet carries its claim on.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from contracts import jsontext
from contracts.message import Message
from contracts.request import ReplyAddress
from contracts.result import FlowRun
from worker.access.principal import Principal

CONTRACT = "flow-continuation/1"
CONTENT_TYPE = "application/json"


class InvalidContinuation(Exception):
    """The message is no continuation that this version can read: it did not come from a worker like this one."""


class Continuation(BaseModel):
    """One request and how far it has come."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    origin: str
    """The broker's own identity of the message that began it: queue, sequence number, enqueue time."""
    number: Annotated[int, Field(ge=0)]
    """Which step of its request this is; 0 is the request itself."""
    kind: Literal["call", "poll"] = "call"
    request_queue: str
    flow: str
    input: jsontext.Json = Field(default=None, repr=False)
    input_hash: str
    """Of the input, which a poll does not carry any more."""
    claim: SecretStr | None = None
    """Only while `principal` is not known."""
    on_behalf_of: str | None = None
    principal: Principal | None = None
    message_id: str
    correlation_id: str
    reply_to: str | None = None
    reply_to_session_id: str
    traceparent: str | None = None
    accepted: AwareDatetime
    """When the broker enqueued the request: its claim is judged then."""
    expires_at: AwareDatetime | None = None
    calls: Annotated[int, Field(ge=0)] = 0
    """Calls made so far."""
    waits: Annotated[int, Field(ge=0)] = 0
    """How often this step was put off: nothing was called, so nothing was journalled."""
    code: str | None = None
    cause: str | None = None
    """Why it waits."""
    fresh_token: bool = False
    started: AwareDatetime | None = None
    status_url: SecretStr | None = None
    run: FlowRun | None = None

    @field_serializer("claim", "status_url", when_used="json")
    def _in_clear(self, secret: SecretStr | None) -> str | None:
        """In the message itself it must be readable; everywhere else it stays masked."""
        return secret.get_secret_value() if secret else None

    @property
    def address(self) -> ReplyAddress:
        """Where the result belongs."""
        return ReplyAddress(self.message_id, self.correlation_id, self.reply_to_session_id, self.reply_to)

    def to_message(self) -> Message:
        """The message to schedule; scheduling it twice is scheduling it once."""
        return Message(
            body=self.model_dump_json(exclude_none=True).encode(),
            content_type=CONTENT_TYPE,
            message_id=self.continuation_id,
            correlation_id=self.correlation_id,
            subject=self.flow,
            application_properties={"contract": CONTRACT},
        )

    @property
    def continuation_id(self) -> str:
        """The one message ID of this continuation, so that duplicate detection drops a second copy of it.

        It follows from what the broker gave the request, not from what its sender wrote: no sender can make another's
        continuation look like a copy.
        """
        key = jsontext.dump([self.origin, self.message_id, self.number, self.waits])
        return f"continuation-{hashlib.sha256(key).hexdigest()}"

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read a continuation. Raises `InvalidContinuation`."""
        if message.application_properties.get("contract") != CONTRACT:
            raise InvalidContinuation(f"the application property 'contract' is not '{CONTRACT}'")
        try:
            return cls.model_validate_json(message.body)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(step) for step in problem["loc"])[:128]
            raise InvalidContinuation(f"'{where}': {problem['msg']}") from None
