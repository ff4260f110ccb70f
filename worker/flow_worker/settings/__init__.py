"""The worker's settings: environment (`FLOW_WORKER_…`), `.env`, and a TOML file; checked at start, echoed masked.

Precedence: environment, then `.env`, then the TOML file. Two underscores join nested names:
`FLOW_WORKER_SERVICEBUS__NAMESPACE` is `[servicebus] namespace`. The names carry the units.
"""

from flow_worker.settings.delivery import DeliverySettings, OutboxSettings
from flow_worker.settings.gateway import GatewayLimits, GatewaySettings, GatewayStoreSettings
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
)
from flow_worker.settings.loading import InvalidSettings, Layered
from flow_worker.settings.run_records import RecordedFlow, RunRecordSettings
from flow_worker.settings.service_bus import ServiceBusSettings
from flow_worker.settings.settings import Settings, load, load_as
from flow_worker.settings.statements import StatementSettings

__all__ = [
    "ClaimSettings",
    "ContinuationSettings",
    "DataverseSettings",
    "DeadLetterSettings",
    "DeliverySettings",
    "FlowSettings",
    "GatewayLimits",
    "GatewaySettings",
    "GatewayStoreSettings",
    "HealthSettings",
    "HttpSettings",
    "IdentitySettings",
    "InputCheckSettings",
    "InvalidSettings",
    "JournalSettings",
    "Layered",
    "LimitSettings",
    "LogSettings",
    "OutboxSettings",
    "RecordedFlow",
    "ReplySettings",
    "RequestQueue",
    "RetrySettings",
    "RunRecordSettings",
    "ServiceBusSettings",
    "Settings",
    "StatementSettings",
    "load",
    "load_as",
]
