"""The result of a request, `flow-result/1`: its model, and its conversion to and from a message."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from enum import StrEnum
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError

from flow_contracts import strict_json
from flow_contracts.message import Message, PropertyValue
from flow_contracts.output import OutputEncoding, encode_output
from flow_contracts.reply_key import MAC_PROPERTY, result_id_digest, result_mac
from flow_contracts.trace_context import read_traceparent

__all__ = [
    "CONTENT_TYPE",
    "CONTRACT",
    "SETTLED_BY_FLOW_RUN",
    "FlowError",
    "FlowResult",
    "FlowRun",
    "InvalidResult",
    "OutputEncoding",
    "Status",
    "Times",
    "UnsupportedResult",
    "encode_output",
    "reply_message_id",
]

CONTRACT = "flow-result/1"
CONTENT_TYPE = "application/json"
SETTLED_BY_FLOW_RUN = "flow_run"
"""The value of `settled_by` for a result that the platform's record of the flow run settles."""

_CONTRACT_OF_ANY_VERSION = re.compile(r"flow-result/[0-9]{1,9}")


class InvalidResult(Exception):
    """The message is not a result that this version can read; the text names the cause."""


class UnsupportedResult(InvalidResult):
    """The message is a result of a later version. A client leaves it in its queue, so that a later client reads it."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"{found}, and this version of flow-contracts reads '{CONTRACT}' with the values that it knows; upgrade "
            "flow-contracts"
        )


class Status(StrEnum):
    """The end of a request; the description of `FlowResult.status` defines each value."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


class _ResultModel(BaseModel):
    """Ignores unknown fields, so that a reader still reads the results of a later worker, which may add fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class FlowError(_ResultModel):
    """The error of a request that did not succeed."""

    code: str = Field(min_length=1, description="Stable, for programs.", examples=["flow_not_allowed"])
    message: str = Field(description="One sentence for a person.")
    retryable: bool = Field(default=False, description="True if the same request may succeed later.")


class FlowRun(_ResultModel):
    """The flow run in Power Automate."""

    run_id: str | None = Field(default=None, description="The flow run's name (header x-ms-workflow-run-id).")
    tracking: dict[str, str] = Field(default_factory=dict, description="The x-ms-* headers of the flow's response.")


class Times(_ResultModel):
    """The times of the request's steps, in UTC."""

    accepted: AwareDatetime | None = Field(default=None, description="The time when the broker enqueued the request.")
    started: AwareDatetime | None = Field(
        default=None, description="The time of the first flow call; null without a call."
    )
    finished: AwareDatetime | None = Field(default=None, description="The time when the worker decided the result.")

    @property
    def seconds(self) -> float | None:
        """The seconds from the acceptance of the request to its result; None if either is unknown."""
        if self.accepted is None or self.finished is None:
            return None
        return round((self.finished - self.accepted).total_seconds(), 3)


