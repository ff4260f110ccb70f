"""Limits the lanes in which requests wait for the proof of their senders."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from flow_worker.errors import TemporarilyUnavailable

_T = TypeVar("_T")

_PART = 4
"""One in four lanes of a queue may wait for a proof."""
_PATIENCE_SECONDS = 0.25
"""A fetch of signing keys normally takes less. Beyond it, the requests that wait hold no more lanes than their part."""


class ProofLanes:
    """Counts the requests of each queue that wait for a proof, such as a fetch of signing keys.

    Anyone can send requests that need one. Most proofs wait for nothing, because the keys are in memory. So if the
    issuer is slow, the senders whose keys are known still find free lanes.
    """

    def __init__(self, lanes: Mapping[str, int]) -> None:
        """`lanes` is the number of lanes of each queue."""
        self._max = {queue: max(1, count // _PART) for queue, count in lanes.items()}
        self._began: defaultdict[str, deque[float]] = defaultdict(deque)
        """The times at which the proofs under way began, by queue."""

    async def prove(self, queue: str, proof: Coroutine[Any, Any, _T]) -> _T:
        """Await the proof; if it has to wait and the queue's lanes do so already, cancel it instead.

        Raises `TemporarilyUnavailable` then, and whatever the proof raises.
        """
        began = self._began[queue]
        if queue in self._max and len(began) >= self._max[queue]:
            return await self._prove_quickly(proof, began[0] + _PATIENCE_SECONDS - time.monotonic())
        now = time.monotonic()
        began.append(now)
        try:
            return await proof
        finally:
            began.remove(now)

    async def prove_at_once(self, proof: Coroutine[Any, Any, _T]) -> _T:
        """Await the proof; if it has to wait, cancel it instead.

        Raises `TemporarilyUnavailable` then, and whatever the proof raises.
        """
        return await self._prove_quickly(proof, 0.0)

    async def _prove_quickly(self, proof: Coroutine[Any, Any, _T], seconds: float) -> _T:
        proving = asyncio.ensure_future(proof)
        try:
            # The first step runs even without time left: a proof that waits for nothing ends in it.
            await asyncio.wait([proving], timeout=max(0.0, seconds))
        finally:
            if not proving.done():
                proving.cancel()
                await asyncio.wait([proving])
        if proving.cancelled():
            raise TemporarilyUnavailable(
                "keys_unavailable", "many requests wait for the issuer's signing keys, and this one needs them too"
            )
        return proving.result()
