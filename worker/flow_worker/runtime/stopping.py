"""Waits that a stop may cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def unless_set(event: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Return the result of the work. If the event is set first, cancel the work and return None."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        working.cancel()  # without effect on finished work
    await asyncio.wait([working])  # the cancelled work still closes what it has opened
    return None if working.cancelled() else working.result()
