"""The groups of the settings. Every group is frozen, every number has bounds, and the names carry the units."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    field_validator,
    model_validator,
)

from flow_contracts.guid import Guid
from flow_contracts.queue_name import MAX_LENGTH, queue_name_fault
from flow_worker.settings.json_schema import weigh


def _check_queue_name(name: str) -> str:
    """Refuse a name that no queue can have: the worker would wait for the queue for ever."""
    if fault := queue_name_fault(name):
        raise ValueError(f"{fault}; copy the name from the namespace")
    return name


QueueName = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH), AfterValidator(_check_queue_name)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
MIN_SEAL_KEY_CHARACTERS = 32
"""128 bits in hexadecimal."""


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class RequestQueue(_Group):
    """One request queue, and the authority that verifies its senders."""

    name: QueueName
    authority: Literal["entra", "dataverse", "gateway"] = "entra"
    lanes: Annotated[int, Field(ge=1, le=256)] = 8
    organization: Guid | None = Field(
        default=None, description="authority dataverse: ID of the organization that sends to this queue"
    )
    flows: dict[str, str] = Field(
        default_factory=dict,
        description="authority dataverse: flow by message ('new_StartQuote') or message and table ('Update:contact')",
    )
    reply_to: QueueName | None = Field(
        default=None, description="authorities dataverse and gateway: the reply queue for results"
    )
    progress: bool = Field(default=True, description="authority gateway: tell the gateway how far a request has come")
    dataverse_url: str | None = Field(
        default=None, description="URL of the organization that decides about privileges; default: dataverse.url"
    )
    deliver_to: tuple[str, ...] = Field(default=(), description="sinks of results beside the reply queue, by name")

    @model_validator(mode="after")
    def _require_fields_of_the_authority(self) -> Self:
        if self.authority == "dataverse" and (self.organization is None or not self.flows):
            raise ValueError(f"queue '{self.name}': the authority 'dataverse' needs organization and flows; set both")
        if self.authority == "gateway" and self.reply_to is None:
            raise ValueError(
                f"queue '{self.name}': the authority 'gateway' needs reply_to, the queue from which the gateway reads "
                'results; set reply_to = "flow-replies-gateway"'
            )
        if self.authority != "dataverse" and (self.organization is not None or self.flows):
            raise ValueError(
                f"queue '{self.name}': organization and flows are for the authority 'dataverse' only; this "
                f"queue has '{self.authority}'; remove them, or set authority = \"dataverse\""
            )
        if self.authority == "entra" and self.reply_to is not None:
            raise ValueError(
                f"queue '{self.name}': reply_to is for the authorities 'dataverse' and 'gateway' only; this queue has "
                "'entra'; remove it, or set authority"
            )
        return self


class ReplySettings(_Group):
    """The reply queues, and the time to live of a result in them."""

    queues: Annotated[tuple[QueueName, ...], Field(min_length=1)] = ("flow-replies",)
    time_to_live_seconds: Annotated[int, Field(ge=1, le=14 * 86_400)] = 3600
    publish_seconds: Seconds = 300.0

    @property
    def default_queue(self) -> str:
        """The first of `queues`: for requests that name no reply queue, or one that is not in `queues`."""
        return self.queues[0]


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
"""Asymmetric algorithms only.