class FlowResult(_ResultModel):
    """The outcome of a request. The worker publishes exactly one result for each request.

    At most one settling result can follow a result with the status `unknown`; see `settled_by`.
    """

    model_config = ConfigDict(title="Flow result")

    status: Status = Field(
        description=(
            "succeeded: the flow responded with success. failed: the flow responded with an error, or the worker could "
            "not reach it. refused: the sender lacks a right, or the request is invalid; the worker called no flow. "
            "unknown: the worker called the flow, which may have run, but got no response. expired: the request's "
            "time to live ended first; the worker called no flow."
        )
    )
    flow: str | None = Field(
        default=None, description="The flow that the request names; null if the worker could not read the request."
    )
    output: strict_json.Json = Field(
        default=None,
        repr=False,
        description="The body of the flow's response, in the form that `output_encoding` names.",
    )
    output_type: str | None = Field(default=None, description="The media type of the flow's response.")
    output_encoding: OutputEncoding | None = Field(
        default=None, description="The form of `output`: json, text or base64; null if there is no output."
    )
    http_status: int | None = Field(
        default=None, description="The HTTP status of the flow's response; null if it did not respond."
    )
    error: FlowError | None = Field(default=None, description="The cause, unless the status is succeeded; else null.")
    note: str | None = Field(
        default=None,
        description=(
            "A code that qualifies a success. accepted_without_response: the flow accepted the call and continues; it "
            "has no response action. settled_without_output: the record of the flow run says so, without the output."
        ),
    )
    attempts: int = Field(
        default=0,
        ge=0,
        description=(
            "The number of flow calls that went out, or may have; a lower bound if the journal was unavailable."
        ),
    )
    run: FlowRun | None = Field(default=None, description="The flow run; null if the flow did not respond.")
    times: Times = Times()
    correlation_id: str = Field(min_length=1, description="The request's correlation ID.")
    request_message_id: str = Field(min_length=1, description="The request's message ID.")
    replay_of: str | None = Field(
        default=None, description="The original message ID, if a person replayed the request under another message ID."
    )
    settled_by: str | None = Field(
        default=None,
        description=(
            "The source of a settling result; null in every other result. A settling result follows a result with the "
            "status unknown, and stands instead of it. flow_run: the platform's record of the flow run."
        ),
        examples=[SETTLED_BY_FLOW_RUN],
    )
    run_url: str | None = Field(
        default=None, description="The page of the flow run for people; null unless the worker knows it."
    )
    run_for: str | None = Field(
        default=None, description="Object ID of the user for whom the flow ran; null if the worker proved no user."
    )

    _traceparent: str | None = PrivateAttr(default=None)

    @property
    def traceparent(self) -> str | None:
        """The trace context that the worker gave the message of this result. Not part of its JSON."""
        return self._traceparent

    def to_message(
        self, session_id: str, time_to_live: timedelta, *, variant: str = "", reply_key: SecretStr | None = None
    ) -> Message:
        """Build the message to publish in the session `session_id`.

        Its message ID follows from the request, so that duplicate detection drops a second copy. `variant`
        distinguishes the results of two requests with the same IDs. A settling result has an ID of its own. With the
        request's `reply_key` the message has a MAC, and its ID follows from the key too.
        """
        body = self._body()
        message_id = reply_message_id(
            self.request_message_id,
            self.correlation_id,
            session_id,
            variant,
            is_settling=self.settled_by is not None,
            reply_key=reply_key,
        )
        properties: dict[str, PropertyValue] = {"contract": CONTRACT, "status": self.status.value}
        if self.flow is not None:
            properties["flow"] = self.flow
        if self.settled_by is not None:
            properties["settled_by"] = self.settled_by
        if reply_key is not None:
            properties[MAC_PROPERTY] = result_mac(reply_key, CONTRACT, message_id, body)
        return Message(
            body=body,
            content_type=CONTENT_TYPE,
            message_id=message_id,
            correlation_id=self.correlation_id,
            session_id=session_id,
            subject=self.flow,
            time_to_live=time_to_live,
            application_properties=properties,
        )

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Parse a result. Raises `UnsupportedResult` for one of a later version, and `InvalidResult`."""
        contract = message.application_properties.get("contract")
        if isinstance(contract, str) and contract != CONTRACT and _CONTRACT_OF_ANY_VERSION.fullmatch(contract):
            raise UnsupportedResult(f"the result has the contract '{contract}'")
        if contract != CONTRACT:
            raise InvalidResult(f"the application property 'contract' is not '{CONTRACT}'")
        try:
            result = cls.model_validate_json(_normalised(message.body), strict=True)
            result._traceparent = read_traceparent(message)
            return result
        except strict_json.NotJson as error:
            raise InvalidResult(f"the body {error}") from None
        except ValidationError as error:
            if unknown := _unknown_value(error):
                raise UnsupportedResult(f"the result has {unknown}") from None
            raise InvalidResult(f"the body is not a flow result: {_first_problem(error)}") from None

    def without_output(self, *, output_bytes: int = 0) -> Self:
        """Return the result without its output, for a queue that does not accept a message of that size.

        `output_bytes`: a lower bound of the output's size, where it is known. It saves encoding a large output.
        """
        size = f"more than {output_bytes}" if output_bytes else str(len(self._body()))
        too_large = FlowError(
            code="output_too_large",
            message=f"The reply queue does not accept the output: with it, the result has {size} bytes.",
        )
        return self.model_copy(update={"output": None, "output_encoding": None, "error": self.error or too_large})

    def _body(self) -> bytes:
        # Pydantic's own encoder takes a tenth of the time of `strict_json.dump`; the output is strict JSON already.
        return self.model_dump_json().encode()


def reply_message_id(
    request_message_id: str,
    correlation_id: str,
    session_id: str,
    variant: str = "",
    *,
    is_settling: bool = False,
    reply_key: SecretStr | None = None,
) -> str:
    """Return the message ID of a request's result: always the same, so that duplicate detection drops a copy.

    With a reply key, no other sender can cause the same ID. A request that is sent again under a new key gets another
    ID, so that its result, with a MAC under the new key, is no duplicate of the first.
    """
    # A JSON list, not joined text: ("ab", "c") and ("a", "bc") must not get the same ID.
    further = [variant, "settled"] if is_settling else [variant] if variant else []
    key = strict_json.dump([request_message_id, correlation_id, session_id, *further])
    digest = hashlib.sha256(key).hexdigest() if reply_key is None else result_id_digest(reply_key, key)
    return f"result-{digest}"


def _normalised(body: bytes) -> bytes:
    """Return the body as strict JSON. Pydantic's own parser is not strict: it takes NaN and duplicate keys."""
    return strict_json.dump(strict_json.parse(body, max_depth=strict_json.MAX_DEPTH + 1))


def _unknown_value(error: ValidationError) -> str | None:
    """Return the field whose value a later version may have added, with that value; None if another problem exists."""
    first, *others = error.errors(include_url=False, include_context=False)
    value = first["input"]
    if others or first["type"] not in ("enum", "literal_error") or not isinstance(value, str):
        return None
    return f"an unknown value in '{first['loc'][0]}' ('{value[:64]}')"


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(step) for step in problem["loc"])[:128]
    return f"'{where}': {problem['msg']}" if where else problem["msg"]
