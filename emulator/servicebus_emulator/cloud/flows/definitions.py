"""The definition of an HTTP-triggered flow and of its responses."""

from __future__ import annotations

from typing import Literal, Self
from uuid import UUID

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from servicebus_emulator.cloud.faults.definitions import Content, Fault
from servicebus_emulator.cloud.fields import TRUSTED_SCHEMAS, Definition, HeaderText, Seconds


class FlowResponse(Content):
    """A flow's Response action. At most one of `body`, `body_base64`, `echo` and `template` may be set."""

    status: int = 200
    echo: bool = False
    """The flow answers with its input."""
    template: JsonValue = None
    """A JSON value whose strings may contain `{input.customer}` and `{run_id}`.

    A placeholder that is the whole string keeps the type of its value.
    """

    @field_validator("status")
    @classmethod
    def _allowed_status(cls, status: int) -> int:
        if not (200 <= status < 300 or 400 <= status < 600):
            raise ValueError("a Response action sends 2xx, 4xx or 5xx")
        return status

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        contents = [self.body is not None, self.body_base64 is not None, self.echo, self.template is not None]
        if sum(contents) > 1:
            raise ValueError("give at most one of Body, BodyBase64, Echo and Template")
        return self


class AsynchronousResponse(Definition):
    """A Response action with *Asynchronous response* on: 202 at once, and a status URL for the outcome.

    The outcome is available after `done_after_polls` status polls, and `done_after_seconds` on top of the flow's
    `delay_seconds`. The emulator answers earlier polls with 202.
    """

    done_after_polls: int = Field(default=0, ge=0)
    done_after_seconds: Seconds = 0
    signed_status_url: bool = True
    """True: the status URL has a `sig` and refuses a bearer. False: it needs a bearer, as the trigger does."""
    retry_after: HeaderText | None = None
    """The header `Retry-After` of each 202."""
    lost: bool = False
    """The status URL answers 404, as for a run that the platform has lost."""


class RunError(Definition):
    """The error of a run that failed."""

    code: str = Field(default="ActionFailed", min_length=1, max_length=200)
    message: str = Field(default="An action failed. No dependent actions succeeded.", max_length=10_000)


class FlowDefinition(Definition):
    """A flow with an HTTP trigger for specific users: the managed identity unless `allowed_object_ids` is set."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$")
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    state: Literal["Enabled", "Suspended", "Stopped", "Deleted"] = "Enabled"
    input_schema: dict[str, JsonValue] | None = None
    allowed_object_ids: tuple[UUID, ...] | None = None
    """None allows the managed identity only; an empty list allows any user in the tenant."""
    response: FlowResponse | None = Field(default_factory=FlowResponse)
    """None: the flow has no Response action, and the platform answers 202 at once."""
    asynchronous: AsynchronousResponse | None = None
    delay_seconds: Seconds = 0
    """The duration of a run up to its Response action."""
    faults: tuple[Fault, ...] = ()
    poll_faults: tuple[Fault, ...] = ()
    """The faults of calls to a status URL."""
    in_solution: bool = True
    """False: the flow's runs have no rows in Dataverse."""
    run_status: Literal["Succeeded", "Failed", "Cancelled"] = "Succeeded"
    """The status of the flow's runs in Dataverse's table `flowrun`. The answers to callers do not depend on it."""
    run_error: RunError = Field(default_factory=RunError)
    """The error of runs whose status is Failed."""

    @model_validator(mode="after")
    def _has_an_outcome(self) -> Self:
        if self.asynchronous is not None and self.response is None:
            raise ValueError("an asynchronous flow needs a Response")
        return self

    @field_validator("input_schema")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, JsonValue] | None, info: ValidationInfo) -> dict[str, JsonValue] | None:
        if schema is not None and info.context != TRUSTED_SCHEMAS:
            # Imported here: jsonschema is large, and most starts need no check.
            from jsonschema.exceptions import SchemaError
            from jsonschema.validators import Draft202012Validator, validator_for

            try:
                validator_for(schema, default=Draft202012Validator).check_schema(schema)
            except SchemaError as error:
                raise ValueError(f"not a JSON Schema: at {error.json_path}: {error.message}") from error
        return schema
