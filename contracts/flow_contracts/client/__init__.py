"""The sender's side: post requests to run flows, look for their results by correlation ID.

`FlowClient` is for asyncio, `FlowClientSync` the same without it. Both need azure-servicebus.
"""

from flow_contracts.client.background import Background
from flow_contracts.client.bus import Deadlines
from flow_contracts.client.errors import (
    Misconfigured,
    NotOutstanding,
    RequestTooLarge,
    ResultTimeout,
    ServiceBusTrouble,
    SessionInUse,
    Unreachable,
)
from flow_contracts.client.flow_client import FlowClient
from flow_contracts.client.submission import Options
from flow_contracts.client.sync import BackgroundSync, FlowClientSync

__all__ = [
    "Background",
    "BackgroundSync",
    "Deadlines",
    "FlowClient",
    "FlowClientSync",
    "Misconfigured",
    "NotOutstanding",
    "Options",
    "RequestTooLarge",
    "ResultTimeout",
    "ServiceBusTrouble",
    "SessionInUse",
    "Unreachable",
]
