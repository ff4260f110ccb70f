"""What the HTTP side is made of: identity, organization, flows, how they answer, and what goes wrong on purpose.

In the configuration file the names are PascalCase, as in the official emulator's own sections (`DelaySeconds`); on the
control endpoints, which change the same things while the emulator runs, they are snake_case (`delay_seconds`).
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import (
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_pascal

from servicebus_emulator.cloud.flows.flow_errors import BEHAVIOURS, Behaviour, BehaviourName
from servicebus_emulator.servicebus.access import AccessMode
from servicebus_emulator.servicebus.access.entra import DataRole

FLOW_AUDIENCE = "https://service.flow.microsoft.com/"
"""The public cloud's Flow service; the slash is part of it (Microsoft Learn, "Add OAuth authentication")."""

TENANT_ID = UUID("6b1f3a52-0c6e-4f0d-9c7e-5d1e8a2b9f10")
MANAGED_IDENTITY_OBJECT_ID = UUID("b7a4e2d9-3f58-4c61-8e0b-2f9d6c1a7e33")
MANAGED_IDENTITY_CLIENT_ID = UUID("2e9c5b84-7d13-4a96-b5f2-81c0d3e6a4f7")
ORGANIZATION_ID = UUID("b0c5c4a4-2b6f-4a0e-9f3e-0d6f5c7b8a91")

PROVEN = "proven"
"""The context in which schemas are taken for good: those of a file that was read before without it."""

