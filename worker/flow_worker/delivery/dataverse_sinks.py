"""Builds the sinks that write to Dataverse, from the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import assert_never

from flow_worker.dataverse.client import DataverseClient
from flow_worker.delivery.dataverse_row import DataverseRowSink, RowRules
from flow_worker.delivery.in_app_notification import InAppNotificationSink, NotificationRules
from flow_worker.delivery.notification_content import NotificationTexts
from flow_worker.delivery.organization import Organization, Organizations
from flow_worker.delivery.port import Sink
from flow_worker.delivery.row_content import RowTable
from flow_worker.delivery.users import Users
from flow_worker.settings import DeliverySettings, Settings


def dataverse_sinks(
    settings: Settings, clients: Mapping[str, DataverseClient], now: Callable[[], datetime]
) -> list[Sink]:
    """Return the sinks in `settings.delivery`. `clients`: one for each URL in `settings.dataverse_urls`."""
    organizations = {url: Organization(client, Users(client, now)) for url, client in clients.items()}
    urls = {queue.name.lower(): settings.dataverse_url(queue) for queue in settings.request_queues}
    return [
        _sink(name, sink, settings, Organizations(organizations, urls, sink.url))
        for name, sink in settings.delivery.items()
    ]


def _sink(name: str, sink: DeliverySettings, settings: Settings, organizations: Organizations) -> Sink:
    match sink.kind:
        case "dataverse_row":
            return DataverseRowSink(name, organizations, _row_rules(sink))
        case "in_app_notification":
            return InAppNotificationSink(name, organizations, _notification_rules(sink, settings))
        case _:
            assert_never(sink.kind)


def _row_rules(sink: DeliverySettings) -> RowRules:
    table = RowTable(sink.set_name, sink.column_names, sink.status_choices, sink.max_output_characters)
    return RowRules(table, sink.write_pending, sink.impersonate, sink.without_impersonation)


def _notification_rules(sink: DeliverySettings, settings: Settings) -> NotificationRules:
    texts = NotificationTexts(
        titles=dict(sink.titles.items()),
        bodies=dict(sink.bodies.items()),
        toast=sink.toast,
        time_to_live_seconds=sink.time_to_live_seconds,
        action_title=sink.action_title,
        flow_titles={name: flow.title for name, flow in settings.flows.items() if flow.title},
    )
    table = None if sink.opens is None else settings.delivery[sink.opens].table_name
    return NotificationRules(frozenset(sink.statuses), texts, table)