HMAC (HS256 …) has one secret for signing and verifying. With HMAC allowed, anybody could sign a token with the public
key as the secret, and the worker would accept it (RFC 8725, section 2.1).
"""


def _check_scope(scope: str) -> str:
    """Refuse a scope in the form of a token request, because no token would contain it."""
    if not scope or "/" in scope or any(character.isspace() for character in scope):
        raise ValueError("must be a scope as 'scp' has it, such as access_as_user, without 'api://…/' and spaces")
    return scope


Scope = Annotated[str, AfterValidator(_check_scope)]


class ClaimSettings(_Group):
    """The claims that the authority `entra` accepts: tokens of these tenants for one of these audiences."""

    tenants: Annotated[tuple[Guid, ...], Field(min_length=1)]
    audiences: Annotated[tuple[str, ...], Field(min_length=1)]
    scopes: tuple[Scope, ...] = Field(default=(), description="delegated permissions, one of which a user needs")
    clients: tuple[Guid, ...] = Field(default=(), description="client IDs of the applications that may send")
    max_lifetime_seconds: Annotated[int, Field(ge=300, le=7 * 86_400)] = 86_400
    authority: str | None = Field(default=None, description="issuer base URL; default: the cloud's login host")
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256",)
    clock_skew_seconds: Annotated[int, Field(ge=0, le=600)] = 300
    max_age_seconds: Annotated[float, Field(ge=1, le=14 * 86_400)] = 86_400.0
    asserters: tuple[Guid, ...] = Field(
        default=(), description="object IDs of apps that may name a user in on_behalf_of"
    )
    asserter_role: str | None = Field(default=None, description="app role that lets an app name a user in on_behalf_of")
    binding_claim: Annotated[str, Field(min_length=1, max_length=64)] = "nonce"
    keys_lifetime_seconds: Annotated[int, Field(ge=60, le=7 * 86_400)] = 86_400
    keys_refresh_seconds: Annotated[int, Field(ge=30, le=86_400)] = 3600
    unknown_key_cooldown_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    fetch_seconds: Seconds = 10.0


class IdentitySettings(_Group):
    """The managed identity that flows and Dataverse accept."""

    client_id: str | None = Field(default=None, description="of a user-assigned identity; default: system-assigned")
    token_seconds: Seconds = 30.0


def seal_key_fault(key: str | bytes) -> str | None:
    """Return what is wrong with a key that can be guessed, and the remedy. It repeats no part of the key."""
    remedy = f"{MIN_SEAL_KEY_CHARACTERS} random characters or more; make one with: openssl rand -hex 32"
    key = key.strip()
    if len(key) < MIN_SEAL_KEY_CHARACTERS:
        return f"has {len(key)} characters, and a key needs {remedy}"
    return f"repeats one character, and a key needs {remedy}" if len(set(key)) == 1 else None


class ContinuationSettings(_Group):
    """The queue in which requests wait for their next step. Only the worker may send to it."""

    queue: QueueName = "flow-continuations"
    lanes: Annotated[int, Field(ge=1, le=256)] = 8
    schedule_seconds: Seconds = 60.0
    sole_sender: Literal["where-readable", "required", "trusted"] = "where-readable"
    unreadable_seconds: Annotated[float, Field(ge=0, le=14 * 86_400)] = 3600.0
    seal_key: SecretStr | None = Field(default=None, description="the same for all workers of the queue")
    seal_key_file: Path | None = None
    previous_seal_key: SecretStr | None = None
    previous_seal_key_file: Path | None = None
    unsealed: Literal["prove", "accept"] = "prove"

    @field_validator("seal_key", "previous_seal_key", mode="after")
    @classmethod
    def _require_a_random_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (fault := seal_key_fault(value.get_secret_value())):
            raise ValueError(fault)
        return value

    @model_validator(mode="after")
    def _require_one_place_of_each_key(self) -> Self:
        for name, key, file in (
            ("seal_key", self.seal_key, self.seal_key_file),
            ("previous_seal_key", self.previous_seal_key, self.previous_seal_key_file),
        ):
            if key is not None and file is not None:
                raise ValueError(f"{name} and {name}_file are both set; keep one of them, and remove the other")
        return self


class JournalSettings(_Group):
    """The record of the requests that the worker has called and concluded."""

    backend: Literal["sqlite", "table"] = "sqlite"
    path: Path = Path("flow-worker-journal.sqlite3")
    max_log_bytes: Annotated[int, Field(ge=1024 * 1024, le=1024 * 1024 * 1024)] = 16 * 1024 * 1024
    reserve_bytes: int | None = Field(
        default=None, ge=0, le=4 * 1024**3, description="0: no reserve; default: as much as max_log_bytes"
    )
    probe_interval_seconds: Annotated[float, Field(ge=0.5, le=300)] = 3.0
    table_endpoint: str | None = Field(default=None, description="https://contoso.table.core.windows.net")
    table_connection_string: SecretStr | None = None
    table_name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{2,62}$")] = "flowworkerjournal"
    retention_seconds: Annotated[int, Field(ge=3600, le=90 * 86_400)] = 7 * 86_400
    lease_margin_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    overdue_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    deadline_seconds: Seconds = 10.0
    max_outage_seconds: Annotated[float, Field(ge=0, le=14 * 86_400)] = 86_400.0
    purge_interval_seconds: Annotated[float, Field(ge=1, le=86_400)] = 600.0

    @model_validator(mode="after")
    def _require_one_way_to_the_table(self) -> Self:
        ways = (self.table_endpoint is not None) + (self.table_connection_string is not None)
        if self.backend == "table" and ways != 1:
            raise ValueError(
                "backend 'table' needs exactly one of table_endpoint (which uses the managed identity) and "
                "table_connection_string"
            )
        return self

    @model_validator(mode="after")
    def _require_a_reserve_for_the_log(self) -> Self:
        if self.reserve_bytes and self.reserve_bytes < self.max_log_bytes:
            raise ValueError(
                f"reserve_bytes ({self.reserve_bytes}) must be at least max_log_bytes ({self.max_log_bytes}), because "
                "the transfer of the log can need as much room; raise it, or set 0 for no reserve"
            )
        return self


class RetrySettings(_Group):
    """The number, the age limit and the intervals of the worker's attempts at a request."""

    max_calls: Annotated[int, Field(ge=1, le=1000)] = 8
    max_age_seconds: Annotated[float, Field(ge=0, le=14 * 86_400)] = 86_400.0
    base_seconds: Annotated[float, Field(ge=0.01, le=3600)] = 2.0
    max_pause_seconds: Annotated[float, Field(ge=0.01, le=86_400)] = 300.0
    poll_seconds: Annotated[float, Field(ge=0.01, le=3600)] = 20.0
    max_poll_failures: Annotated[int, Field(ge=1, le=1000)] = 20
    max_run_seconds: Annotated[int, Field(ge=1, le=90 * 86_400)] = 30 * 86_400


