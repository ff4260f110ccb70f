"""The JSON documents of the HTTP API. The OpenAPI document and the custom connector are generated from these models."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from flow_worker.gateway.store.port import RequestState, StateName, StoredRequest

_MIN_RETRY_SECONDS: Final = 1
_MAX_RETRY_SECONDS: Final = 20
_YOUNG_SECONDS: Final = 10.0
"""Most flows answer within this time, so a client that polls may ask every second until then."""

_REASONS: Final = {
    "dataverse_organization_mismatch": "the settings name a wrong Dataverse organization",
    "dataverse_throttled": "Dataverse throttles the worker's queries",
    "dataverse_unavailable": "Dataverse does not answer",
    "flow_busy": "as many calls of the flow as allowed are under way",
    "flow_circuit_open": "the flow failed several times in a row",
    "flow_no_answer": "the connection to the flow broke",
    "flow_rate_limited": "the flow's rate limit is reached",
    "flow_running": "the flow is still running",
    "flow_throttled": "Power Automate throttles the flow",
    "flow_timeout": "the flow did not answer in time",
    "flow_unreachable": "the flow could not be reached",
    "identity_unavailable": "the worker got no token for the flow",
    "input_check_busy": "many inputs are being checked",
    "input_check_unavailable": "the input could not be checked",
    "journal_unavailable": "the worker's journal does not work",
    "keys_unavailable": "the signing keys could not be fetched",
    "sender_busy": "you have many requests under way",
    "sender_rate_limited": "you have sent many requests",
    "statement_keys_unavailable": "the worker does not have the gateway's key",
}
"""What a person reads about a reason to wait; `docs/reference/result-codes.md` explains the codes."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PendingRequest(_Document):
    """A request that has no result yet."""

    model_config = ConfigDict(title="Pending request")

    id: str = Field(description="ID of the request.", examples=["7c1b0f0e6a5e4d0f9a3f1d2b8e4c6a70"])
    flow: str = Field(description="Name of the flow.", examples=["create-quote"])
    status: Literal["pending"] = Field(description="A result has another status.")
    state: StateName = Field(
        description="queued: the request waits for a worker. calling: a worker calls the flow. waiting: a worker looks "
        "at the request again later."
    )
    since: AwareDatetime = Field(description="Time since which the request has this state, in UTC.")
    until: AwareDatetime | None = Field(description="Time of the next attempt, where it is known.")
    reason: str | None = Field(description="Code of the reason for which the request waits.")
    text: str = Field(description="The state in one sentence for a person.")
    attempts: int = Field(ge=0, description="Number of flow calls so far.")
    location: str = Field(description="URL of the request.")


class FlowDescription(_Document):
    """A flow that the caller may start."""

    model_config = ConfigDict(title="Flow")

    name: str = Field(description="Name of the flow in the URL.", examples=["create-quote"])
    title: str = Field(description="Name of the flow for people.", examples=["Create a quote"])
    description: str | None = Field(default=None, description="One or two sentences about the flow.")
    input_schema: dict[str, JsonValue] | bool | None = Field(
        default=None, description="JSON Schema of the input; null: any input."
    )
    privilege_checked: bool = Field(
        description="False if the flow needs a privilege in Dataverse that only the worker checks."
    )


class FlowList(_Document):
    """The flows that the caller may start."""

    model_config = ConfigDict(title="Flows")

    flows: list[FlowDescription]


class ProblemDocument(BaseModel):
    """An error of the HTTP API (RFC 9457)."""

    model_config = ConfigDict(frozen=True, title="Problem")

    type: str = Field(description="URL of the explanation of the code.")
    title: str = Field(description="The kind of the problem in a few words.")
    status: int = Field(ge=400, le=599, description="HTTP status.")
    detail: str = Field(description="What is wrong, and what to do.")
    code: str = Field(description="Stable, for programs.", examples=["flow_not_allowed"])
    retryable: bool = Field(description="True if the same request may succeed later.")
    instance: str = Field(description="Path of the request that failed.")


def pending(request: StoredRequest, location: str) -> PendingRequest:
    """Return the document of a request without a result."""
    state = request.state
    return PendingRequest(
        id=request.record.id,
        flow=request.record.flow,
        status="pending",
        state=state.state,
        since=state.at,
        until=state.until,
        reason=state.code,
        text=sentence(state),
        attempts=state.attempts,
        location=location,
    )


def sentence(state: RequestState) -> str:
    """Return the state in one sentence for a person."""
    match state.state:
        case StateName.QUEUED:
            return "The request waits in the queue for a worker."
        case StateName.CALLING:
            return "The worker calls the flow and waits for its answer."
        case StateName.WAITING:
            until = "" if state.until is None else f" until {state.until:%Y-%m-%d %H:%M:%S} UTC"
            reason = "" if state.code is None else f" because {_REASONS.get(state.code, f'of {state.code}')}"
            return f"The request waits{until}{reason}."


def retry_after(request: StoredRequest, now: float) -> int:
    """Return the seconds after which a client that polls should ask again."""
    state = request.state
    if state.until is not None:
        seconds = state.until.timestamp() - now + 1
    else:
        age = now - request.record.created_at.timestamp()
        seconds = 1 if age < _YOUNG_SECONDS else age / 10
    return int(min(max(seconds, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS))
