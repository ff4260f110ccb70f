"""The settings of the HTTP gateway: its endpoints, its queues, its store, and the limits of its callers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from flow_worker.settings.groups import HealthSettings, QueueName, Seconds, _Group

_ORIGIN = re.compile(r"https?://(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*(:[0-9]{1,5})?")
_MIN_LABELS_AFTER_WILDCARD = 2


def _check_origin(origin: str) -> str:
    """Refuse what no browser sends as `Origin`, and a wildcard that covers more than one domain's sites."""
    if _ORIGIN.fullmatch(origin) is None:
        raise ValueError(
            "must be an origin as the browser sends it, in lower case and without a path: https://contoso.crm4."
            "dynamics.com, or with a wildcard for one label: https://*.crm4.dynamics.com"
        )
    host = origin.split("://", 1)[1].split(":")[0]
    if host.startswith("*.") and host.count(".") < _MIN_LABELS_AFTER_WILDCARD:
        raise ValueError("the wildcard stands for one label, and two labels must follow it: https://*.contoso.com")
    return origin


Origin = Annotated[str, AfterValidator(_check_origin)]


class GatewayStoreSettings(_Group):
    """The store of the gateway's requests and results. All replicas of a gateway share one."""

    backend: Literal["sqlite", "table"] = "sqlite"
    path: Path = Path("flow-worker-gateway.sqlite3")
    table_endpoint: str | None = Field(default=None, description="https://contoso.table.core.windows.net")
    table_connection_string: SecretStr | None = None
    table_name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{2,62}$")] = "flowworkergateway"
    deadline_seconds: Seconds = 10.0
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


class GatewayLimits(_Group):
    """The limits of one gateway process, and of each of its callers."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=100 * 1024 * 1024)] = 1024 * 1024
    max_header_bytes: Annotated[int, Field(ge=4096, le=1024 * 1024)] = 32 * 1024
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 30.0
    idle_seconds: Seconds = 75.0
    write_seconds: Seconds = 30.0
    submit_seconds: Seconds = 25.0
    max_wait_seconds: Annotated[int, Field(ge=1, le=240)] = 100
    max_stream_seconds: Annotated[float, Field(ge=1, le=86_400)] = 3600.0
    heartbeat_seconds: Annotated[float, Field(ge=0.1, le=30)] = 15.0
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    max_active_requests: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_uploads_per_caller: Annotated[int, Field(ge=1, le=100_000)] = 50
    max_waiters: Annotated[int, Field(ge=0, le=1_000_000)] = 15_000
    max_waiters_per_caller: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    submissions_per_second: Annotated[float, Field(ge=0.01, le=1_000_000)] = 20.0
    submission_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    reads_per_second: Annotated[float, Field(ge=0.01, le=1_000_000)] = 50.0
    read_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 500


class GatewaySettings(_Group):
    """The HTTP gateway, `flow-worker gateway`. Port 0 chooses a free port."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8081
    public_url: str | None = Field(default=None, description="URL of the gateway as callers write it")
    health_host: str = "127.0.0.1"
    health_port: Annotated[int, Field(ge=0, le=65_535, description="0: no health endpoint")] = 8082
    request_queue: QueueName = "flow-requests-gateway"
    reply_queue: QueueName = "flow-replies-gateway"
    results_seconds: Annotated[int, Field(ge=60, le=30 * 86_400)] = 86_400
    allowed_origins: tuple[Origin, ...] = Field(default=(), description="of web pages that may call the gateway")
    check_privileges: bool = Field(default=False, description="ask Dataverse about privileges in the gateway, too")
    store: GatewayStoreSettings = GatewayStoreSettings()
    limits: GatewayLimits = GatewayLimits()

    @property
    def endpoint(self) -> HealthSettings:
        """The address of the HTTP API."""
        return HealthSettings(host=self.host, port=self.port)

    @property
    def health(self) -> HealthSettings:
        """The address of the health endpoint."""
        return HealthSettings(host=self.health_host, port=self.health_port)

    @field_validator("host", "health_host", mode="after")
    @classmethod
    def _without_brackets(cls, value: str) -> str:
        return HealthSettings(host=value).host

    @field_validator("public_url", mode="after")
    @classmethod
    def _require_a_base_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        # `urlsplit` drops white space, and a header field holds no other characters.
        is_url = value.isascii() and value.isprintable() and not {" ", "@"} & {*value}
        is_absolute = parts.scheme in ("http", "https") and bool(parts.hostname)
        if not (is_url and is_absolute) or parts.query or parts.fragment:
            raise ValueError(
                "must be an absolute URL in ASCII without spaces, user name, query and fragment, such as https://flows.contoso.com"
            )
        return value.rstrip("/")

    @model_validator(mode="after")
    def _require_two_queues(self) -> Self:
        if self.request_queue.lower() == self.reply_queue.lower():
            raise ValueError("request_queue and reply_queue are the same queue; name a queue for results only")
        return self