class LimitSettings(_Group):
    """A flow's rate limit, concurrency limit and circuit breaker in this worker process.

    The rate is Power Automate's limit for the low performance profile: 4,500 invoke calls in 5 minutes. Its limit of
    concurrent inbound calls is about 1,000 (Microsoft Learn, "Limits of automated, scheduled, and instant flows").
    """

    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 100
    max_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 4500
    window_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 300.0
    breaker_failures: Annotated[int, Field(ge=1, le=1000)] = 5
    breaker_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    breaker_max_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 600.0


class SenderSettings(_Group):
    """The limits on each sender (principal) in this worker process, over all flows."""

    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 50
    max_calls: Annotated[int, Field(ge=1, le=10_000_000)] = 9000
    window_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 300.0
    max_journal_bytes_per_day: Annotated[int, Field(ge=0, le=1024**4)] = 1024**3


class DeadLetterSettings(_Group):
    """The watch that answers requests that the broker itself moved to a dead-letter queue."""

    watch: bool = True
    interval_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 30.0
    unproven_retention_seconds: Annotated[float, Field(ge=0, le=90 * 86_400)] = 86_400.0
    unproven_max_count: Annotated[int, Field(ge=0, le=1_000_000)] = 1000


class DataverseSettings(_Group):
    """The queries for users' privileges, and the Dataverse organization of the queues that name no other."""

    url: str | None = Field(default=None, description="https://contoso.crm4.dynamics.com")
    privilege_cache_seconds: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    missing_privilege_cache_seconds: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    request_seconds: Seconds = 10.0
    max_concurrent_queries: Annotated[int, Field(ge=1, le=52)] = 8
    max_delivery_requests: Annotated[int, Field(ge=1, le=6000)] = 3000


