"""Builds the parts that authenticate and authorise a request, from the settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, assert_never

from flow_worker import clock
from flow_worker.access.audiences import clients_of
from flow_worker.access.authorities import Authority
from flow_worker.access.dataverse import DataverseAuthority
from flow_worker.access.entra import ClaimLimits, EntraAuthority, SigningKeys
from flow_worker.access.gateway import GatewayAuthority
from flow_worker.access.issuer import issuers_of
from flow_worker.access.keys import IssuerKeys
from flow_worker.access.privileges import DataversePrivileges, OrganizationPrivileges, PrivilegeCacheTimes
from flow_worker.access.rights import Asserters, QueuePrivileges, Rights
from flow_worker.access.statement_key_files import PublicKeys
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.dataverse.client import DataverseClient
from flow_worker.dataverse.request_budget import RequestBudget
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.invoker import http_client
from flow_worker.flows.registry import Registry
from flow_worker.flows.status_url import StatusHosts
from flow_worker.settings import (
    ClaimSettings,
    DataverseSettings,
    HttpSettings,
    IdentitySettings,
    InvalidSettings,
    RequestQueue,
    Settings,
)
from flow_worker.telemetry.logs import log
from flow_worker.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

_MAX_CONCURRENT_REQUESTS = 52
"""Dataverse's limit for one user (Microsoft Learn, "Service protection API limits")."""


class IssuerSettings(Protocol):
    """The settings of the issuers: those of the worker, and those of the gateway."""

    @property
    def claims(self) -> ClaimSettings: ...
    @property
    def authority(self) -> str: ...
    @property
    def authority_v1(self) -> str: ...
    @property
    def http(self) -> HttpSettings: ...


class PrivilegeSettings(Protocol):
    """The settings of the queries for privileges."""

    @property
    def dataverse(self) -> DataverseSettings: ...
    @property
    def http(self) -> HttpSettings: ...


class _IdentityHolder(Protocol):
    @property
    def identity(self) -> IdentitySettings: ...


@dataclass(frozen=True, slots=True)
class Access:
    """The parts that decide whether a request may start its flow."""

    authorities: Mapping[str, Authority]
    """The authority of each request queue, by the queue's name."""
    entra: EntraAuthority
    """The authority for claims that arrive outside a queue."""
    rights: Rights
    registry: Registry
    organizations: Mapping[str, DataversePrivileges]
    """The Dataverse organizations that decide about privileges, by their URLs."""

    def privileges(self, queue: RequestQueue, settings: Settings) -> DataversePrivileges | None:
        """Return the organization that decides about the privileges of a queue's senders."""
        url = settings.dataverse_url(queue)
        return None if url is None else self.organizations[url]


@asynccontextmanager
async def build_access(
    settings: Settings,
    identity: ManagedIdentity,
    now: Callable[[], datetime] = clock.now,
    metrics: Metrics | None = None,
) -> AsyncIterator[Access]:
    """Build the parts and open their HTTP clients. The worker queries Dataverse as `identity`.

    `now` returns the time in UTC. `metrics` get the durations of the fetches of keys.
    """
    async with AsyncExitStack() as stack:
        entra = _entra(settings, await stack.enter_async_context(_keys(settings, metrics)), now)
        organizations = {
            url: await stack.enter_async_context(_privileges(settings, url, identity, now))
            for url in settings.dataverse_urls
        }
        asserters = Asserters(frozenset(settings.claims.asserters), settings.claims.asserter_role)
        hosts = StatusHosts(settings.known_flow_hosts, frozenset(settings.plain_http_hosts))
        gateway = _gateway(settings, now)
        yield Access(
            authorities={queue.name: _authority_of(queue, entra, gateway) for queue in settings.request_queues},
            entra=entra,
            rights=Rights(
                asserters,
                organizations.get(settings.dataverse.url or ""),
                of_queues={
                    queue.name: _privileges_of(queue, settings, organizations) for queue in settings.request_queues
                },
            ),
            registry=Registry(settings.flows, hosts),
            organizations=organizations,
        )


@asynccontextmanager
async def build_entra(
    settings: IssuerSettings, now: Callable[[], datetime], metrics: Metrics | None = None
) -> AsyncIterator[EntraAuthority]:
    """Build the authority `entra` alone, for a process that verifies callers before they reach a queue."""
    async with _keys(settings, metrics) as keys:
        yield _entra(settings, keys, now)


@asynccontextmanager
async def build_privileges(
    settings: PrivilegeSettings, url: str, identity: ManagedIdentity, now: Callable[[], datetime]
) -> AsyncIterator[DataversePrivileges]:
    """Build the source of the privileges in one organization, which is queried as `identity`."""
    async with _privileges(settings, url, identity, now) as privileges:
        yield privileges


async def verify_organizations(settings: Settings, access: Access) -> None:
    """Compare the organization of each Dataverse queue with the one behind its URL.

    Raises `InvalidSettings` if they differ. If Dataverse does not answer now, the queue's requests wait until it has.
    """
    queues = [queue for queue in settings.request_queues if queue.organization is not None]
    await asyncio.gather(*(_verify_organization(queue, access.privileges(queue, settings)) for queue in queues))


async def _verify_organization(queue: RequestQueue, dataverse: DataversePrivileges | None) -> None:
    if dataverse is None:
        return
    try:
        found = await dataverse.organization()
    except TemporarilyUnavailable as error:
        sentence = "The worker could not compare a queue's organization with its Dataverse; the queue's requests wait."
        log(_log, logging.WARNING, "dataverse.organization_unverified", sentence, queue=queue.name, error=error.message)
        return
    if found != queue.organization:
        raise InvalidSettings(
            f"request_queues: queue '{queue.name}' is for the organization {queue.organization}, and its Dataverse is "
            f"the organization {found}; set the queue's dataverse_url to the URL of the organization that sends to it"
        )


