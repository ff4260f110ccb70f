"""The base class and the field types of every definition in the configuration and on the control API.

The configuration file uses PascalCase names, as the official emulator's own sections do (`DelaySeconds`). The control
API changes the same definitions while the emulator runs and uses snake_case names (`delay_seconds`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

TRUSTED_SCHEMAS = "trusted schemas"
"""The validation context that skips the check of input schemas: the tests have checked the bundled configuration."""

HeaderText = Annotated[str, Field(pattern=r"^[^\r\n\x00]*$")]
Seconds = Annotated[float, Field(ge=0, le=3600)]
Resource = Annotated[str, Field(min_length=1, max_length=2048)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Definition(BaseModel):
    """A frozen model that refuses unknown names and reads PascalCase and snake_case names."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_pascal,
        validate_by_name=True,
        validate_by_alias=True,
        # pydantic otherwise builds a validator per model beside the one of the whole document: 1.2 MB at start.
        defer_build=True,
    )