class FlowSettings(_Group):
    """One flow. A caller needs its app role, its Dataverse privilege, or both if both are set."""

    url: SecretStr
    role: Annotated[str, Field(min_length=1)] | None = None
    privilege: Annotated[str, Field(pattern=r"^prv[A-Za-z0-9_]{1,200}$")] | None = None
    privilege_depth: Literal["basic", "local", "deep", "global"] = "basic"
    bind_claim: bool = False
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 130.0
    idempotent: bool = False
    title: Annotated[str, Field(max_length=200)] | None = Field(
        default=None, description="for people; default: the name"
    )
    description: Annotated[str, Field(max_length=2000)] | None = None
    input_schema: dict[str, JsonValue] | bool | None = None
    retry: RetrySettings | None = Field(default=None, description="default: the worker's own `retry`")
    limits: LimitSettings | None = Field(default=None, description="default: the worker's own `limits`")
    deliver_to: tuple[str, ...] | None = Field(default=None, description="sinks; default: the request queue's")
    run_records: bool | None = Field(default=None, description="default: run_records.enabled")
    workflow_id: Guid | None = Field(default=None, description="ID of the flow's row in Dataverse, for run_records")

    @property
    def has_legacy_url(self) -> bool:
        """Whether the URL is one of the public cloud's that ended on 30 November 2025 (Microsoft Learn)."""
        return (urlsplit(self.url.get_secret_value()).hostname or "").endswith(".logic.azure.com")

    @model_validator(mode="after")
    def _require_a_role_or_a_privilege(self) -> Self:
        if self.role is None and self.privilege is None:
            raise ValueError(
                "anybody could start it; set role (an app role in the sender's token), "
                "privilege (in Dataverse), or both"
            )
        return self

    @field_validator("input_schema", mode="after")
    @classmethod
    def _require_a_json_schema(cls, value: dict[str, JsonValue] | bool | None) -> dict[str, JsonValue] | bool | None:
        if value is not None:
            weigh(value)
        return value


class InputCheckSettings(_Group):
    """The processes that check expensive inputs against the flows' schemas."""

    deadline_seconds: Annotated[float, Field(ge=0.1, le=60)] = 5.0
    processes: Annotated[int, Field(ge=1, le=64)] = 2
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 1.0
    start_seconds: Seconds = 30.0
    max_memory_bytes: Annotated[int, Field(ge=64 * 1024 * 1024, le=8 * 1024**3)] = 128 * 1024 * 1024


class HttpSettings(_Group):
    """HTTP calls to flows: connections, deadlines and the size of answers."""

    connect_seconds: Seconds = 10.0
    status_seconds: Seconds = 30.0
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = 100
    keepalive_seconds: Annotated[float, Field(ge=1, le=300)] = 15.0
    max_response_bytes: Annotated[int, Field(ge=1024, le=120 * 1024 * 1024)] = 8 * 1024 * 1024
    decode_seconds: Seconds = 10.0


class HealthSettings(_Group):
    """The health endpoint. Port 0 turns it off."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    status: Literal["loopback", "all", "off"] = "loopback"

    @field_validator("host", mode="after")
    @classmethod
    def _without_brackets(cls, value: str) -> str:
        """An IPv6 address is in brackets in a URL only; a socket takes it without."""
        value = value.strip()
        if "://" in value or "/" in value:
            raise ValueError("must be an address or a host name, without scheme and port")
        return value[1:-1] if value.startswith("[") and value.endswith("]") else value

    @property
    def url(self) -> str:
        """The URL at which a program on the worker's machine reaches the endpoint.

        Nobody can connect to an address that stands for all of them, `0.0.0.0` or `::`.
        """
        try:
            address = ip_address(self.host)
        except ValueError:
            return f"http://{self.host or '127.0.0.1'}:{self.port}"
        if address.is_unspecified:
            address = ip_address("127.0.0.1" if address.version == 4 else "::1")
        return f"http://[{address}]:{self.port}" if address.version == 6 else f"http://{address}:{self.port}"


class LogSettings(_Group):
    """The log on stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"
