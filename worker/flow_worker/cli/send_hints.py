"""What `flow-worker send` says about a request without a claim, and about one without a result."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus import ServiceBus, ServiceBusFailure, ServiceBusMisconfigured, ServiceBusUnavailable
from flow_worker.cli.terminal import echo, visible
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import ServiceBusSettings

MAX_SEARCH_SECONDS = 15.0
"""The longest search of one queue. A queue with very many messages is not read to its end."""

_SILENT_SECONDS = 1.0


class _Part(BaseModel):
    """A part of the worker's settings. Faults in the rest of it are no concern of a sender."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class SenderClaims(_Part):
    """The part of the settings `claims` that says what a claim is issued for."""

    audiences: tuple[str, ...] = ()


class SenderContinuations(_Part):
    """The part of the settings `continuations` that says where a request waits."""

    queue: str = "flow-continuations"


def no_claim_hint(audiences: Sequence[str]) -> str:
    """Return what happens to a request without a claim, and how to get one."""
    audience = visible(audiences[0]) if audiences else "AUDIENCE"
    where = "" if audiences else "\nAUDIENCE is one of the worker's claims.audiences, such as api://flow-worker."
    return (
        "The request has no claim, so the worker will refuse it: 'claim_missing'. Set FLOW_WORKER_CLAIM to an access "
        f"token for the worker. The Azure CLI prints one:\n"
        f"  az account get-access-token --resource {audience} --query accessToken --output tsv{where}"
    )


def ignored_hint(count: int) -> str:
    """Return the sentence about messages that the reply key does not prove."""
    subject = "1 message was ignored: its MAC does" if count == 1 else f"{count} messages were ignored: their MACs do"
    return f"{subject} not fit this reply key. Set FLOW_WORKER_REPLY_KEY to the reply key of the request."


def failure_text(error: Exception, address: str, seconds: float) -> str:
    """Return the message of an error, with the remedy if Service Bus does not answer within `seconds`."""
    if not isinstance(error, ServiceBusUnavailable):
        return str(error)
    return (
        f"Service Bus at {address} did not answer within {seconds:g} s (--connect-seconds). Is the emulator running, "
        f"or the namespace reachable? `flow-worker doctor` checks the installation.\nThe last error: {error}"
    )


@contextmanager
def connecting_hint(host: str) -> Iterator[None]:
    """Say on the terminal's stderr that the command still connects, if the block takes a second and more."""
    if not sys.stderr.isatty():
        yield
        return
    text = f"Connecting to {visible(host)} …"
    timer = asyncio.get_running_loop().call_later(_SILENT_SECONDS, lambda: echo(text, to_stderr=True))
    try:
        yield
    finally:
        timer.cancel()


async def where_is(settings: ServiceBusSettings, requests: str, continuations: str, correlation_id: str) -> str:
    """Return whether the request still waits in one of the queues, as far as this identity may look."""
    try:
        async with open_service_bus(settings) as bus:
            if (waiting := await _find(bus, requests, correlation_id)) is not None:
                return (
                    f"The request is still in the queue '{requests}'{_deliveries(waiting)}: no worker has finished it. "
                    "Is a worker running? `flow-worker status` asks it."
                )
            if await _find(bus, continuations, correlation_id) is not None:
                return (
                    f"The request waits in the queue '{continuations}' for its next attempt or status poll. Use "
                    "`flow-worker result --wait`; `flow-worker journal show` prints the reason."
                )
    except ServiceBusMisconfigured:
        return (
            "Whether the request is still queued is not known: this identity may not read the queues (it lacks Listen, "
            "or Azure Service Bus Data Receiver)."
        )
    except (ServiceBusFailure, TimeoutError) as error:
        return f"Whether the request is still queued is not known: {_text(error)}."
    return (
        f"The request is no longer in '{requests}' or '{continuations}': a worker has taken it. Its result may be on "
        "its way, or another reader took it."
    )


def _deliveries(message: ReceivedMessage) -> str:
    """Return how often a worker had it. A message that a worker holds right now still counts as queued."""
    return f" (delivered {message.delivery_count} times)" if message.delivery_count else ""


def _text(error: Exception) -> str:
    return "the queue has too many messages to read in time" if isinstance(error, TimeoutError) else str(error)


async def _find(bus: ServiceBus, queue: str, correlation_id: str) -> ReceivedMessage | None:
    async with asyncio.timeout(MAX_SEARCH_SECONDS):
        async with bus.browser(queue) as messages:
            async for message in messages:
                if (message.correlation_id or message.message_id) == correlation_id:
                    return message
    return None
