"""The result of a request, `flow-result/1`: its model, and both ways between model and message."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from enum import StrEnum
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from flow_contracts import jsontext
from flow_contracts.message import Message, PropertyValue
from flow_contracts.output import OutputEncoding, output_of

__all__ = [
    "CONTENT_TYPE",
    "CONTRACT",
    "FlowError",
    "FlowResult",
    "FlowRun",
    "InvalidResult",
    "OutputEncoding",
    "Status",
    "Times",
    "output_of",
    "reply_message_id",
]

CONTRACT = "flow-result/1"
CONTENT_TYPE = "application/json"


class InvalidResult(Exception):
    """The message is no result that this version can read; the text says what is wrong with it."""


class Status(StrEnum):
    """How a request ended; `FlowResult.status` says what each means."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


class _Part(BaseModel):
    """Readers pass over fields they do not know, so that later versions of the worker may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class FlowError(_Part):
    """Why a request did not end well."""

    code: str = Field(min_length=1, description="Stable and meant for programs.", examples=["role_missing"])
    message: str = Field(description="One sentence for a person.")
    retryable: bool = Field(default=False, description="Whether the same request may be sent again and end better.")


class FlowRun(_Part):
    """How to find the flow's run in Power Automate."""

    run_id: str | None = Field(default=None, description="The flow run's name (header x-ms-workflow-run-id).")
    tracking: dict[str, str] = Field(default_factory=dict, description="The flow's x-ms-* answer headers.")


class Times(_Part):
    """When things happened, in UTC."""

    accepted: AwareDatetime | None = Field(default=None, description="The broker enqueued the request.")
    started: AwareDatetime | None = Field(default=None, description="The flow was called; null if it never was.")
    finished: AwareDatetime | None = Field(default=None, description="The result was concluded.")


class FlowResult(_Part):
    """What became of a request: exactly one is published for each."""

    model_config = ConfigDict(title="Flow result")

    status: Status = Field(
        description=(
            "succeeded: the flow answered with success. failed: it answered with an error, or could not be reached. "
            "refused: the sender may not, or the request made no sense; no flow was called. unknown: the flow was "
            "called and may have run, but its answer is not known. expired: the time to live ran out first; no flow "
            "was called."
        )
    )
    flow: str | None = Field(default=None, description="The flow asked for; null if the request could not be read.")
    output: jsontext.Json = Field(
        default=None, repr=False, description="The body of the flow's answer, in the form `output_encoding` names."
    )
    output_type: str | None = Field(default=None, description="The media type of the flow's answer.")
    output_encoding: OutputEncoding | None = Field(
        default=None, description="How `output` is to be read; null if there is none."
    )
    http_status: int | None = Field(default=None, description="The flow's HTTP status; null if it did not answer.")
    error: FlowError | None = Field(default=None, description="Why it did not end well; null if it did.")
    note: str | None = Field(
        default=None,
        description=(
            "A code that says more about a success; accepted_without_response: the flow took the call and goes on by "
            "itself, it has no response to give."
        ),
    )
    attempts: int = Field(default=0, ge=0, description="How often the flow was called.")
    run: FlowRun | None = Field(default=None, description="The flow's run; null if the flow did not answer.")
    times: Times = Times()
    correlation_id: str = Field(min_length=1, description="The request's correlation ID.")
    request_message_id: str = Field(min_length=1, description="The request's message ID.")
    replay_of: str | None = Field(
        default=None, description="The message ID its sender gave a request that a person replayed under another."
    )
    run_for: str | None = Field(
        default=None, description="Object ID of the user the flow was run for; null if nobody was proven."
    )

    def to_message(self, session_id: str, time_to_live: timedelta, *, variant: str = "") -> Message:
        """The message to publish in the session `session_id`; publishing it twice is publishing it once.

        `variant` tells apart the results of two requests with the same IDs.
        """
        properties: dict[str, PropertyValue] = {"contract": CONTRACT, "status": self.status.value}
        if self.flow is not None:
            properties["flow"] = self.flow
        return Message(
            body=self._body(),
            content_type=CONTENT_TYPE,
            message_id=reply_message_id(self.request_message_id, self.correlation_id, session_id, variant),
            correlation_id=self.correlation_id,
            session_id=session_id,
            subject=self.flow,
            time_to_live=time_to_live,
            application_properties=properties,
        )

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read a result. Raises `InvalidResult`."""
        if message.application_properties.get("contract") != CONTRACT:
            raise InvalidResult(f"the application property 'contract' is not '{CONTRACT}'")
        try:
            return cls.model_validate_json(_normalised(message.body), strict=True)
        except jsontext.NotJson as error:
            raise InvalidResult(f"the body {error}") from None
        except ValidationError as error:
            raise InvalidResult(f"the body is not a flow result: {_first_problem(error)}") from None

    def without_output(self) -> Self:
        """The same result for a queue that does not take its output: smaller, never lost."""
        size = len(self._body())
        too_large = FlowError(
            code="output_too_large",
            message=f"The result has {size} bytes with its output, more than the reply queue takes; it was dropped.",
        )
        return self.model_copy(update={"output": None, "output_encoding": None, "error": self.error or too_large})

    def _body(self) -> bytes:
        return jsontext.dump(self.model_dump(mode="json"))


def reply_message_id(request_message_id: str, correlation_id: str, session_id: str, variant: str = "") -> str:
    """The one message ID of a request's result, so that duplicate detection drops a second copy of it."""
    key = jsontext.dump([request_message_id, correlation_id, session_id, *([variant] if variant else [])])
    return f"result-{hashlib.sha256(key).hexdigest()}"


def _normalised(body: bytes) -> bytes:
    return jsontext.dump(jsontext.parse(body, max_depth=jsontext.MAX_DEPTH + 1))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(step) for step in problem["loc"])[:128]
    return f"'{where}': {problem['msg']}" if where else problem["msg"]
