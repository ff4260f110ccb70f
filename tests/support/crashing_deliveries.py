"""Runs a worker that kills itself (SIGKILL, no clean-up) at a named point between journal, reply, row and notification.

`python -m tests.support.crashing_deliveries SETTINGS.json POINT` replaces only the method at the point.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_worker.app import run
from flow_worker.delivery import lane
from flow_worker.delivery.dataverse_row import DataverseRowSink
from flow_worker.delivery.in_app_notification import InAppNotificationSink
from flow_worker.delivery.opening import DeliveryOpener
from flow_worker.delivery.port import Delivery
from flow_worker.journal.stored import StoredJournal
from flow_worker.runtime.replies import Replies
from flow_worker.settings import Settings
from flow_worker.telemetry.logs import configure

LEASE_MARGIN_SECONDS = 0.5
"""A short one: another worker takes over the deliveries of a dead one when their leases end."""


@dataclass(frozen=True)
class Point:
    """A method, and whether the worker dies before or behind its effect."""

    owner: type
    method: str
    behind: bool = False
    state: str | None = None
    """For a sink: the state of the delivery."""


POINTS = {
    "before pending is opened": Point(DeliveryOpener, "admitted"),
    "behind the pending row": Point(DataverseRowSink, "deliver", behind=True, state="pending"),
    "before the journal": Point(StoredJournal, "conclude"),
    "between journal and reply": Point(Replies, "publish"),
    "between reply and outbox": Point(DeliveryOpener, "published"),
    "between outbox and mark": Point(DeliveryOpener, "published", behind=True),
    "before the row": Point(DataverseRowSink, "deliver", state="ended"),
    "behind the row": Point(DataverseRowSink, "deliver", behind=True, state="ended"),
    "before the notification": Point(InAppNotificationSink, "deliver", state="ended"),
    "behind the notification": Point(InAppNotificationSink, "deliver", behind=True, state="ended"),
}


def crash_at(point: Point) -> None:
    """Kill the process at the point."""
    original: Callable[..., Awaitable[Any]] = getattr(point.owner, point.method)

    async def die(*arguments: Any, **named: Any) -> Any:
        states = {each.state for each in arguments if isinstance(each, Delivery)}
        here = point.state is None or point.state in states
        if here and not point.behind:
            _die()
        done = await original(*arguments, **named)
        if here:
            _die()
        return done

    setattr(point.owner, point.method, die)


def _die() -> None:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def main() -> None:
    path, point = sys.argv[1:]
    lane._LEASE_MARGIN_SECONDS = LEASE_MARGIN_SECONDS
    crash_at(POINTS[point])
    configure("INFO", "text")
    asyncio.run(run(Settings.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