HeaderText = Annotated[str, Field(pattern=r"^[^\r\n\x00]*$")]
Seconds = Annotated[float, Field(ge=0, le=3600)]
Resource = Annotated[str, Field(min_length=1, max_length=2048)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
PrivilegeName = Annotated[str, Field(pattern=r"^prv[A-Za-z0-9_]+$")]
DepthName = Literal["Basic", "Local", "Deep", "Global"]
"""How far a privilege reaches: the user's own rows, the business unit's, those below it, all."""


class Definition(BaseModel):
    """Frozen, strict about names, and written either way (see the module's docstring)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_pascal,
        validate_by_name=True,
        validate_by_alias=True,
        defer_build=True,  # else each model is built by itself, too, and not only within the whole: 1.2 MB at start
    )


class Content(Definition):
    """A response's content: a text goes out as it stands, any other value as JSON, `body_base64` as its bytes."""

    headers: dict[HeaderText, HeaderText] = Field(default_factory=dict)
    content_type: HeaderText | None = None
    body: JsonValue = None
    body_base64: Base64Bytes | None = None

    def payload(self) -> tuple[bytes, str]:
        """The content's bytes and its type."""
        if self.body_base64 is not None:
            return self.body_base64, self.content_type or "application/octet-stream"
        if self.body is None:
            return b"", self.content_type or "text/plain; charset=utf-8"
        if isinstance(self.body, str):
            return self.body.encode(), self.content_type or "text/plain; charset=utf-8"
        return json.dumps(self.body).encode(), self.content_type or "application/json; charset=utf-8"


class Fault(Content):
    """What goes wrong with the next `next_calls` calls, or with all of them.

    - `pass`: nothing; with `next_calls` it lets as many through before the next fault
    - `respond`: answers with `status`, `headers` and the content instead of its own answer
    - `delay`: its own answer, `delay_seconds` late (which every other kind honours as well)
    - `throttle`: 429 with `retry_after`, or the date in `retry_after_seconds`
    - `html`: `status` with an HTML page, as proxies give;  `invalid_json`: 200 with half a JSON object
    - `hang`: never answers
    - `reset_before_reading`, `reset_after_reading`: the TCP connection is reset
    - `close_midway`: the connection is reset half-way through the content
    - `oversize`: a JSON text of `size_bytes`
    - a name out of `emulator.behaviours`: that answer of the platform, before or after a run as it has it
    """

    kind: Literal[
        "pass",
        "respond",
        "delay",
        "throttle",
        "html",
        "invalid_json",
        "hang",
        "reset_before_reading",
        "reset_after_reading",
        "close_midway",
        "oversize",
        BehaviourName,
    ]
    next_calls: int | None = Field(default=None, ge=1)
    share: float = Field(default=1, gt=0, le=1)
    """The part of its calls that it strikes, picked at random; the others pass."""
    seed: int = 0
    """The same seed picks the same calls."""
    delay_seconds: Seconds = 0
    status: int = Field(default=502, ge=200, le=599)
    retry_after: HeaderText | None = "1"
    """Null: no such header."""
    retry_after_seconds: Seconds | None = None
    """Instead of `retry_after`: so far ahead, as an HTTP date in whole seconds, rounded up."""
    size_bytes: int = Field(default=1024 * 1024, ge=2, le=1024**3)
    starts_run: bool = True
    """Whether a flow's answer names a run, as it does unless the platform turned the call away; nothing to `delay`
    and the platform's own answers, where it is settled."""

    @property
    def behaviour(self) -> Behaviour | None:
        """The platform's answer that it stands for."""
        if self.kind == "throttle":
            return BEHAVIOURS["TooManyRequests"]
        return next((behaviour for name, behaviour in BEHAVIOURS.items() if name == self.kind), None)

    @property
    def turns_away(self) -> bool:
        """Whether the call never gets as far as being checked."""
        return self.kind == "reset_before_reading" or (self.behaviour is not None and not self.behaviour.ran)

    @property
    def begins_run(self) -> bool:
        """Whether a call that it strikes begins a run nonetheless."""
        return not self.turns_away and (self.starts_run or self.kind == "delay" or self.behaviour is not None)


class FlowResponse(Content):
    """A flow's Response action. Give at most one of `body`, `body_base64`, `echo` and `template`."""

    status: int = 200
    echo: bool = False
    """Answer with the input."""
    template: JsonValue = None
    """A JSON value whose texts may hold `{input.customer}` and `{run_id}`; alone in a text, a placeholder keeps its
    value's type."""

    @field_validator("status")
    @classmethod
    def _allowed_status(cls, status: int) -> int:
        if not (200 <= status < 300 or 400 <= status < 600):
            raise ValueError("a Response action sends 2xx, 4xx or 5xx")
        return status

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        given = [self.body is not None, self.body_base64 is not None, self.echo, self.template is not None]
        if sum(given) > 1:
            raise ValueError("give at most one of Body, BodyBase64, Echo and Template")
        return self


class Asynchronous(Definition):
    """A Response action with *Asynchronous response* on: 202 at once, and a status URL for the outcome.

    The outcome is there after so many seconds (on top of the flow's `delay_seconds`) and so many polls, which are
    answered with 202.
    """

    done_after_polls: int = Field(default=0, ge=0)
    done_after_seconds: Seconds = 0
    signed_status_url: bool = True
    """Whether the status URL has a `sig`, and then takes no bearer; otherwise it wants one, as the trigger does."""
    retry_after: HeaderText | None = None
    """The header `Retry-After` of each 202."""
    lost: bool = False
    """The status URL knows nothing of the run."""


class FlowDefinition(Definition):
    """A flow with an HTTP trigger, for specific users: the managed identity unless `allowed_object_ids` says else."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$")
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    state: Literal["Enabled", "Suspended", "Stopped", "Deleted"] = "Enabled"
    input_schema: dict[str, JsonValue] | None = None
    allowed_object_ids: tuple[UUID, ...] | None = None
    """None: the managed identity alone. Empty: any user in the tenant."""
    response: FlowResponse | None = Field(default_factory=FlowResponse)
    """None: the flow has no Response action and is answered with 202 at once."""
    asynchronous: Asynchronous | None = None
    delay_seconds: Seconds = 0
    """How long a run takes to its Response action."""
    faults: tuple[Fault, ...] = ()
    poll_faults: tuple[Fault, ...] = ()
    """What goes wrong with calls of a status URL."""

    @model_validator(mode="after")
    def _has_an_outcome(self) -> Self:
        if self.asynchronous is not None and self.response is None:
            raise ValueError("an asynchronous flow needs a Response")
        return self

    @field_validator("input_schema")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, JsonValue] | None, info: ValidationInfo) -> dict[str, JsonValue] | None:
        if schema is not None and info.context != PROVEN:
            # imported here: it is large, and most starts do without
            from jsonschema.exceptions import SchemaError
            from jsonschema.validators import Draft202012Validator, validator_for

            try:
                validator_for(schema, default=Draft202012Validator).check_schema(schema)
            except SchemaError as error:
                raise ValueError(f"not a JSON Schema: at {error.json_path}: {error.message}") from error
        return schema


class ManagedIdentity(Definition):
    """The identity the emulator's host runs as."""

    object_id: UUID = MANAGED_IDENTITY_OBJECT_ID
    client_id: UUID = MANAGED_IDENTITY_CLIENT_ID


class IdentityDefinition(Definition):
    """The tenant, the managed identity, and who accepts which tokens."""

    tenant_id: UUID = TENANT_ID
    managed_identity: ManagedIdentity = Field(default_factory=ManagedIdentity)
    identity_header: HeaderText | None = Field(default=None, min_length=1)
    """The secret that guards the managed-identity endpoint; a new one at each start unless it is given."""
    token_lifetime_seconds: int = Field(default=86_400, ge=1, le=7 * 86_400)
    worker_audience: Resource = "api://flow-worker"
    flow_audiences: tuple[Resource, ...] = Field(default=(FLOW_AUDIENCE,), min_length=1)
    """The audiences flows admit, each exact to the last slash."""


class Role(Definition):
    """A security role: privileges by name, each with how far it reaches."""

    name: Name
    privileges: dict[PrivilegeName, DepthName]


class Team(Definition):
    """Whoever is in it holds its roles' privileges."""

    name: Name
    roles: tuple[Name, ...] = ()


class DataverseUser(Definition):
    """A row of `systemuser`. A name has the object ID that the token issuer gives it."""

    name: Name
    object_id: UUID | None = None
    """None: what the name stands for."""
    system_user_id: UUID | None = None
    """None: one made from the name."""
    is_disabled: bool = False
    roles: tuple[Name, ...] = ()
    teams: tuple[Name, ...] = ()


class DataverseFault(Fault):
    """A fault whose `throttle` is Dataverse's: 429 with one of its three service-protection codes."""

    code: Literal["0x80072322", "0x80072321", "0x80072326"] = "0x80072322"
    """Too many requests, too much time taken, too many at once."""


class DataverseDefinition(Definition):
    """An organization: who is in it, who holds what, and who may ask."""

    organization_id: UUID = ORGANIZATION_ID
    organization_name: Name = "emulator"
    business_unit_id: UUID = UUID("754e1c3e-5b2a-4711-8109-e0071b6a82d1")
    application_users: tuple[UUID, ...] | None = None
    """Object IDs of the identities that may call it; None: the managed identity."""
    unknown_object_id: Literal["empty", "not_found"] = "empty"
    """What is said of an object ID that no user has: what Dataverse itself says is documented nowhere."""
    roles: tuple[Role, ...] = ()
    teams: tuple[Team, ...] = ()
    users: tuple[DataverseUser, ...] = ()
    faults: tuple[DataverseFault, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        roles, teams = {role.name for role in self.roles}, {team.name for team in self.teams}
        holders: tuple[Team | DataverseUser, ...] = (*self.teams, *self.users)
        users = [user.name for user in self.users]
        if len(set(users)) < len(users):
            raise ValueError("there are two users of one name")
        _refuse_unknown("role", {role for holder in holders for role in holder.roles} - roles)
        _refuse_unknown("team", {team for user in self.users for team in user.teams} - teams)
        return self


def _refuse_unknown(what: str, names: set[str]) -> None:
    if names:
        raise ValueError(f"there is no {what} named '{min(names)}'")


class RoleAssignmentDefinition(Definition):
    """An identity's data role."""

    object_id: UUID
    role: DataRole
    queue: Name | None = None
    """None: in the whole namespace."""


class ServiceBusDefinition(Definition):
    """Who may use the Service Bus. Its shared access policies stand in `UserConfig`."""

    access: AccessMode = AccessMode.CHECKED
    role_assignments: tuple[RoleAssignmentDefinition, ...] | None = None
    """None: the managed identity is the namespace's data owner."""


class HttpDefinition(Definition):
    """The configuration file's section `FlowWorker`."""

    identity: IdentityDefinition = Field(default_factory=IdentityDefinition)
    dataverse: DataverseDefinition = Field(default_factory=DataverseDefinition)
    service_bus: ServiceBusDefinition = Field(default_factory=ServiceBusDefinition)
    flows: tuple[FlowDefinition, ...] = ()

    @field_validator("flows")
    @classmethod
    def _names_differ(cls, flows: tuple[FlowDefinition, ...]) -> tuple[FlowDefinition, ...]:
        names = [flow.name for flow in flows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"there are two flows named '{twice[0]}'")
        return flows
