"""Runs a worker that kills itself (SIGKILL, no clean-up) when COUNT requests have reached a named point.

`python -m tests.support.crashing_worker SETTINGS.json POINT COUNT` replaces only the method at the point. Without a
point it runs an ordinary worker.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from flow_contracts.servicebus import Delivery, Receiver
from flow_worker.app import run
from flow_worker.delivery import lane
from flow_worker.delivery.opening import DeliveryOpener
from flow_worker.delivery.run_resolver import RunResolver
from flow_worker.flows.invoker import Invoker
from flow_worker.journal.stored import StoredJournal
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.settings import Settings
from flow_worker.telemetry.logs import configure

POINTS: dict[str, tuple[type, str]] = {
    "before the call": (Invoker, "invoke"),
    "after the call, before the journal": (StoredJournal, "conclude"),
    "after the journal, before the reply": (Replies, "publish"),
    "after the reply, before it is marked": (StoredJournal, "mark_published"),
    "after the reply, before it is settled": (Receiver, "complete"),
    "before the schedule": (Schedule, "put"),
    "between schedule and complete": (Receiver, "complete"),
}
"""The points and the method that the worker is about to call at each."""
SETTLING: dict[str, tuple[type, str]] = {
    "after the journal, before the second result": (RunResolver, "_publish"),
    "after the second result, before it is marked": (DeliveryOpener, "settled"),
}
"""The same, of the settlement of an `unknown` result."""


def crash_at(owner: type, method: str, count: int) -> None:
    """Block all calls of the method, and kill the process at the `count`-th one.

    The first calls must block: if they went on, their requests would no longer be at the point when the process dies.
    On a slow machine the lock of a blocked request expires. Its second delivery must not count for another request.
    """
    original: Callable[..., Awaitable[Any]] = getattr(owner, method)  # fails if a rename left a point behind
    arrived: set[object] = set()

    async def block_or_die(*arguments: object, **_: object) -> Any:
        arrived.add(next((each.message.message_id for each in arguments if isinstance(each, Delivery)), object()))
        if len(arrived) == count:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        await asyncio.Event().wait()

    assert original is not None
    setattr(owner, method, block_or_die)


def main() -> None:
    path, *point = sys.argv[1:]
    if point:
        lane._LEASE_MARGIN_SECONDS = 1.0  # the test waits for the end of the lease
        crash_at(*(POINTS | SETTLING)[point[0]], int(point[1]))
    configure("INFO", "text")
    asyncio.run(run(Settings.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
