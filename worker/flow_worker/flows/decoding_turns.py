"""Shares the thread that decodes answers: flows take turns, so a flow's answers wait behind its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable


class DecodingTurns:
    """One turn at a time. Those who wait get it in the order of their flows, one of each flow."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def take(self, flow: Hashable) -> None:
        """Return when it is the flow's turn. The caller releases it."""
        if not self._taken:
            self._taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(flow, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came at the same moment
                self.release()
            raise

    def release(self) -> None:
        """Give the turn to the next flow that waits."""
        while self._waiting:
            flow = next(iter(self._waiting))
            turns = self._waiting.pop(flow)
            turn = turns.popleft()
            if turns:
                self._waiting[flow] = turns  # behind the other flows
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
