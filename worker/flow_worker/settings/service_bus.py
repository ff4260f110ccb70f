"""The settings of the connection to Service Bus."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from flow_contracts.connection_string import ConnectionParts, Transport, parse_connection_string
from flow_worker.settings.groups import Seconds, _Group


class ServiceBusSettings(_Group):
    """The connection to Service Bus, and the deadline of each kind of call."""

    connection_string: SecretStr | None = None
    namespace: str | None = Field(default=None, description="fully qualified: contoso.servicebus.windows.net")
    administration_url: str | None = Field(
        default=None, description="of an emulator's administration, for `doctor` and `status`: http://127.0.0.1:5300"
    )
    credential: Literal["managed-identity", "default"] = "managed-identity"
    transport: Transport | None = Field(default=None, description="amqp: port 5671; websocket: port 443, by a proxy")
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
    def _require_a_host_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|localhost", value):
            raise ValueError("must be a host name such as contoso.servicebus.windows.net, without sb:// and port")
        return value

    @property
    def connection_parts(self) -> ConnectionParts | None:
        """The parts of the connection string; None with `namespace`."""
        text = self.connection_string
        return None if text is None else parse_connection_string(text.get_secret_value())

    @property
    def host(self) -> str:
        """The host of Service Bus."""
        parts = self.connection_parts
        return self.namespace or "" if parts is None else parts.host

    @property
    def address(self) -> str:
        """The host, with the port that the connection string names."""
        parts = self.connection_parts
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if parts is None or parts.port is None else f"{host}:{parts.port}"

    @property
    def server(self) -> tuple[str, int]:
        """The host and the port to which the connection goes."""
        parts = self.connection_parts
        port = None if parts is None else parts.port
        return self.host, port or (443 if self.effective_transport == "websocket" else 5671)

    @property
    def effective_transport(self) -> Transport:
        """The transport that `transport` or the connection string names."""
        parts = self.connection_parts
        return self.transport or (parts.transport if parts else None) or "amqp"

    @model_validator(mode="after")
    def _require_one_way_to_connect(self) -> Self:
        if (self.connection_string is None) == (self.namespace is None):
            raise ValueError("set exactly one of connection_string and namespace (namespace uses the managed identity)")
        parts = self.connection_parts
        if parts and None not in (self.transport, parts.transport) and self.transport != parts.transport:
            raise ValueError(
                f"transport is '{self.transport}', and TransportType in connection_string says "
                f"'{parts.transport}'; remove one of them"
            )
        return self
