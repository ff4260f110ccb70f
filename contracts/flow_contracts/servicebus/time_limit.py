"""Bounds a call of the SDK, also one that swallows a cancellation.

The SDK reads its socket by `asyncio.wait_for`. Before Python 3.12, that returns the data and drops the cancellation if
both arrive in one turn of the event loop. The caller's `asyncio.timeout` cancels only once, so it would never end.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

_AGAIN_SECONDS = 1.0
"""A call may need some time to clean up, before it is cancelled again."""


class TimeLimit:
    """An asynchronous context manager as `asyncio.timeout`, which raises `TimeoutError` after `seconds`.

    It cancels again while the block runs on. If the block swallowed a cancellation from outside, the exit raises it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._cancellations = 0

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task")
        self._task = task
        self._before = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._cancel)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        for _ in range(self._cancellations):
            self._task.uncancel()
        is_cancelled_from_outside = self._task.cancelling() > self._before
        if kind is asyncio.CancelledError and self._cancellations and not is_cancelled_from_outside:
            raise TimeoutError from error
        if is_cancelled_from_outside and (kind is None or issubclass(kind, Exception)):
            raise asyncio.CancelledError from error

    def _cancel(self) -> None:
        self._cancellations += 1
        self._task.cancel()
        self._timer = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._cancel)
