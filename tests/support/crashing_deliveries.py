"""Runs workers that kill themselves (SIGKILL), each at another point between journal, reply, row and notification.

`python -m tests.support.crashing_deliveries FOLDER` starts one for each point, with the settings `FOLDER/POINT.json`,
and prints their exit statuses as JSON. In each it replaces only the method at the point. They are forks of this process
where the system can fork, so that the imports count once.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
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


def work(folder: str, point: str) -> None:
    """Be the worker that dies at the point."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lane._LEASE_MARGIN_SECONDS = LEASE_MARGIN_SECONDS
    crash_at(POINTS[point])
    configure("INFO", "text")
    document = json.loads(Path(folder, f"{point}.json").read_text(encoding="utf-8"))
    asyncio.run(run(Settings.model_validate(document)))


def main() -> None:
    # At the exit, multiprocessing ends the workers that have not died.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    multiprocessing.set_start_method("fork" if can_fork else "spawn")
    workers = [multiprocessing.Process(target=work, args=(sys.argv[1], point), daemon=True) for point in POINTS]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.stdout.write(json.dumps([worker.exitcode for worker in workers]))


if __name__ == "__main__":
    main()
