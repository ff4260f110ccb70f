"""The settings as a whole: the rules between groups, and loading."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self, TypeVar
from urllib.parse import SplitResult, parse_qs

from pydantic import Field, JsonValue, model_validator

from flow_contracts.proxies import InvalidProxy, Proxies
from flow_contracts.request import MAX_FLOW_NAME_LENGTH
from flow_worker.settings.clouds import CLOUDS, Cloud, CloudName, host_matches
from flow_worker.settings.delivery import DeliverySettings, OutboxSettings, delivery_faults
from flow_worker.settings.gateway import GatewaySettings
from flow_worker.settings.groups import (
    ClaimSettings,
    ContinuationSettings,
    DataverseSettings,
    DeadLetterSettings,
    FlowSettings,
    HealthSettings,
    HttpSettings,
    IdentitySettings,
    InputCheckSettings,
    JournalSettings,
    LimitSettings,
    LogSettings,
    ReplySettings,
    RequestQueue,
    RetrySettings,
    SenderSettings,
)
from flow_worker.settings.loading import InvalidSettings, Layered, load_checked
from flow_worker.settings.run_records import RunRecordSettings
from flow_worker.settings.service_bus import ServiceBusSettings
from flow_worker.settings.statements import StatementSettings
from flow_worker.settings.tracing import TelemetrySettings
from flow_worker.settings.urls import not_https, shown, split

_AFTER_GRACE_SECONDS = 8.0
"""After the grace period: the time for interrupted requests to publish and settle, and for closing the connections."""

_UNPROVEN_SHARE = 0.45
"""The part of the journal's retention after which an answered dead letter without a proven sender is deleted.

