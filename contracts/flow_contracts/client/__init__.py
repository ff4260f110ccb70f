"""The sender's client: it posts requests to run flows and finds their results by correlation ID.

`FlowClient` is for asyncio. `FlowClientSync` has the same methods, blocking.
"""

from flow_contracts.client.background import Background
from flow_contracts.client.errors import NotOutstanding, ResultTimeout
from flow_contracts.client.flow_client import FlowClient
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
