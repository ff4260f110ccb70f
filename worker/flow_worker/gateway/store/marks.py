"""Collects the marks of sent requests, and writes those that are still needed after a moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_DELAY_SECONDS = 1.0
_MAX_PENDING = 10_000
"""Beyond that, marks are dropped: a repeated request is then sent again, and Service Bus drops the copy."""


class SentMarks:
    """Marks that need not be durable at once. Most results come within the delay, and make the mark needless."""

    def __init__(
        self, write: Callable[[Sequence[str]], Awaitable[None]], *, step: int, delay_seconds: float = _DELAY_SECONDS
    ) -> None:
        """`write` writes up to `step` marks at once."""
        self._write = write
        self._step = step
        self._delay = delay_seconds
        self._pending: dict[str, None] = {}
        self._is_closing = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def add(self, request_id: str) -> None:
        """Write the mark of this request soon."""
        if len(self._pending) >= _MAX_PENDING:
            return
        self._pending[request_id] = None
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="marks of sent requests")

    def discard(self, request_id: str) -> None:
        """Do not write the mark: the request has its result."""
        self._pending.pop(request_id, None)

    def __contains__(self, request_id: str) -> bool:
        """Return whether the mark waits to be written."""
        return request_id in self._pending

    async def _write_all(self) -> None:
        while self._pending:
            try:
                async with asyncio.timeout(self._delay):
                    await self._is_closing.wait()
            except TimeoutError:
                pass
            batch = list(self._pending)
            for start in range(0, len(batch), self._step):
                await self._try([one for one in batch[start : start + self._step] if one in self._pending])

    async def _try(self, batch: Sequence[str]) -> None:
        try:
            await self._write(batch)
        except TemporarilyUnavailable as error:
            sentence = "The gateway's store does not know that the request queue accepted some requests."
            log(_log, logging.WARNING, "gateway.mark_failed", sentence, requests=len(batch), error=error.message)
        finally:
            for request_id in batch:
                self._pending.pop(request_id, None)

    async def aclose(self) -> None:
        """Write the pending marks."""
        self._is_closing.set()
        if self._writing is not None:
            await asyncio.wait([self._writing])
