"""The settings, group by group. Frozen, bounded, units in the names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from jsonschema import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    field_validator,
    model_validator,
)

from flow_contracts.guid import Guid

QueueName = Annotated[str, Field(min_length=1, max_length=260)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _check_connection_string(secret: str) -> None:
    """Refuse what the SDK could not connect with, without a word of what it holds."""
    parts = [part.partition("=") for part in secret.strip().strip(";").split(";")]
    values = {name.strip().lower(): value for name, _, value in parts}
    if not values.get("endpoint", "").lower().startswith("sb://"):
        raise ValueError("connection_string must hold 'Endpoint=sb://…'; copy it from the access policy")
    if "entitypath" in values:
        raise ValueError("connection_string names one entity (EntityPath=…); use one of the namespace")
    by_key = values.get("sharedaccesskeyname") and values.get("sharedaccesskey")
    if not (by_key or values.get("sharedaccesssignature")) or not all(equals for _, equals, _ in parts):
        raise ValueError(
            "connection_string must hold 'SharedAccessKeyName=…;SharedAccessKey=…', or 'SharedAccessSignature=…', and "
            "name=value between semicolons throughout; copy it whole, in quotes, from the access policy"
        )


class ServiceBusSettings(_Group):
    """How to reach Service Bus, and how long each call to it may take."""

    connection_string: SecretStr | None = None
    namespace: str | None = Field(default=None, description="fully qualified: contoso.servicebus.windows.net")
    credential: Literal["managed-identity", "default"] = "managed-identity"
    open_seconds: Seconds = 30.0
    receive_wait_seconds: Annotated[float, Field(ge=0.5, le=60)] = 3.0
    send_seconds: Seconds = 20.0
    settle_seconds: Seconds = 20.0
    renew_seconds: Seconds = 15.0
    probe_interval_seconds: Annotated[float, Field(ge=1, le=300)] = 30.0
    reconnect_max_seconds: Annotated[float, Field(ge=0.1, le=300)] = 5.0
    senders_per_queue: Annotated[int, Field(ge=1, le=256)] = 32

    @field_validator("namespace", mode="after")
    @classmethod
    def _is_a_host(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|localhost", value):
            raise ValueError("must be a host's name such as contoso.servicebus.windows.net, without sb:// and port")
        return value

    @model_validator(mode="after")
    def _exactly_one_way_in(self) -> Self:
        if (self.connection_string is None) == (self.namespace is None):
            raise ValueError("set exactly one of connection_string and namespace (namespace uses the managed identity)")
        if self.connection_string:
            _check_connection_string(self.connection_string.get_secret_value())
        return self


class RequestQueue(_Group):
    """One queue requests come from, and the authority its senders are judged by."""

    name: QueueName
    authority: Literal["entra", "dataverse"] = "entra"
    lanes: Annotated[int, Field(ge=1, le=256)] = 8
    organization: Guid | None = Field(
        default=None, description="authority dataverse: ID of the organisation whose messages these are"
    )
    flows: dict[str, str] = Field(
        default_factory=dict,
        description="authority dataverse: flow by message ('new_StartQuote') or message and table ('Update:contact')",
    )
    reply_to: QueueName | None = Field(default=None, description="authority dataverse: the reply queue for results")

    @model_validator(mode="after")
    def _dataverse_has_what_it_needs(self) -> Self:
        given = self.organization is not None or bool(self.flows) or self.reply_to is not None
        if self.authority == "dataverse" and (self.organization is None or not self.flows):
            raise ValueError(f"queue '{self.name}' of authority dataverse needs organization and flows")
        if self.authority != "dataverse" and given:
            raise ValueError(f"queue '{self.name}': organization, flows and reply_to are for authority dataverse only")
        return self


class ReplySettings(_Group):
    """Where results may go and how long they stay there."""

    queues: Annotated[tuple[QueueName, ...], Field(min_length=1)] = ("flow-replies",)
    time_to_live_seconds: Annotated[int, Field(ge=1, le=14 * 86_400)] = 3600
    publish_seconds: Seconds = 300.0

    @property
    def default_queue(self) -> str:
        """The first of `queues`: for requests that name none, or one they may not name."""
        return self.queues[0]


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
"""Asymmetric ones only: with HMAC the published key would be the secret."""


class ClaimSettings(_Group):
    """What a sender's claim must be: a token of these tenants for one of these audiences."""

    tenants: Annotated[tuple[Guid, ...], Field(min_length=1)]
    audiences: Annotated[tuple[str, ...], Field(min_length=1)]
    authority: str | None = Field(default=None, description="issuer base URL; default: the cloud's login host")
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256",)
    clock_skew_seconds: Annotated[int, Field(ge=0, le=600)] = 300
    max_age_seconds: Annotated[float, Field(ge=1, le=14 * 86_400)] = 86_400.0
    asserters: tuple[Guid, ...] = Field(default=(), description="object IDs of apps that may name a user")
    asserter_role: str | None = Field(default=None, description="app role by which an app may name a user")
    binding_claim: Annotated[str, Field(min_length=1, max_length=64)] = "nonce"
    keys_lifetime_seconds: Annotated[int, Field(ge=60, le=7 * 86_400)] = 86_400
    keys_refresh_seconds: Annotated[int, Field(ge=30, le=86_400)] = 3600
    unknown_key_cooldown_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    fetch_seconds: Seconds = 10.0


