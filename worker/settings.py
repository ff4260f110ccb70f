"""The worker's settings: environment (`FLOW_WORKER_…`), `.env`, and a TOML file; checked at start, echoed masked.

Precedence: environment, then `.env`, then the TOML file. Nested names are joined by two underscores:
`FLOW_WORKER_SERVICEBUS__NAMESPACE` is `[servicebus] namespace`. Units stand in the names.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from jsonschema import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from worker.clouds import CLOUDS, Cloud, CloudName, host_matches

PREFIX = "FLOW_WORKER_"
CONFIG_VARIABLE = "FLOW_WORKER_CONFIG"
DEFAULT_CONFIG = Path("flow-worker.toml")
_READ_BY_OTHERS = {CONFIG_VARIABLE, "FLOW_WORKER_CLAIM"}

QueueName = Annotated[str, Field(min_length=1, max_length=260)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class InvalidSettings(Exception):
    """The settings do not hold. One line for each fault: which field, what is wrong, what to do."""


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


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
    senders_per_queue: Annotated[int, Field(ge=1, le=64)] = 4

    @model_validator(mode="after")
    def _exactly_one_way_in(self) -> Self:
        if (self.connection_string is None) == (self.namespace is None):
            raise ValueError("set exactly one of connection_string and namespace (namespace uses the managed identity)")
        if self.connection_string and "endpoint=" not in self.connection_string.get_secret_value().lower():
            raise ValueError("connection_string must hold 'Endpoint=sb://…'; copy it from the access policy")
        if self.connection_string and "entitypath=" in self.connection_string.get_secret_value().lower():
            raise ValueError("connection_string names one entity (EntityPath=…); use one of the namespace")
        return self


class RequestQueue(_Group):
    """One queue requests come from, and the authority its senders are judged by."""

    name: QueueName
    authority: Literal["entra"] = "entra"
    lanes: Annotated[int, Field(ge=1, le=256)] = 8


class ReplySettings(_Group):
    """Where results may go and how long they stay there."""

    queues: Annotated[tuple[QueueName, ...], Field(min_length=1)] = ("flow-replies",)
    time_to_live_seconds: Annotated[int, Field(ge=1, le=14 * 86_400)] = 3600
    publish_seconds: Seconds = 300.0

    @property
    def default_queue(self) -> str:
        """The first of `queues`: for requests that name none, or one they may not name."""
        return self.queues[0]


class ClaimSettings(_Group):
    """What a sender's claim must be: a token of these tenants for one of these audiences."""

    tenants: Annotated[tuple[str, ...], Field(min_length=1)]
    audiences: Annotated[tuple[str, ...], Field(min_length=1)]
    authority: str | None = Field(default=None, description="issuer base URL; default: the cloud's login host")
    clock_skew_seconds: Annotated[int, Field(ge=0, le=600)] = 300
    keys_lifetime_seconds: Annotated[int, Field(ge=60, le=7 * 86_400)] = 86_400
    keys_refresh_seconds: Annotated[int, Field(ge=30, le=86_400)] = 3600
    unknown_key_cooldown_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    fetch_seconds: Seconds = 10.0


class IdentitySettings(_Group):
    """The managed identity the flows admit."""

    client_id: str | None = Field(default=None, description="of a user-assigned identity; default: system-assigned")
    token_seconds: Seconds = 30.0


class FlowSettings(_Group):
    """One flow that may be started, by name."""

    url: SecretStr
    role: Annotated[str, Field(min_length=1)]
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 130.0
    idempotent: bool = False
    input_schema: dict[str, JsonValue] | bool | None = None

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


