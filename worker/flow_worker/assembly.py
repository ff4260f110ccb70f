"""Builds parts of the worker from the settings."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from flow_worker.access.build import Access
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.delivery.build import OwnSinks
from flow_worker.delivery.dataverse_sinks import dataverse_sinks
from flow_worker.delivery.port import Settlements, Sink
from flow_worker.delivery.run_records import RunRecords
from flow_worker.delivery.run_resolver import ResolverRules, RunResolver
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.invoker import Invoker
from flow_worker.flows.limits import CallLimiter, FlowLimits, SenderLimits
from flow_worker.journal import Journal
from flow_worker.pipeline.authorize import Admission, Decided
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.ports import Bus
from flow_worker.runtime.replies import Replies
from flow_worker.settings import Settings


def lane_counts(settings: Settings) -> dict[str, int]:
    """Return the number of lanes of each queue."""
    requests = {queue.name: queue.lanes for queue in settings.request_queues}
    return requests | {settings.continuations.queue: settings.continuations.lanes}


def build_admission(settings: Settings, access: Access, checks: InputChecks, decided: Decided) -> Admission:
    """Return the part that admits or refuses requests."""
    return Admission(
        authorities=access.authorities,
        rights=access.rights,
        registry=access.registry,
        input_checks=checks,
        reply_queues=settings.replies.queues,
        gateway_queues=settings.gateway_reply_queues,
        binding_claim=settings.claims.binding_claim,
        explain_refusals=settings.explain_refusals,
        decided=decided,
    )


def call_limiter(settings: Settings, now: Callable[[], datetime]) -> CallLimiter:
    """Return the limits of all flows and senders."""
    limits = {
        name: FlowLimits(**(flow.limits or settings.limits).model_dump()) for name, flow in settings.flows.items()
    }
    of_sender = settings.senders
    senders = SenderLimits(of_sender.max_in_flight, of_sender.max_calls, of_sender.window_seconds)
    return CallLimiter(limits, now, lanes=lane_counts(settings), senders=senders)


def invoker(settings: Settings, identity: ManagedIdentity) -> Invoker:
    """Return the caller of the flows."""
    return Invoker(
        identity.tokens(settings.facts.flow_scope),
        connect_seconds=settings.http.connect_seconds,
        max_connections=settings.http.max_connections,
        keepalive_seconds=settings.http.keepalive_seconds,
        status_seconds=settings.http.status_seconds,
        max_response_bytes=settings.http.max_response_bytes,
        decode_seconds=settings.http.decode_seconds,
    )


def sinks(settings: Settings, access: Access, now: Callable[[], datetime]) -> list[Sink]:
    """Return the sinks in the settings."""
    clients = {url: organization.client for url, organization in access.organizations.items()}
    return dataverse_sinks(settings, clients, now) if settings.delivery else []


def replies(settings: Settings, bus: Bus, *, publish_seconds: float | None = None) -> Replies:
    """Return the publisher of results. `publish_seconds`: by default the one of the settings."""
    of_replies = settings.replies
    return Replies(
        Outbox(bus),
        time_to_live=timedelta(seconds=of_replies.time_to_live_seconds),
        publish_seconds=of_replies.publish_seconds if publish_seconds is None else publish_seconds,
        gateway_queues=settings.gateway_reply_queues.values(),
    )


def own_sinks(settings: Settings, access: Access, journal: Journal, bus: Bus, now: Callable[[], datetime]) -> OwnSinks:
    """Return the sinks that the worker itself adds: the resolver of `unknown` results, if it is configured."""
    records = settings.run_records
    url = records.url_for(settings.flows, settings.dataverse)
    if url is None:
        return lambda _: ()
    rules = ResolverRules(
        grace=timedelta(seconds=records.grace_seconds),
        pause=timedelta(seconds=records.pause_seconds),
        max_pause=timedelta(seconds=records.max_pause_seconds),
        max_age=timedelta(seconds=records.max_seconds),
        skew=timedelta(seconds=records.clock_skew_seconds),
        page_url=records.page_url,
    )

    def resolver(settlements: Settlements) -> list[Sink]:
        return [
            RunResolver(
                RunRecords(access.organizations[url].client),
                journal,
                replies(settings, bus, publish_seconds=records.attempt_seconds / 2),
                settlements,
                rules,
                flows=records.flows(settings.flows),
                workflows={name: flow.workflow_id for name, flow in settings.flows.items() if flow.workflow_id},
                now=now,
            )
        ]

    return resolver
