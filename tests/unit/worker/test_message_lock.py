"""The renewal of a message lock goes on through an outage, and logs it once."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus import Delivery, ServiceBusUnavailable
from flow_worker.runtime.message_lock import kept_locked


class AwayThenBack:
    """Fails the first renewals."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.renewals = 0
        self.renewed = asyncio.Event()

    async def renew(self, delivery: Delivery) -> None:
        self.renewals += 1
        if self.renewals <= self.failures:
            raise ServiceBusUnavailable("connection refused")
        delivery.lock_ends_at = time.monotonic() + 60
        self.renewed.set()


async def test_an_outage_of_many_renewals_is_one_line() -> None:
    receiver: Any = AwayThenBack(failures=3)
    raw: Any = None
    delivery = Delivery(ReceivedMessage(body=b"{}", enqueued_at=datetime.now(UTC)), raw, time.monotonic() + 2.0)
    events: list[str] = []
    async with kept_locked(receiver, delivery, lambda _, event, __, ___: events.append(event)):
        await asyncio.wait_for(receiver.renewed.wait(), 9)
    assert receiver.renewals == 4
    assert events == ["request.lock_renewal_failed"]