class IdentitySettings(_Group):
    """The managed identity the flows admit."""

    client_id: str | None = Field(default=None, description="of a user-assigned identity; default: system-assigned")
    token_seconds: Seconds = 30.0


class ContinuationSettings(_Group):
    """The queue in which requests wait for their next step. Nobody but the worker may send to it."""

    queue: QueueName = "flow-continuations"
    lanes: Annotated[int, Field(ge=1, le=256)] = 8
    schedule_seconds: Seconds = 60.0
    sole_sender: Literal["where-readable", "required", "trusted"] = "where-readable"


class JournalSettings(_Group):
    """What remembers which requests were called and concluded."""

    backend: Literal["sqlite", "table"] = "sqlite"
    path: Path = Path("flow-worker-journal.sqlite3")
    table_endpoint: str | None = Field(default=None, description="https://contoso.table.core.windows.net")
    table_connection_string: SecretStr | None = None
    table_name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{2,62}$")] = "flowworkerjournal"
    retention_seconds: Annotated[int, Field(ge=3600, le=90 * 86_400)] = 7 * 86_400
    lease_margin_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    overdue_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    deadline_seconds: Seconds = 10.0
    purge_interval_seconds: Annotated[float, Field(ge=1, le=86_400)] = 600.0

    @model_validator(mode="after")
    def _one_way_to_the_table(self) -> Self:
        given = (self.table_endpoint is not None) + (self.table_connection_string is not None)
        if self.backend == "table" and given != 1:
            raise ValueError("backend 'table' needs table_endpoint (by managed identity) or table_connection_string")
        return self


class RetrySettings(_Group):
    """How often and how long a request is tried."""

    max_calls: Annotated[int, Field(ge=1, le=1000)] = 8
    max_age_seconds: Annotated[float, Field(ge=0, le=14 * 86_400)] = 86_400.0
    base_seconds: Annotated[float, Field(ge=0.01, le=3600)] = 2.0
    max_pause_seconds: Annotated[float, Field(ge=0.01, le=86_400)] = 300.0
    poll_seconds: Annotated[float, Field(ge=0.01, le=3600)] = 20.0
    max_poll_failures: Annotated[int, Field(ge=1, le=1000)] = 20


class LimitSettings(_Group):
    """How fast a flow may be called by this worker process, and when it is left alone.

    The defaults are Power Automate's own for the low performance profile: 4,500 invoke calls in 5 minutes, some 1,000
    concurrent inbound calls (Microsoft Learn, "Limits of automated, scheduled, and instant flows").
    """

    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 100
    max_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 4500
    window_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 300.0
    breaker_failures: Annotated[int, Field(ge=1, le=1000)] = 5
    breaker_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    breaker_max_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 600.0


class DeadLetterSettings(_Group):
    """How the worker answers requests that the broker itself moved to a dead-letter queue."""

    watch: bool = True
    interval_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 30.0


class DataverseSettings(_Group):
    """The organisation that is asked which privileges a user holds."""

    url: str = Field(description="https://contoso.crm4.dynamics.com")
    privilege_cache_seconds: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    missing_privilege_cache_seconds: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    request_seconds: Seconds = 10.0
    max_concurrent_queries: Annotated[int, Field(ge=1, le=52)] = 8


class FlowSettings(_Group):
    """One flow that may be started, by name: by whom holds the role, or the privilege, or both if both are set."""

    url: SecretStr
    role: Annotated[str, Field(min_length=1)] | None = None
    privilege: Annotated[str, Field(pattern=r"^prv[A-Za-z0-9_]{1,200}$")] | None = None
    privilege_depth: Literal["basic", "local", "deep", "global"] = "basic"
    bind_claim: bool = False
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 130.0
    idempotent: bool = False
    input_schema: dict[str, JsonValue] | bool | None = None
    retry: RetrySettings | None = Field(default=None, description="default: the worker's own `retry`")
    limits: LimitSettings | None = Field(default=None, description="default: the worker's own `limits`")

    @model_validator(mode="after")
    def _somebody_is_kept_out(self) -> Self:
        if self.role is None and self.privilege is None:
            raise ValueError("set role (an app role in the sender's token), privilege (asked of Dataverse), or both")
        return self

    @field_validator("input_schema", mode="after")
    @classmethod
    def _is_a_schema(cls, value: dict[str, JsonValue] | bool | None) -> dict[str, JsonValue] | bool | None:
        if value is not None:
            try:
                validator_for(value, default=Draft202012Validator).check_schema(value)  # type: ignore[arg-type]  # stub: dict only
            except SchemaError as error:
                raise ValueError(f"not a JSON Schema at {error.json_path}: {error.message}") from None
        return value


class HttpSettings(_Group):
    """Calls to flows: how many at once, how patient, how large."""

    connect_seconds: Seconds = 10.0
    status_seconds: Seconds = 30.0
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = 100
    keepalive_seconds: Annotated[float, Field(ge=1, le=300)] = 15.0
    max_response_bytes: Annotated[int, Field(ge=1024, le=120 * 1024 * 1024)] = 8 * 1024 * 1024


class HealthSettings(_Group):
    """The health endpoint. Port 0 turns it off."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080


class LogSettings(_Group):
    """What the worker says on stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"
