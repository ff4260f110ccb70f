"""The messages in a gateway's reply queue beside the results: the states of requests that have no result yet.

The worker sends them at its best effort, and a reader may lose any of them. They arrive in any order; `at` decides.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from flow_contracts import strict_json
from flow_contracts.message import Message

KIND_PROPERTY: Final = "fw-kind"
"""The application property that tells the messages apart; a result has none."""
STATE_KIND: Final = "state"
UNPROVEN_PROPERTY: Final = "fw-unproven"
"""True on a result whose request nobody proved to have sent: it must give way to a result without the property."""

CONTENT_TYPE = "application/json"
TIME_TO_LIVE = timedelta(minutes=10)
_MAX_BYTES = 4096


class InvalidState(Exception):
    """The message is no state that this version can read."""


class RequestProgress(BaseModel):
    """How far a request has come. Unknown fields are ignored: a later worker may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    request: str = Field(min_length=1, max_length=128)
    """The request's message ID, as the gateway gave it."""
    state: Literal["calling", "waiting"]
    """`calling`: the worker calls the flow. `waiting`: until the next step."""
    at: AwareDatetime
    until: AwareDatetime | None = None
    """The time of the next step, for `waiting`."""
    code: str | None = Field(default=None, max_length=128)
    """The reason of the wait."""
    attempts: int = Field(default=0, ge=0)
    """The number of calls so far, with the current one."""

    def to_message(self) -> Message:
        """Build the message. A second message of the same state is a duplicate."""
        digest = hashlib.sha256(strict_json.dump([self.request, self.state, self.at.isoformat()])).hexdigest()
        return Message(
            body=self.model_dump_json().encode(),
            content_type=CONTENT_TYPE,
            message_id=f"state-{digest}",
            correlation_id=self.request,
            time_to_live=TIME_TO_LIVE,
            application_properties={KIND_PROPERTY: STATE_KIND},
        )

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read a state. Raises `InvalidState`."""
        if not is_state(message) or len(message.body) > _MAX_BYTES:
            raise InvalidState("the message is no state of a request")
        try:
            return cls.model_validate_json(message.body)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(step) for step in problem["loc"])[:64]
            raise InvalidState(f"the body is no state of a request: '{where}' {problem['msg']}") from None


def is_state(message: Message) -> bool:
    """Return whether the message in a gateway's reply queue is a state, and so no result."""
    return message.application_properties.get(KIND_PROPERTY) == STATE_KIND


def is_unproven(message: Message) -> bool:
    """Return whether the result is of a request whose sender nobody proved."""
    return message.application_properties.get(UNPROVEN_PROPERTY) is True
