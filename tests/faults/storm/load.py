"""The requests of the storm: drawn by the seed, sent past the faulty network, counted once the broker took them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from flow_contracts.client.sending import send_until_accepted
from flow_contracts.request import FlowRequest
from flow_contracts.servicebus import ServiceBus, ServiceBusFailure
from flow_worker.demo.environment import ROLE, EmulatorClient
from tests.faults.storm.configuration import MAIN, REPLIES, SIDE
from tests.faults.storm.replies import SESSIONS

_SEND_SECONDS = 120.0
_MAX_OUTSTANDING = 150
"""Senders wait while so many requests lack their result: a slow machine gets fewer requests, not a longer queue."""
_MAX_SENDS = 16


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request, and what its sender may expect."""

    name: str
    weight: int
    flow: str = "once"
    sender: str = "clerk"
    behaviour: str = "ok"
    times: int = 1
    seconds: float = 0.0
    """How long the flow takes."""
    output_bytes: int = 0
    time_to_live: float | None = None
    copies: int = 1
    refused: bool = False
    """The sender may not run the flow, or the request is invalid: the only right end is `refused`."""

    @property
    def repeatable(self) -> bool:
        """True if the flow is idempotent."""
        return self.flow == "repeat"


KINDS = (
    Kind("plain", 30),
    Kind("slow", 12, seconds=1.5),
    Kind("copied", 8, copies=3),
    Kind("throttled", 12, behaviour="throttle", times=2),
    Kind("failing", 4, behaviour="fail"),
    Kind("gateway error", 3, behaviour="gateway"),
    Kind("polled", 8, behaviour="accepted"),
    Kind("hanging", 2, behaviour="hang"),
    Kind("reset", 4, behaviour="reset"),
    Kind("half an answer", 3, behaviour="half"),
    Kind("large output", 2, output_bytes=150_000),
    Kind("output too large", 1, output_bytes=600_000),
    Kind("repeatable", 10, flow="repeat", seconds=0.5),
    Kind("repeatable reset", 4, flow="repeat", behaviour="reset"),
    Kind("repeatable hanging", 2, flow="repeat", behaviour="hang"),
    Kind("hasty", 8, flow="hasty", seconds=1.0),
    Kind("hasty polled", 3, flow="hasty", behaviour="accepted"),
    Kind("hasty throttled", 6, flow="hasty", behaviour="throttle", times=30),
    Kind("private", 5, flow="private"),
    Kind("short-lived", 6, time_to_live=2.0),
    Kind("no role", 4, sender="stranger", refused=True),
    Kind("no privilege", 3, flow="private", sender="reader", refused=True),
    Kind("forged claim", 3, sender="forger", refused=True),
    Kind("no claim", 2, sender="nobody", refused=True),
    Kind("unknown flow", 3, flow="absent", refused=True),
)
PLAIN = (Kind("plain", 3, seconds=0.3), Kind("slow", 3, seconds=1.0))
"""Only non-idempotent flows that take a while: for the short storms over mutated copies."""


@dataclass(slots=True)
class Sent:
    """A request as its sender remembers it."""

    id: str
    """The message ID; the correlation ID is `c-` and this."""
    kind: Kind
    queue: str
    begun: float
    accepted: float | None = None
    """When the broker took it; None while that is unknown. Seconds since the epoch."""

    @property
    def correlation_id(self) -> str:
        """The correlation ID, by which the flow's record names the request."""
        return f"c-{self.id}"


def senders(cloud: EmulatorClient) -> Mapping[str, str | None]:
    """Return the claim of each sender of `Kind.sender`."""
    return {
        "clerk": cloud.mint("ada", ROLE),
        "reader": cloud.mint("bob", ROLE),
        "stranger": cloud.mint("ada", "Other.Role"),
        "forger": cloud.mint("ada", ROLE, forged=True),
        "nobody": None,
    }


@dataclass
class Load:
    """Sends requests until the storm stops it."""

    bus: ServiceBus
    claims: Mapping[str, str | None]
    record: Path
    seed: int
    rate: float
    """Requests a second, at most."""
    kinds: tuple[Kind, ...] = KINDS
    sent: dict[str, Sent] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    """The message IDs of the requests whose result has come; the collector adds them."""
    paused: set[str] = field(default_factory=set)
    """Queues that get no requests at the moment."""
    in_progress: Counter[str] = field(default_factory=Counter)
    """Sends under way, by queue."""
    _accepted: int = 0

    async def run(self, seconds: float) -> None:
        """Send for so many seconds, and return once every send has ended."""
        order = random.Random(self.seed)  # noqa: S311 - a storm is no secret
        ends_at = time.monotonic() + seconds
        slots = asyncio.Semaphore(_MAX_SENDS)
        due = time.monotonic()
        async with asyncio.TaskGroup() as sends:
            for number in itertools.count(1):
                kind = order.choices(self.kinds, [kind.weight for kind in self.kinds])[0]
                queue = SIDE if order.random() < 0.25 else MAIN
                due = max(due + order.expovariate(self.rate), time.monotonic() - 1)
                await asyncio.sleep(due - time.monotonic())
                while self.outstanding > _MAX_OUTSTANDING and time.monotonic() < ends_at:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await slots.acquire()
                if time.monotonic() >= ends_at:
                    return
                sent = Sent(f"{self.seed}-{number}", kind, MAIN if queue in self.paused else queue, time.time())
                self.sent[sent.id] = sent
                self.in_progress[sent.queue] += 1
                sends.create_task(self._send(sent, slots))

    @property
    def outstanding(self) -> int:
        """The number of accepted requests without a result."""
        return self._accepted - len(self.answered)

    @property
    def unanswered(self) -> list[str]:
        """The message IDs of the accepted requests without a result."""
        return [id_ for id_, sent in self.sent.items() if sent.accepted is not None and id_ not in self.answered]

    async def _send(self, sent: Sent, slots: asyncio.Semaphore) -> None:
        try:
            for _ in range(sent.kind.copies):
                # A request that no send was answered for may be in the queue or not: it counts for neither.
                with contextlib.suppress(ServiceBusFailure):
                    message = self._request(sent).to_message()
                    await send_until_accepted(self.bus, sent.queue, message, _SEND_SECONDS)
                    if sent.accepted is None:
                        sent.accepted = time.time()
                        self._accepted += 1
        finally:
            self.in_progress[sent.queue] -= 1
            slots.release()
            with self.record.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps([sent.id, sent.kind.name, sent.queue, sent.begun, sent.accepted]) + "\n")

    def _request(self, sent: Sent) -> FlowRequest:
        kind, claim = sent.kind, self.claims[sent.kind.sender]
        input_: dict[str, Any] = {
            "id": sent.id,
            "behaviour": kind.behaviour,
            "times": kind.times,
            "seconds": kind.seconds,
            "output_bytes": kind.output_bytes,
        }
        return FlowRequest(
            flow=kind.flow,
            input=input_,
            claim=None if claim is None else SecretStr(claim),
            message_id=sent.id,
            correlation_id=sent.correlation_id,
            reply_to=REPLIES,
            reply_to_session_id=SESSIONS[zlib.crc32(sent.id.encode()) % len(SESSIONS)],
            time_to_live=None if kind.time_to_live is None else timedelta(seconds=kind.time_to_live),
        )