The dead-letter watch passes over dead letters older than half of it.
"""


class Settings(Layered):
    """All settings of one worker process."""

    servicebus: ServiceBusSettings
    request_queues: Annotated[
        tuple[RequestQueue, ...], Field(min_length=1, description="The queues from which requests come.")
    ] = (RequestQueue(name="flow-requests"),)
    continuations: ContinuationSettings = ContinuationSettings()
    replies: ReplySettings = ReplySettings()
    journal: JournalSettings = JournalSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    claims: ClaimSettings
    statements: StatementSettings = StatementSettings()
    dataverse: DataverseSettings = DataverseSettings()
    identity: IdentitySettings = IdentitySettings()
    cloud: CloudName = CloudName.PUBLIC
    flows: Annotated[dict[str, FlowSettings], Field(min_length=1, description="The flows, by name.")]
    retry: RetrySettings = RetrySettings()
    limits: LimitSettings = LimitSettings()
    input_checks: InputCheckSettings = InputCheckSettings()
    senders: SenderSettings = SenderSettings()
    delivery: dict[str, DeliverySettings] = Field(default_factory=dict, description="The sinks of results, by name.")
    outbox: OutboxSettings = OutboxSettings()
    run_records: RunRecordSettings = RunRecordSettings()
    flow_hosts: tuple[str, ...] = Field(default=(), description="hosts of flows beside the cloud's own")
    plain_http_hosts: tuple[str, ...] = Field(default=(), description="host:port that the worker may call without TLS")
    http: HttpSettings = HttpSettings()
    health: HealthSettings = HealthSettings()
    gateway: GatewaySettings = GatewaySettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    explain_refusals: bool = Field(default=False, description="development: results tell which flows exist")
    shutdown_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    shutdown_seconds: Annotated[float | None, Field(gt=0, le=7200)] = Field(
        default=None, description="the longest stop; default: shutdown_grace_seconds + 8"
    )

    @property
    def stop_seconds(self) -> float:
        """The longest time from the signal to the end of the process."""
        if self.shutdown_seconds is not None:
            return self.shutdown_seconds
        return self.shutdown_grace_seconds + _AFTER_GRACE_SECONDS

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
        """The base URL of the issuers' names in version 1 tokens: `claims.authority` if set, else the cloud's."""
        return self.authority if self.claims.authority else self.facts.authority_v1

    @property
    def known_flow_hosts(self) -> tuple[str, ...]:
        """The host patterns of flows, and of the status URLs of their runs."""
        plain = (host.rsplit(":", 1)[0] for host in self.plain_http_hosts)
        return (*self.facts.flow_hosts, *self.flow_hosts, *plain)

    @model_validator(mode="after")
    def _require_separate_continuation_queue(self) -> Self:
        """The worker trusts a continuation message, so only the worker may send to its queue."""
        others = {queue.name.lower() for queue in self.request_queues} | {name.lower() for name in self.replies.queues}
        if self.continuations.queue.lower() in others:
            raise ValueError(
                f"continuations.queue: '{self.continuations.queue}' is also a request or reply queue, to which others "
                "may send; name a separate queue"
            )
        return self

    @model_validator(mode="after")
    def _require_a_shared_seal_key(self) -> Self:
        """Workers with a table journal run on several machines, so none of them can keep a key for all."""
        keys = (self.continuations.seal_key, self.continuations.seal_key_file)
        if self.journal.backend == "table" and keys == (None, None):
            raise ValueError(
                "continuations.seal_key: journal.backend 'table' needs it, the same for all workers, because they seal "
                "the continuation messages with it; make one with: openssl rand -hex 32, and set "
                "FLOW_WORKER_CONTINUATIONS__SEAL_KEY from a secret, or continuations.seal_key_file"
            )
        return self

    @model_validator(mode="after")
    def _require_distinct_request_queues(self) -> Self:
        """One queue with two entries would have two authorities; a reply queue among them would feed back results.

        Service Bus ignores the case of queue names, so this check does too.
        """
        names = [queue.name.lower() for queue in self.request_queues]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"request_queues: two entries are named '{name}', and Service Bus ignores case; keep one of them"
                )
            if name in {reply.lower() for reply in self.replies.queues}:
                raise ValueError(f"replies.queues: '{name}' is also a request queue; name a separate queue for results")
        return self

    @model_validator(mode="after")
    def _require_grace_within_the_stop(self) -> Self:
        if self.stop_seconds < self.shutdown_grace_seconds:
            raise ValueError(
                f"shutdown_seconds: {self.stop_seconds:g} is shorter than shutdown_grace_seconds "
                f"({self.shutdown_grace_seconds:g}), which is a part of it; raise it, or lower shutdown_grace_seconds"
            )
        return self

    @model_validator(mode="after")
    def _require_retention_beyond_every_retry(self) -> Self:
        """The journal must still know a request when its last delivery arrives, or that one calls the flow again."""
        ages = {"retry.max_age_seconds": self.retry.max_age_seconds} | {
            f"flows.{name}.retry.max_age_seconds": flow.retry.max_age_seconds
            for name, flow in self.flows.items()
            if flow.retry is not None
        }
        retention, outage = self.journal.retention_seconds, self.journal.max_outage_seconds
        for setting, age in ages.items():
            if retention < age + outage:
                raise ValueError(
                    f"journal.retention_seconds: {retention} is less than {setting} ({_plain(age)}) + "
                    f"journal.max_outage_seconds ({_plain(outage)}) = {_plain(age + outage)}; the journal would "
                    "forget a request that can still arrive, and the worker would call its flow again; raise the "
                    "first, or lower the others"
                )
        return self

    @model_validator(mode="after")
    def _require_deletion_before_the_journal_forgets(self) -> Self:
        """The watch passes over older dead letters, so it would never delete them. The default adapts instead."""
        chosen, longest = self.dead_letters.unproven_retention_seconds, self.max_unproven_retention_seconds
        if "unproven_retention_seconds" in self.dead_letters.model_fields_set and chosen > longest:
            raise ValueError(
                f"dead_letters.unproven_retention_seconds: {_plain(chosen)} is more than {_plain(longest)}, which is "
                f"{_UNPROVEN_SHARE:g} times journal.retention_seconds ({self.journal.retention_seconds}); lower it, or "
                "raise journal.retention_seconds"
            )
        return self

    @property
    def max_unproven_retention_seconds(self) -> float:
        """The longest time for which the worker can keep an answered dead letter without a proven sender."""
        return _UNPROVEN_SHARE * self.journal.retention_seconds

    @model_validator(mode="after")
    def _require_host_names(self) -> Self:
        for setting, hosts in (("flow_hosts", self.flow_hosts), ("plain_http_hosts", self.plain_http_hosts)):
            for host in hosts:
                if "/" in host or (setting == "flow_hosts" and ":" in host):
                    form = "host" if setting == "flow_hosts" else "host:port"
                    raise ValueError(f"{setting}: '{host}' is not of the form '{form}'; leave out scheme and path")
        return self

    @model_validator(mode="after")
    def _require_flow_names_that_fit_a_request(self) -> Self:
        for name in self.flows:
            if not 1 <= len(name) <= MAX_FLOW_NAME_LENGTH:
                raise ValueError(
                    f"flows: the name '{name[:40]}…' has {len(name)} characters; a request can name a flow of 1 to "
                    f"{MAX_FLOW_NAME_LENGTH}"
                )
        return self

    @property
    def progress_queues(self) -> dict[str, str]:
        """The same for the queues whose gateways want to know how far requests have come."""
        wanted = {queue.name.lower() for queue in self.request_queues if queue.progress}
        return {name: reply_queue for name, reply_queue in self.gateway_reply_queues.items() if name in wanted}

    @property
    def gateway_reply_queues(self) -> dict[str, str]:
        """The reply queue of each request queue of a gateway, by the request queue's name in lower case."""
        return {
            queue.name.lower(): queue.reply_to
            for queue in self.request_queues
            if queue.authority == "gateway" and queue.reply_to is not None
        }

    def dataverse_url(self, queue: RequestQueue) -> str | None:
        """Return the URL of the organization that decides about the privileges of a queue's senders."""
        return queue.dataverse_url or self.dataverse.url

    @property
    def dataverse_urls(self) -> tuple[str, ...]:
        """The URLs of all organizations that the worker queries or writes to, without repetition."""
        of_queues = {url for queue in self.request_queues if (url := self.dataverse_url(queue))}
        others = {sink.url for sink in self.delivery.values()} | {self.run_records.url_for(self.flows, self.dataverse)}
        return tuple(sorted(of_queues | {url for url in others if url}))

    @model_validator(mode="after")
    def _require_dataverse_for_privileges(self) -> Self:
        """A flow of a Dataverse queue needs that queue's organization. Any other one needs that of one queue."""
        for name, flow in self.flows.items():
            if flow.privilege is None:
                continue
            needs = f"flows.{name}.privilege: '{flow.privilege}' needs a Dataverse organization to query"
            if all(self.dataverse_url(queue) is None for queue in self.request_queues):
                raise ValueError(f"{needs}; set dataverse.url")
            for queue in self.request_queues:
                if name in queue.flows.values() and self.dataverse_url(queue) is None:
                    raise ValueError(
                        f"{needs}, and queue '{queue.name}' has none; set its dataverse_url in request_queues"
                    )
        return self

    @model_validator(mode="after")
    def _require_known_names_in_request_queues(self) -> Self:
        for queue in self.request_queues:
            where = f"request_queues: queue '{queue.name}'"
            for unknown in sorted(set(queue.flows.values()) - self.flows.keys()):
                raise ValueError(
                    f"{where} maps a message to '{unknown}', not one of the flows: {', '.join(self.flows)}"
                )
            for bound in (name for name in queue.flows.values() if self.flows[name].bind_claim):
                # A native message carries no claim, so nothing in it could be bound to it.
                raise ValueError(
                    f"{where} maps a message to '{bound}', which has bind_claim, and native messages carry no claim; "
                    "map it to a flow without bind_claim"
                )
            replies = {reply.lower() for reply in self.replies.queues}
            if queue.authority == "gateway":
                continue  # its reply queue must not be one of them; see `_require_an_exclusive_gateway_reply_queue`
            if queue.reply_to is not None and queue.reply_to.lower() not in replies:
                allowed = ", ".join(self.replies.queues)
                raise ValueError(f"{where} has reply_to '{queue.reply_to}', not one of replies.queues: {allowed}")
        return self

    @model_validator(mode="after")
    def _require_an_exclusive_gateway_reply_queue(self) -> Self:
        """The gateway hands out what its reply queue holds, so no sender of another queue may have results put there.

        Any sender may name one of `replies.queues`, and the worker receives from the others.
        """
        taken = {name.lower(): "one of replies.queues" for name in self.replies.queues}
        taken |= {queue.name.lower(): "a request queue" for queue in self.request_queues}
        taken |= {self.continuations.queue.lower(): "the continuation queue"}
        for queue in self.request_queues:
            if queue.authority == "gateway" and (other := taken.get((queue.reply_to or "").lower())):
                raise ValueError(
                    f"request_queues: queue '{queue.name}' has reply_to '{queue.reply_to}', which is also {other}; "
                    "name a queue for the gateway's results only, such as flow-replies-gateway"
                )
        return self

    @model_validator(mode="after")
    def _require_known_sinks(self) -> Self:
        for fault in self.run_records.faults(self.flows, self.dataverse, self.journal):
            raise ValueError(fault)
        for fault in delivery_faults(self.delivery, self.request_queues, self.flows, self.journal, self.dataverse):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _require_safe_urls(self) -> Self:
        for name, flow in self.flows.items():
            self._check_flow_url(name, flow.url.get_secret_value())
        remedy = "use one such as https://login.microsoftonline.com"
        parts = split("claims.authority", self.authority, remedy, is_secret=False)
        if parts.scheme != "https" and parts.netloc not in self.plain_http_hosts:
            raise ValueError(not_https("claims.authority", parts))
        if self.dataverse.url is not None:
            self._check_dataverse_url("dataverse.url", self.dataverse.url)
        for queue in self.request_queues:
            if queue.dataverse_url is not None:
                self._check_dataverse_url(f"request_queues: queue '{queue.name}': dataverse_url", queue.dataverse_url)
        for name, sink in self.delivery.items():
            if sink.url is not None:
                self._check_dataverse_url(f"delivery.{name}.url", sink.url)
        if self.run_records.url is not None:
            self._check_dataverse_url("run_records.url", self.run_records.url)
        return self

    def _check_dataverse_url(self, setting: str, url: str) -> None:
        """The worker sends its Dataverse token to this URL, and uses it as the token's audience.

        So the URL has to be the bare origin: with a trailing slash it would be another audience. The emulator has no
        host of its own for Dataverse, so the URL of a host in `plain_http_hosts` may have a path.
        """
        remedy = "use one such as https://contoso.crm4.dynamics.com"
        parts = split(setting, url, remedy, is_secret=False)
        if parts.username is not None or parts.query or parts.fragment or url[-1] in "/?#":
            raise ValueError(f"{setting} is not an organization's bare URL, but '{shown(url)}'; {remedy}")
        if parts.path and parts.netloc not in self.plain_http_hosts:
            bare = f"{parts.scheme}://{parts.netloc}"
            raise ValueError(
                f"{setting} is '{shown(url)}', with the path '{shown(parts.path)}'; leave it out: {shown(bare)}"
            )
        if not self._is_allowed_scheme(parts):
            raise ValueError(not_https(setting, parts))

    def _check_flow_url(self, name: str, url: str) -> None:
        """Refuse a URL that the managed-identity token must not reach. The URL is a secret: no message repeats it."""
        remedy = "copy it from the flow's trigger"
        parts = split(f"flows.{name}.url", url, remedy, is_secret=True)
        if parts.username is not None:
            raise ValueError(f"flows.{name}.url is not an absolute URL without a user name; {remedy}")
        if "sig" in parse_qs(parts.query, keep_blank_values=True):
            raise ValueError(
                f"flows.{name}.url carries a SAS signature (sig=). The worker adds a bearer token, and flows refuse a "
                "call with both; set the trigger to 'Specific users in my tenant' and copy its new URL"
            )
        if not self._is_allowed_scheme(parts):
            raise ValueError(not_https(f"flows.{name}.url", parts))
        if not any(host_matches(parts.hostname or "", pattern) for pattern in self.known_flow_hosts):
            raise ValueError(
                f"flows.{name}.url points to '{parts.hostname}', which is not a flow host of the {self.cloud} cloud "
                f"({', '.join(self.facts.flow_hosts)}); set the right cloud, or name the host in flow_hosts"
            )

    def _is_allowed_scheme(self, parts: SplitResult) -> bool:
        return parts.scheme == "https" or (parts.scheme == "http" and parts.netloc in self.plain_http_hosts)

    def echo(self) -> dict[str, JsonValue]:
        """Return all settings as JSON, with every secret masked."""
        return self.model_dump(mode="json")


def _plain(number: float) -> str:
    """Return the number without an exponent, as one writes it in the settings."""
    return str(int(number)) if number == int(number) else str(number)


_S = TypeVar("_S", bound=Layered)


def load(config: Path | None = None, env_file: Path | None = None) -> Settings:
    """Read and check all of the worker's settings; see `load_as`."""
    return load_as(Settings, config, env_file)


def load_as(kind: type[_S], config: Path | None, env_file: Path | None) -> _S:
    """Read and check the worker's settings, or the part of them that a command needs.

    `config` is the TOML file; default: `$FLOW_WORKER_CONFIG`, then `flow-worker.toml` in the working directory.
    `env_file` is a file of variables; default: `.env` in the working directory, if it exists.
    Raises `InvalidSettings`, which names every fault at once.
    """
    loaded = load_checked(kind, config, env_file, set(Settings.model_fields))
    try:
        Proxies()
    except InvalidProxy as error:
        raise InvalidSettings(str(error)) from None
    return loaded
