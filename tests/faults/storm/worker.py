"""Runs a worker with a wrong clock, or a mutated copy: `python -m tests.faults.storm.worker run`.

The environment says how: `STORM_CLOCK_SECONDS` shifts the wall clock, `STORM_MUTANT` names the mutant. A mutant breaks
one promise on purpose, so that a test can watch the oracle report it.
"""

from __future__ import annotations

import asyncio
import datetime as datetime_module
import os
import time
from collections.abc import Callable
from typing import Any

CLOCK = "STORM_CLOCK_SECONDS"
MUTANT = "STORM_MUTANT"


def shift_clock(seconds: float) -> None:
    """Shift the wall clock of this process. Call it before other modules import `datetime` or `time.time`."""
    real_time, real_datetime = time.time, datetime_module.datetime

    class _Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real_datetime)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, real_datetime)

    class ShiftedDatetime(datetime_module.datetime, metaclass=_Kind):
        @classmethod
        def now(cls, tz: datetime_module.tzinfo | None = None) -> Any:
            return real_datetime.now(tz) + datetime_module.timedelta(seconds=seconds)

        @classmethod
        def utcnow(cls) -> Any:
            return real_datetime.now(datetime_module.UTC).replace(tzinfo=None) + datetime_module.timedelta(
                seconds=seconds
            )

    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: int((real_time() + seconds) * 1_000_000_000)
    datetime_module.datetime = ShiftedDatetime  # type: ignore[misc]


def forget_interrupted_calls() -> None:
    """Answer a take-over as if the call before had never gone out: a second call follows."""
    from dataclasses import replace

    from flow_worker.journal import Acquired
    from flow_worker.journal.stored import StoredJournal

    original: Callable[..., Any] = StoredJournal.acquire

    async def acquire(self: StoredJournal, *arguments: Any, **options: Any) -> Any:
        acquired = await original(self, *arguments, **options)
        return replace(acquired, interrupted=False) if isinstance(acquired, Acquired) else acquired

    StoredJournal.acquire = acquire  # type: ignore[method-assign]


def publish_before_journalling() -> None:
    """Journal a result two seconds after its publication: another result follows a crash in between."""
    from flow_worker.journal.stored import StoredJournal
    from flow_worker.runtime.replies import Replies

    conclude, mark_published, publish = StoredJournal.conclude, StoredJournal.mark_published, Replies.publish
    late: dict[str, tuple[Any, Any]] = {}

    async def postpone(self: StoredJournal, lease: Any, result: Any, **_: Any) -> Any:
        late[lease.message_id] = (lease, result)
        return result

    async def publish_first(self: Replies, *arguments: Any, **options: Any) -> None:
        await publish(self, *arguments, **options)
        await asyncio.sleep(2)

    async def journal(self: StoredJournal, message_id: str, origin: str) -> None:
        if message_id in late:
            await conclude(self, *late.pop(message_id))
        await mark_published(self, message_id, origin)

    StoredJournal.conclude = postpone  # type: ignore[method-assign]
    StoredJournal.mark_published = journal  # type: ignore[method-assign]
    Replies.publish = publish_first  # type: ignore[method-assign]


def settle_before_publishing() -> None:
    """Publish a result two seconds after its request was settled: a crash in between loses the result."""
    from flow_worker.runtime.replies import Replies

    original = Replies.publish
    tasks: set[asyncio.Task[Any]] = set()

    async def publish(self: Replies, *arguments: Any, **options: Any) -> None:
        async def late() -> None:
            await asyncio.sleep(2)
            await original(self, *arguments, **options)

        task = asyncio.create_task(late())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    Replies.publish = publish  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "forgets-interrupted-calls": forget_interrupted_calls,
    "publishes-before-it-journals": publish_before_journalling,
    "settles-before-it-publishes": settle_before_publishing,
}


def main() -> None:
    if seconds := float(os.environ.get(CLOCK, "0")):
        shift_clock(seconds)
    if mutant := os.environ.get(MUTANT):
        MUTANTS[mutant]()
    from flow_worker.__main__ import main as run_worker  # after the clock is shifted

    run_worker()


if __name__ == "__main__":
    main()
