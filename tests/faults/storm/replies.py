"""Collects every message of the reply queue, straight from the broker: the oracle counts them by their message IDs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flow_contracts.message import ReceivedMessage
from flow_contracts.result import FlowResult
from flow_contracts.servicebus import ServiceBus, ServiceBusFailure
from tests.faults.storm.configuration import REPLIES

SESSIONS = ("storm-0", "storm-1", "storm-2")
_WAIT_SECONDS = 1.0
_RECONNECT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Collected:
    """One message of the reply queue."""

    request_id: str
    message_id: str
    sequence_number: int
    enqueued: float
    """By the broker's clock, seconds since the epoch."""
    status: str
    code: str | None
    retryable: bool
    attempts: int
    echo: str | None
    """The request's ID in the flow's output; None if there is no such output."""


@dataclass
class Replies:
    """All collected results, by the message ID of their request."""

    bus: ServiceBus
    record: Path
    on_result: Callable[[str], None]
    """Gets the request's message ID."""
    results: dict[str, list[Collected]] = field(default_factory=dict)
    _seen: set[tuple[str, int]] = field(default_factory=set)

    async def run(self) -> None:
        """Collect until cancelled."""
        with self.record.open("a", encoding="utf-8") as lines:

            def keep(message: ReceivedMessage) -> None:
                if (collected := self._add(message)) is not None:
                    lines.write(json.dumps(asdict(collected)) + "\n")
                    lines.flush()

            await asyncio.gather(*(self._read(session, keep) for session in SESSIONS))

    async def _read(self, session: str, keep: Callable[[ReceivedMessage], None]) -> None:
        while True:
            with contextlib.suppress(ServiceBusFailure):
                async with self.bus.session_receiver(REPLIES, session) as receiver:
                    while True:
                        await receiver.keep_locked()
                        delivery = await receiver.receive(_WAIT_SECONDS)
                        if delivery is not None:
                            # Before the completion: the sequence number identifies a message that came twice.
                            keep(delivery.message)
                            await receiver.complete(delivery)
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _add(self, message: ReceivedMessage) -> Collected | None:
        """Add a result; return None for another delivery of the same message."""
        identity = (message.message_id or "", message.sequence_number)
        if identity in self._seen:
            return None
        self._seen.add(identity)
        result = FlowResult.from_message(message)
        output = result.output if isinstance(result.output, dict) else {}
        collected = Collected(
            request_id=result.request_message_id,
            message_id=message.message_id or "",
            sequence_number=message.sequence_number,
            enqueued=message.enqueued_at.timestamp(),
            status=result.status.value,
            code=result.error.code if result.error else None,
            retryable=bool(result.error and result.error.retryable),
            attempts=result.attempts,
            echo=str(output["echo"]) if "echo" in output else None,
        )
        self.results.setdefault(collected.request_id, []).append(collected)
        self.on_result(collected.request_id)
        return collected
