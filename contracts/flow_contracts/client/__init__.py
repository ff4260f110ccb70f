"""The sender's client: it posts requests to run flows and finds their results by correlation ID.

`FlowClient` uses Service Bus, and `HttpFlowClient` the HTTP gateway. Both are for asyncio; `FlowClientSync` and
`HttpFlowClientSync` have the same methods, blocking.
"""

from flow_contracts.client.background import Background
from flow_contracts.client.errors import (
    GatewayFailure,
    GatewayRefused,
    GatewayUnavailable,
    NotOutstanding,
    ResultTimeout,
)
from flow_contracts.client.flow_client import FlowClient
from flow_contracts.client.http_client import FlowDescription, HttpFlowClient, HttpRequestOptions
from flow_contracts.client.http_sync import HttpFlowClientSync
from flow_contracts.client.request_builder import RequestOptions
from flow_contracts.client.sync import BackgroundSync, FlowClientSync
from flow_contracts.reply_key import new_reply_key
from flow_contracts.servicebus import (
    Deadlines,
    MessageTooLarge,
    ServiceBusFailure,
    ServiceBusMisconfigured,
    ServiceBusUnavailable,
    SessionInUse,
)

__all__ = [
    "Background",
    "BackgroundSync",
    "Deadlines",
    "FlowClient",
    "FlowClientSync",
    "FlowDescription",
    "GatewayFailure",
    "GatewayRefused",
    "GatewayUnavailable",
    "HttpFlowClient",
    "HttpFlowClientSync",
    "HttpRequestOptions",
    "MessageTooLarge",
    "NotOutstanding",
    "RequestOptions",
    "ResultTimeout",
    "ServiceBusFailure",
    "ServiceBusMisconfigured",
    "ServiceBusUnavailable",
    "SessionInUse",
    "new_reply_key",
]
