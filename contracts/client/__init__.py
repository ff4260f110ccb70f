"""The sender's side: post requests to run flows, look for their results by correlation ID.

`FlowClient` is for asyncio, `FlowClientSync` the same without it. Both need azure-servicebus.
"""

from contracts.client.background import Background
from contracts.client.bus import Deadlines
from contracts.client.errors import (
    Misconfigured,
    NotOutstanding,
    RequestTooLarge,
    ResultTimeout,
    ServiceBusTrouble,
    SessionInUse,
    Unreachable,
)
from contracts.client.flow_client import FlowClient
from contracts.client.submission import Options
from contracts.client.sync import BackgroundSync, FlowClientSync

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
