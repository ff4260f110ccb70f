"""The worker's settings: environment (`FLOW_WORKER_…`), `.env`, and a TOML file; checked at start, echoed masked.

Precedence: environment, then `.env`, then the TOML file. Nested names are joined by two underscores:
`FLOW_WORKER_SERVICEBUS__NAMESPACE` is `[servicebus] namespace`. Units stand in the names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self, TypeVar
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import Field, JsonValue, model_validator

from flow_worker.settings import loading
from flow_worker.settings.clouds import CLOUDS, Cloud, CloudName, host_matches
from flow_worker.settings.groups import (
    ClaimSettings,
    ContinuationSettings,
    DataverseSettings,
    DeadLetterSettings,
    FlowSettings,
    HealthSettings,
    HttpSettings,
    IdentitySettings,
    JournalSettings,
    LimitSettings,
    LogSettings,
    ReplySettings,
    RequestQueue,
    RetrySettings,
    ServiceBusSettings,
)
from flow_worker.settings.loading import InvalidSettings, Layered

__all__ = [
    "ClaimSettings",
    "ContinuationSettings",
    "DataverseSettings",
    "DeadLetterSettings",
    "FlowSettings",
    "HealthSettings",
    "HttpSettings",
    "IdentitySettings",
    "InvalidSettings",
    "JournalSettings",
    "Layered",
    "LimitSettings",
    "LogSettings",
    "ReplySettings",
    "RequestQueue",
    "RetrySettings",
    "ServiceBusSettings",
    "Settings",
    "load",
    "load_as",
]


class Settings(Layered):
    """All settings of one worker process."""

    servicebus: ServiceBusSettings
    request_queues: Annotated[tuple[RequestQueue, ...], Field(min_length=1)] = (RequestQueue(name="flow-requests"),)
    continuations: ContinuationSettings = ContinuationSettings()
    replies: ReplySettings = ReplySettings()
    journal: JournalSettings = JournalSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    claims: ClaimSettings
    dataverse: DataverseSettings | None = None
    identity: IdentitySettings = IdentitySettings()
    cloud: CloudName = CloudName.PUBLIC
    flows: Annotated[dict[str, FlowSettings], Field(min_length=1)]
    retry: RetrySettings = RetrySettings()
    limits: LimitSettings = LimitSettings()
    flow_hosts: tuple[str, ...] = Field(default=(), description="hosts flows may live on beside the cloud's own")
    plain_http_hosts: tuple[str, ...] = Field(default=(), description="host:port that may be called without TLS")
    http: HttpSettings = HttpSettings()
    health: HealthSettings = HealthSettings()
    log: LogSettings = LogSettings()
    shutdown_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0

    @property
    def facts(self) -> Cloud:
        """The fixed facts of the chosen cloud."""
        return CLOUDS[self.cloud]

    @property
    def authority(self) -> str:
        """The base URL of token issuers, without a trailing slash."""
        return (self.claims.authority or self.facts.authority).rstrip("/")

    @property
    def authority_v1(self) -> str:
        """What version 1 tokens call the token issuers: as `authority`, if that is set."""
        return self.authority if self.claims.authority else self.facts.authority_v1

    @property
    def known_flow_hosts(self) -> tuple[str, ...]:
        """Host patterns that flows, and the status URLs of their runs, may live on."""
        plain = (host.rsplit(":", 1)[0] for host in self.plain_http_hosts)
        return (*self.facts.flow_hosts, *self.flow_hosts, *plain)

    @model_validator(mode="after")
    def _continuations_have_a_queue_of_their_own(self) -> Self:
        """What a continuation says is believed, so nobody but the worker may send to its queue."""
        others = {queue.name.lower() for queue in self.request_queues} | {name.lower() for name in self.replies.queues}
        if self.continuations.queue.lower() in others:
            raise ValueError(
                f"continuations.queue '{self.continuations.queue}' is a request or reply queue too, which others may "
                "send to; give continuations a queue of their own"
            )
        return self

    @model_validator(mode="after")
    def _request_queues_are_each_their_own(self) -> Self:
        """Else it would be chance which authority a message is judged by, or results would be taken for requests."""
        names = [queue.name.lower() for queue in self.request_queues]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"request_queues: there are two named '{name}'; names ignore case")
            if name in {reply.lower() for reply in self.replies.queues}:
                raise ValueError(f"replies.queues: '{name}' is a request queue too; give results a queue of their own")
        return self

    @model_validator(mode="after")
    def _hosts_are_names(self) -> Self:
        for setting, hosts in (("flow_hosts", self.flow_hosts), ("plain_http_hosts", self.plain_http_hosts)):
            for host in hosts:
                if "/" in host or (setting == "flow_hosts" and ":" in host):
                    raise ValueError(f"{setting}: '{host}' is not the name of a host; leave out what else a URL has")
        return self

    @model_validator(mode="after")
    def _what_is_named_is_there(self) -> Self:
        for name, flow in self.flows.items():
            if flow.privilege is not None and self.dataverse is None:
                raise ValueError(f"flows.{name}.privilege is asked of Dataverse: set dataverse.url")
        for queue in self.request_queues:
            for unknown in set(queue.flows.values()) - self.flows.keys():
                raise ValueError(f"queue '{queue.name}' maps a message to '{unknown}', which is none of the flows")
            for bound in (name for name in queue.flows.values() if self.flows[name].bind_claim):
                raise ValueError(
                    f"queue '{queue.name}' maps a message to '{bound}', whose bind_claim no message can keep"
                )
            if queue.reply_to is not None and queue.reply_to not in self.replies.queues:
                raise ValueError(f"queue '{queue.name}': reply_to '{queue.reply_to}' is none of replies.queues")
        return self

    @model_validator(mode="after")
    def _urls_go_where_they_may(self) -> Self:
        for name, flow in self.flows.items():
            self._check_flow_url(name, flow.url.get_secret_value())
        parts = _split("claims.authority", self.authority, "it looks like https://login.microsoftonline.com")
        if parts.scheme != "https" and parts.netloc not in self.plain_http_hosts:
            raise ValueError(f"claims.authority is not https; use https, or name '{parts.netloc}' in plain_http_hosts")
        if self.dataverse is not None:
            self._check_dataverse_url(self.dataverse.url)
        return self

    def _check_dataverse_url(self, url: str) -> None:
        """The worker's token for Dataverse goes there. Anything but an origin would be another audience, too."""
        looks = "it looks like https://contoso.crm4.dynamics.com"
        parts = _split("dataverse.url", url, looks)
        if parts.username or parts.query or parts.fragment or url.endswith("/"):
            raise ValueError(f"dataverse.url is no organisation's URL; {looks}")
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.netloc in self.plain_http_hosts):
            raise ValueError(f"dataverse.url is not https; use https, or name '{parts.netloc}' in plain_http_hosts")

    def _check_flow_url(self, name: str, url: str) -> None:
        """Refuse a URL the managed-identity token must not be sent to. The URL itself is a secret: not repeated."""
        whence = "copy it from the flow's trigger"
        parts = _split(f"flows.{name}.url", url, whence)
        if parts.username:
            raise ValueError(f"flows.{name}.url is not an absolute URL without a user's name; {whence}")
        if "sig" in parse_qs(parts.query, keep_blank_values=True):
            raise ValueError(
                f"flows.{name}.url carries a SAS signature (sig=) and would be called with a bearer token too, which "
                "flows refuse; set the trigger to 'Specific users in my tenant' and copy its new URL"
            )
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.netloc in self.plain_http_hosts):
            raise ValueError(f"flows.{name}.url is not https; use https, or name '{parts.netloc}' in plain_http_hosts")
        if not any(host_matches(parts.hostname or "", pattern) for pattern in self.known_flow_hosts):
            raise ValueError(
                f"flows.{name}.url points to '{parts.hostname}', which is no flow host of the {self.cloud} cloud "
                f"({', '.join(self.facts.flow_hosts)}); set the right cloud, or name the host in flow_hosts"
            )

    def echo(self) -> dict[str, JsonValue]:
        """All settings as JSON, secrets masked."""
        return self.model_dump(mode="json")


def _split(setting: str, url: str, remedy: str) -> SplitResult:
    """An absolute URL's parts. Raises `ValueError` that names the setting, never the URL."""
    try:
        parts = urlsplit(url)
        whole = bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, a port that is no number
        whole = False
    if not whole:
        raise ValueError(f"{setting} is not an absolute URL; {remedy}")
    return parts


_S = TypeVar("_S", bound=Layered)


def load(config: Path | None = None, env_file: Path = Path(".env")) -> Settings:
    """Read and check the worker's settings; see `load_as`."""
    return load_as(Settings, config, env_file)


def load_as(kind: type[_S], config: Path | None, env_file: Path) -> _S:
    """Read and check the worker's settings, or the part of them that a command needs.

    `config` is the TOML file; default: `$FLOW_WORKER_CONFIG`, then `flow-worker.toml` here if there is one.
    Raises `InvalidSettings` naming every fault at once.
    """
    return loading.load_as(kind, config, env_file, set(Settings.model_fields))