class Layered(BaseSettings):
    """Settings read from the environment, then a `.env` file, then the TOML file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file_encoding="utf-8",
        extra="ignore",  # unknown names are refused in `load_as`, where the message can say more
        frozen=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)


class Settings(Layered):
    """All settings of one worker process."""

    servicebus: ServiceBusSettings
    request_queues: Annotated[tuple[RequestQueue, ...], Field(min_length=1)] = (RequestQueue(name="flow-requests"),)
    replies: ReplySettings = ReplySettings()
    claims: ClaimSettings
    identity: IdentitySettings = IdentitySettings()
    cloud: CloudName = CloudName.PUBLIC
    flows: Annotated[dict[str, FlowSettings], Field(min_length=1)]
    flow_hosts: tuple[str, ...] = Field(default=(), description="hosts flows may live on beside the cloud's own")
    plain_http_hosts: tuple[str, ...] = Field(default=(), description="host:port that may be called without TLS")
    http: HttpSettings = HttpSettings()
    health: HealthSettings = HealthSettings()
    log: LogSettings = LogSettings()
    shutdown_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    retry_pause_seconds: Annotated[float, Field(ge=0.1, le=60)] = 5.0
    max_deliveries: Annotated[int, Field(ge=1, le=2000)] = Field(
        default=8,
        description="answer `failed` and dead-letter from this delivery on; below the queue's own bound",
    )

    @property
    def facts(self) -> Cloud:
        """The fixed facts of the chosen cloud."""
        return CLOUDS[self.cloud]

    @property
    def authority(self) -> str:
        """The base URL of token issuers, without a trailing slash."""
        return (self.claims.authority or self.facts.authority).rstrip("/")

    @model_validator(mode="after")
    def _urls_go_where_they_may(self) -> Self:
        for name, flow in self.flows.items():
            self._check_flow_url(name, flow.url.get_secret_value())
        parts = urlsplit(self.authority)
        if parts.scheme != "https" and parts.netloc not in self.plain_http_hosts:
            raise ValueError(f"claims.authority is not https; use https, or name '{parts.netloc}' in plain_http_hosts")
        return self

    def _check_flow_url(self, name: str, url: str) -> None:
        """Refuse a URL the managed-identity token must not be sent to. The URL itself is a secret: not repeated."""
        parts = urlsplit(url)
        if not parts.hostname or parts.username:
            raise ValueError(f"flows.{name}.url is not an absolute URL; copy it from the flow's trigger")
        if "sig" in parse_qs(parts.query, keep_blank_values=True):
            raise ValueError(
                f"flows.{name}.url carries a SAS signature (sig=) and would be called with a bearer token too, which "
                "flows refuse; set the trigger to 'Specific users in my tenant' and copy its new URL"
            )
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.netloc in self.plain_http_hosts):
            raise ValueError(f"flows.{name}.url is not https; use https, or name '{parts.netloc}' in plain_http_hosts")
        allowed = (
            *self.facts.flow_hosts,
            *self.flow_hosts,
            *(host.rsplit(":", 1)[0] for host in self.plain_http_hosts),
        )
        if not any(host_matches(parts.hostname, pattern) for pattern in allowed):
            raise ValueError(
                f"flows.{name}.url points to '{parts.hostname}', which is no flow host of the {self.cloud} cloud "
                f"({', '.join(self.facts.flow_hosts)}); set the right cloud, or name the host in flow_hosts"
            )

    def echo(self) -> dict[str, JsonValue]:
        """All settings as JSON, secrets masked."""
        return self.model_dump(mode="json")


_S = TypeVar("_S", bound=Layered)


def load(config: Path | None = None, env_file: Path = Path(".env")) -> Settings:
    """Read and check the worker's settings; see `load_as`."""
    return load_as(Settings, config, env_file)


def load_as(kind: type[_S], config: Path | None, env_file: Path) -> _S:
    """Read and check settings.

    `config` is the TOML file; default: `$FLOW_WORKER_CONFIG`, then `flow-worker.toml` here if there is one.
    Raises `InvalidSettings` naming every fault at once.
    """
    path = config or (Path(os.environ[CONFIG_VARIABLE]) if CONFIG_VARIABLE in os.environ else None)
    if path and not path.is_file():
        raise InvalidSettings(f"{path}: no such file; give the TOML file by --config or {CONFIG_VARIABLE}")
    path = path or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    _refuse_unknown(path)
    bound = type(kind.__name__, (kind,), {"__module__": kind.__module__, "model_config": {"toml_file": path}})
    try:
        loaded: _S = bound(_env_file=env_file)
        return loaded
    except ValidationError as error:
        raise InvalidSettings("\n".join(_fault_lines(error))) from None
    except SettingsError as error:
        raise InvalidSettings(f"{error}; nested values in variables must be JSON") from None


def _refuse_unknown(path: Path | None) -> None:
    """A misspelt name would silently leave a default in force, so it is refused."""
    known = set(Settings.model_fields)
    faults = [
        f"{name}: no such setting; known after {PREFIX}: {', '.join(sorted(known)).upper()}"
        for name in os.environ
        if name.startswith(PREFIX)
        and name not in _READ_BY_OTHERS
        and name.removeprefix(PREFIX).split("__")[0].lower() not in known
    ]
    if path:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"{path}: not valid TOML: {error}") from None
        faults += [
            f"{path}: {name}: no such setting; known: {', '.join(sorted(known))}" for name in table if name not in known
        ]
    if faults:
        raise InvalidSettings("\n".join(faults))


def _fault_lines(error: ValidationError) -> list[str]:
    return [_fault_line(list(fault["loc"]), fault["type"], fault["msg"]) for fault in error.errors(include_input=False)]


def _fault_line(location: list[str | int], kind: str, message: str) -> str:
    field = ".".join(str(part) for part in location)
    text = message.removeprefix("Value error, ")
    if not field:
        return text
    variable = PREFIX + "__".join(str(part) for part in location).upper()
    if kind == "missing":
        return f"{field}: required; set {variable} or {field} in the TOML file"
    return f"{field}: {text}; set {variable} or {field} in the TOML file"
