"""Where the parts are joined that decide who may start which flow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from flow_worker import clock
from flow_worker.access.dataverse import Dataverse, Patience
from flow_worker.access.entra import EntraAuthority, SigningKeys
from flow_worker.access.issuer import issuers
from flow_worker.access.keys import IssuerKeys
from flow_worker.access.rights import Asserters, Rights
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.flows.invoker import http_client
from flow_worker.flows.registry import Registry
from flow_worker.flows.status_url import StatusHosts
from flow_worker.settings import DataverseSettings, Settings


@dataclass(frozen=True, slots=True)
class Gate:
    """What a request has to pass before its flow is called."""

    authority: EntraAuthority
    rights: Rights
    registry: Registry
    dataverse: Dataverse | None
    """Who knows privileges; None if no flow asks for one."""


@asynccontextmanager
async def gate_of(settings: Settings, identity: ManagedIdentity) -> AsyncIterator[Gate]:
    """The gate as the settings have it. `identity`: as whom Dataverse is asked."""
    async with AsyncExitStack() as stack:
        keys = await stack.enter_async_context(_keys(settings))
        dataverse = None
        if settings.dataverse is not None:
            dataverse = await stack.enter_async_context(_dataverse(settings, settings.dataverse, identity))
        asserters = Asserters(frozenset(settings.claims.asserters), settings.claims.asserter_role)
        hosts = StatusHosts(settings.known_flow_hosts, frozenset(settings.plain_http_hosts))
        yield Gate(_authority(settings, keys), Rights(asserters, dataverse), Registry(settings.flows, hosts), dataverse)


@asynccontextmanager
async def identity_of(settings: Settings) -> AsyncIterator[ManagedIdentity]:
    """The worker's own identity."""
    chosen = settings.identity
    async with ManagedIdentity(client_id=chosen.client_id, deadline_seconds=chosen.token_seconds) as one:
        yield one


def _authority(settings: Settings, keys: SigningKeys) -> EntraAuthority:
    claims = settings.claims
    return EntraAuthority(
        keys,
        issuers=issuers(claims.tenants, authority=settings.authority, authority_v1=settings.authority_v1),
        audiences=claims.audiences,
        algorithms=claims.algorithms,
        skew_seconds=claims.clock_skew_seconds,
        max_age_seconds=claims.max_age_seconds,
        now=clock.now,
    )


@asynccontextmanager
async def _dataverse(
    settings: Settings, asked: DataverseSettings, identity: ManagedIdentity
) -> AsyncIterator[Dataverse]:
    client = http_client(
        connect_seconds=settings.http.connect_seconds,
        max_connections=asked.max_concurrent_queries,
        keepalive_seconds=15,
    )
    async with client:
        yield Dataverse(
            client,
            asked.url,
            identity.tokens(f"{asked.url}/.default"),
            Patience(asked.privilege_cache_seconds, asked.missing_privilege_cache_seconds, asked.request_seconds),
            concurrent=asked.max_concurrent_queries,
            now=clock.now,
        )


@asynccontextmanager
async def _keys(settings: Settings) -> AsyncIterator[IssuerKeys]:
    claims = settings.claims
    client = http_client(connect_seconds=settings.http.connect_seconds, max_connections=8, keepalive_seconds=15)
    async with client:
        yield IssuerKeys(
            client,
            lifetime_seconds=claims.keys_lifetime_seconds,
            refresh_seconds=claims.keys_refresh_seconds,
            cooldown_seconds=claims.unknown_key_cooldown_seconds,
            fetch_seconds=claims.fetch_seconds,
        )