def _privileges_of(
    queue: RequestQueue, settings: Settings, organizations: Mapping[str, DataversePrivileges]
) -> QueuePrivileges:
    """Return the source of the privileges of one queue's senders."""
    url = settings.dataverse_url(queue)
    if url is None:
        return QueuePrivileges(None)
    source = organizations[url]
    others = [other for other in settings.request_queues if settings.dataverse_url(other) != url]
    elsewhere = {name for other in others for name in other.flows.values()}
    names = set(queue.flows.values()) if queue.authority == "dataverse" else settings.flows.keys() - elsewhere
    known = frozenset(privilege for name in names if (privilege := settings.flows[name].privilege))
    if queue.organization is None:
        return QueuePrivileges(source, known)
    return QueuePrivileges(OrganizationPrivileges(source, queue.organization), known, queue.organization)


@asynccontextmanager
async def build_identity(settings: _IdentityHolder, metrics: Metrics | None = None) -> AsyncIterator[ManagedIdentity]:
    """Open the worker's managed identity. `metrics` get the durations of its fetches."""
    async with ManagedIdentity(
        client_id=settings.identity.client_id, deadline_seconds=settings.identity.token_seconds, metrics=metrics
    ) as identity:
        yield identity


def _authority_of(queue: RequestQueue, entra: EntraAuthority, gateway: GatewayAuthority | None) -> Authority:
    """Return the authority of one request queue. All `entra` queues share one, and so its cache of verified tokens."""
    match queue.authority:
        case "entra":
            return entra
        case "dataverse":
            if queue.organization is None:
                raise ValueError(f"queue '{queue.name}' has no organization")  # RequestQueue refuses this before
            return DataverseAuthority(queue.organization)
        case "gateway":
            if gateway is None:
                raise ValueError(f"queue '{queue.name}' has no authority")  # `_gateway` makes one for such a queue
            return gateway
        case _:
            assert_never(queue.authority)


def _gateway(settings: Settings, now: Callable[[], datetime]) -> GatewayAuthority | None:
    """Return the authority of the queues of gateways; None if there is no such queue, and so no need for keys."""
    if all(queue.authority != "gateway" for queue in settings.request_queues):
        return None
    claims = settings.claims
    return GatewayAuthority(
        PublicKeys(settings.statements),
        issuer=settings.statements.issuer,
        tenants=claims.tenants,
        limits=_limits(claims),
        binding_claim=claims.binding_claim,
        skew_seconds=claims.clock_skew_seconds,
        max_age_seconds=claims.max_age_seconds,
        now=now,
    )


def _limits(claims: ClaimSettings) -> ClaimLimits:
    return ClaimLimits(frozenset(claims.scopes), frozenset(claims.clients), claims.max_lifetime_seconds)


def _entra(settings: IssuerSettings, keys: SigningKeys, now: Callable[[], datetime]) -> EntraAuthority:
    claims = settings.claims
    return EntraAuthority(
        keys,
        issuers=issuers_of(claims.tenants, authority=settings.authority, authority_v1=settings.authority_v1),
        audiences=claims.audiences,
        algorithms=claims.algorithms,
        skew_seconds=claims.clock_skew_seconds,
        max_age_seconds=claims.max_age_seconds,
        now=now,
        limits=_limits(claims),
    )


@asynccontextmanager
async def _privileges(
    settings: PrivilegeSettings, url: str, identity: ManagedIdentity, now: Callable[[], datetime]
) -> AsyncIterator[DataversePrivileges]:
    dataverse = settings.dataverse
    async with open_dataverse(settings, url, identity, now) as client:
        yield DataversePrivileges(
            client,
            PrivilegeCacheTimes(dataverse.privilege_cache_seconds, dataverse.missing_privilege_cache_seconds),
            max_concurrent_queries=dataverse.max_concurrent_queries,
            now=now,
        )


@asynccontextmanager
async def open_dataverse(
    settings: PrivilegeSettings, url: str, identity: ManagedIdentity, now: Callable[[], datetime]
) -> AsyncIterator[DataverseClient]:
    """Open the client of one organization's Web API."""
    client = http_client(
        connect_seconds=settings.http.connect_seconds,
        max_connections=_MAX_CONCURRENT_REQUESTS,
        keepalive_seconds=15,
    )
    async with client:
        tokens = identity.tokens(f"{url}/.default", "dataverse")
        budget = RequestBudget(settings.dataverse.max_delivery_requests, now)
        seconds = settings.dataverse.request_seconds
        yield DataverseClient(client, url, tokens, request_seconds=seconds, now=now, budget=budget)


@asynccontextmanager
async def _keys(settings: IssuerSettings, metrics: Metrics | None) -> AsyncIterator[IssuerKeys]:
    claims = settings.claims
    client = http_client(connect_seconds=settings.http.connect_seconds, max_connections=8, keepalive_seconds=15)
    async with client:
        yield IssuerKeys(
            client,
            lifetime_seconds=claims.keys_lifetime_seconds,
            refresh_seconds=claims.keys_refresh_seconds,
            cooldown_seconds=claims.unknown_key_cooldown_seconds,
            fetch_seconds=claims.fetch_seconds,
            timer=None if metrics is None else metrics.keys_duration,
            client_ids=frozenset[str]().union(*clients_of(claims.audiences, claims.tenants).values()),
        )
