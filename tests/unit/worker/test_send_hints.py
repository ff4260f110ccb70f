"""What `flow-worker send` says about a missing claim, and where a request without a result is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus import ServiceBusMisconfigured, ServiceBusUnavailable
from flow_worker.cli import send_hints
from flow_worker.cli.request_commands import SenderSettings
from flow_worker.cli.send_hints import connecting_hint, failure_text, ignored_hint, no_claim_hint, where_is
from flow_worker.settings import ServiceBusSettings

SETTINGS = ServiceBusSettings(namespace="contoso.servicebus.windows.net")


def message(correlation_id: str | None, message_id: str = "m", deliveries: int = 0) -> ReceivedMessage:
    return ReceivedMessage(
        body=b"",
        message_id=message_id,
        correlation_id=correlation_id,
        sequence_number=1,
        enqueued_at=datetime.now(UTC),
        delivery_count=deliveries,
    )


class Bus:
    def __init__(self, queues: dict[str, list[ReceivedMessage] | Exception]) -> None:
        self.queues = queues

    @asynccontextmanager
    async def browser(self, queue: str) -> AsyncIterator[AsyncIterator[ReceivedMessage]]:
        messages = self.queues[queue]
        if isinstance(messages, Exception):
            raise messages

        async def each() -> AsyncIterator[ReceivedMessage]:
            for one in messages:
                yield one
                await asyncio.sleep(0)

        yield each()


async def said(monkeypatch: pytest.MonkeyPatch, **queues: Any) -> str:
    @asynccontextmanager
    async def opened(_: ServiceBusSettings) -> AsyncIterator[Bus]:
        yield Bus({"requests": [], "continuations": []} | queues)

    monkeypatch.setattr(send_hints, "open_service_bus", opened)
    return await where_is(SETTINGS, "requests", "continuations", "c")


@pytest.mark.parametrize(
    ("queues", "part"),
    [
        ({"requests": [message("other"), message("c")]}, "still in the queue 'requests': no worker has finished it"),
        ({"requests": [message("c", deliveries=3)]}, "still in the queue 'requests' (delivered 3 times)"),
        ({"requests": [message(None, "c")]}, "still in the queue 'requests'"),
        ({"continuations": [message("c")]}, "waits in the queue 'continuations'"),
        ({}, "no longer in 'requests' or 'continuations'"),
        ({"requests": ServiceBusMisconfigured("x")}, "this identity may not read the queues"),
        ({"continuations": ServiceBusMisconfigured("x")}, "this identity may not read the queues"),
        ({"requests": ServiceBusUnavailable("no connection")}, "is not known: no connection"),
    ],
)
async def test_send_says_where_a_request_without_a_result_is(
    monkeypatch: pytest.MonkeyPatch, queues: dict[str, Any], part: str
) -> None:
    assert part in await said(monkeypatch, **queues)


async def test_a_queue_with_too_many_messages_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_hints, "MAX_SEARCH_SECONDS", 0.05)
    many = [message("other")] * 1_000_000
    assert "too many messages" in await said(monkeypatch, requests=many)


def test_a_missing_claim_is_named_with_its_consequence_and_the_command_that_gets_one() -> None:
    known = no_claim_hint(["api://flow-worker", "api://other"])
    assert "claim_missing" in known
    assert "az account get-access-token --resource api://flow-worker --query accessToken --output tsv" in known
    assert "--resource AUDIENCE" in no_claim_hint([])
    assert "claims.audiences" in no_claim_hint([])
    assert "\x1b" not in no_claim_hint(["api://\x1b[2J"])


def test_a_sender_reads_the_audience_and_ignores_faults_in_the_rest_of_the_workers_settings() -> None:
    settings = SenderSettings.model_validate(
        {
            "servicebus": {"namespace": "contoso.servicebus.windows.net"},
            "claims": {"audiences": ["api://x"], "tenants": ["no-guid"], "max_lifetime_seconds": -1},
            "continuations": {"queue": "later", "seal_key": "short"},
        }
    )
    assert settings.claims.audiences == ("api://x",)
    assert settings.continuations.queue == "later"


def test_ignored_messages_are_counted_and_name_the_reply_key() -> None:
    assert ignored_hint(1).startswith("1 message was ignored: its MAC does not fit this reply key.")
    assert ignored_hint(2).startswith("2 messages were ignored: their MACs do not fit this reply key.")


def test_only_an_unreachable_broker_gets_the_remedy() -> None:
    text = failure_text(ServiceBusUnavailable("refused"), "contoso.example", 10)
    assert text.startswith("Service Bus at contoso.example did not answer within 10 s (--connect-seconds).")
    assert "`flow-worker doctor`" in text
    assert text.endswith("\nThe last error: refused")
    assert failure_text(ServiceBusMisconfigured("no such queue"), "contoso.example", 10) == "no such queue"


@pytest.mark.parametrize(
    ("on_terminal", "seconds", "said"), [(True, 0.0, True), (True, 60.0, False), (False, 0.0, False)]
)
async def test_a_slow_connection_is_named_on_a_terminal(
    on_terminal: bool, seconds: float, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    monkeypatch.setattr(send_hints, "_SILENT_SECONDS", seconds)
    with connecting_hint("contoso.servicebus.windows.net"):
        await asyncio.sleep(0.01)
    assert ("Connecting to contoso.servicebus.windows.net" in capsys.readouterr().err) == said
