"""The definitions of Custom APIs and of the parameters of actions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from servicebus_emulator.cloud.fields import Definition, Name, Seconds

ParameterType = Literal["String", "Integer", "Boolean", "Guid", "DateTime", "Decimal", "Float", "StringArray", "Entity"]


class ParameterDefinition(Definition):
    """A request parameter."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
    type: ParameterType = "String"
    optional: bool = False


class CustomApiDefinition(Definition):
    """An unbound action, and the step that posts its calls to a queue."""

    unique_name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]*_[A-Za-z0-9_]{1,120}$")
    execute_privilege_name: Annotated[str, Field(pattern=r"^prv[A-Za-z0-9_]+$")] | None = None
    """The privilege that a caller needs; None: every member may call."""
    parameters: tuple[ParameterDefinition, ...] = ()
    responses: dict[Name, Literal["correlation_id", "request_id"]] = Field(default_factory=dict)
    """The response properties that the API's plug-in returns, each with its source."""
    queue: Name | None = "dataverse-requests"
    """The queue of the service endpoint; None: the API has no step."""
    synchronous: bool = False
    """The step is synchronous: the call fails if the post fails."""
    delay_seconds: Seconds = 0
    """The time until the system job of an asynchronous step posts."""
    repeats: int = Field(default=0, ge=0, le=10)
    """The system job posts this many times again, as after an error that followed the post."""

    @model_validator(mode="after")
    def _parameters_differ(self) -> Self:
        names = [parameter.name for parameter in self.parameters]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"there are two parameters named '{duplicates[0]}'")
        return self
