"""The settings of a gateway process: the part of the worker's settings that a gateway needs, in the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from flow_worker.settings.clouds import CLOUDS, Cloud, CloudName
from flow_worker.settings.gateway import GatewaySettings
from flow_worker.settings.groups import (
    ClaimSettings,
    DataverseSettings,
    FlowSettings,
    HttpSettings,
    IdentitySettings,
    InputCheckSettings,
    LogSettings,
)
from flow_worker.settings.loading import Layered
from flow_worker.settings.service_bus import ServiceBusSettings
from flow_worker.settings.settings import load_as
from flow_worker.settings.statements import StatementSettings
from flow_worker.settings.tracing import TelemetrySettings
from flow_worker.settings.urls import not_https, split

_AFTER_GRACE_SECONDS = 8.0


class GatewayFlow(FlowSettings):
    """A flow as the gateway knows it. Its URL, with which a token could start the flow, does not stay in memory."""

    url: SecretStr = SecretStr("")

    @field_validator("url", mode="after")
    @classmethod
    def _forget(cls, _: SecretStr) -> SecretStr:
        return SecretStr("")


class GatewayProcess(Layered):
    """All settings of one gateway process."""

    servicebus: ServiceBusSettings
    claims: ClaimSettings
    statements: StatementSettings = StatementSettings()
    dataverse: DataverseSettings = DataverseSettings()
    identity: IdentitySettings = IdentitySettings()
    cloud: CloudName = CloudName.PUBLIC
    flows: Annotated[dict[str, GatewayFlow], Field(min_length=1)]
    input_checks: InputCheckSettings = InputCheckSettings()
    plain_http_hosts: tuple[str, ...] = ()
    http: HttpSettings = HttpSettings()
    gateway: GatewaySettings = GatewaySettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    explain_refusals: bool = False
    shutdown_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    shutdown_seconds: Annotated[float | None, Field(gt=0, le=7200)] = None

    @property
    def stop_seconds(self) -> float:
        """The longest time from the signal to the end of the process."""
        return self.shutdown_seconds or self.shutdown_grace_seconds + _AFTER_GRACE_SECONDS

    @property
    def facts(self) -> Cloud:
        """The fixed facts of the cloud in `cloud`."""
        return CLOUDS[self.cloud]

    @property
    def authority(self) -> str:
        """The base URL of the token issuers, without a trailing slash."""
        return (self.claims.authority or self.facts.authority).rstrip("/")

    @property
    def authority_v1(self) -> str:
        """The base URL of the issuers' names in version 1 tokens."""
        return self.authority if self.claims.authority else self.facts.authority_v1

    @model_validator(mode="after")
    def _require_a_safe_authority(self) -> Self:
        remedy = "use one such as https://login.microsoftonline.com"
        parts = split("claims.authority", self.authority, remedy, is_secret=False)
        if parts.scheme != "https" and parts.netloc not in self.plain_http_hosts:
            raise ValueError(not_https("claims.authority", parts))
        return self

    @model_validator(mode="after")
    def _require_dataverse_for_its_privileges(self) -> Self:
        if self.gateway.check_privileges and self.dataverse.url is None:
            raise ValueError("gateway.check_privileges needs the Dataverse organization to ask; set dataverse.url")
        return self


def load_gateway(config: Path | None = None, env_file: Path | None = None) -> GatewayProcess:
    """Read and check the settings of a gateway; see `load_as`."""
    return load_as(GatewayProcess, config, env_file)
