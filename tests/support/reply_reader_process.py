"""Receive from a reply queue in a process: `python -m tests.support.reply_reader_process BUS QUEUE STORE POINT`.

The process prints `holding` when it holds a message `before` or `after` the store took its result, and never goes on.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from flow_contracts.servicebus import ConnectionString, ServiceBus
from flow_worker.gateway.reader import ReplyReader
from flow_worker.gateway.store import PutResult, Retention, Standing, StoredResult
from flow_worker.gateway.store.sqlite import SqliteGatewayStore
from flow_worker.gateway.waiters import Waiters
from flow_worker.journal.sqlite_file import SqliteLimits
from flow_worker.telemetry.health import LaneHealth


class _HeldUp(SqliteGatewayStore):
    """Stops at one point of the first result."""

    is_before = True

    async def put_result(
        self, request_id: str, result: StoredResult, *, standing: Standing = Standing.FIRST
    ) -> PutResult:
        if not self.is_before:
            await super().put_result(request_id, result, standing=standing)
        print("holding", flush=True)  # noqa: T201 - the parent waits for it
        await asyncio.Event().wait()
        raise AssertionError


async def main(bus_string: str, queue: str, path: str, point: str) -> None:
    limits = SqliteLimits(busy_seconds=5, max_log_bytes=16 << 20, reserve_bytes=0)
    store = await _HeldUp.open(Path(path), limits, Retention(timedelta(days=1)), setting="gateway.store.path")
    store.is_before = point == "before"
    async with ServiceBus(ConnectionString(bus_string)) as bus:
        health = LaneHealth(queue)
        await ReplyReader(
            "held-up", queue, bus=bus, store=store, waiters=Waiters(max_count=1), health=health, reconnect_max_seconds=1
        ).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
