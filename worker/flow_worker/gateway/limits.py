"""The limits of callers: their rates, and the number of requests under way and of waiting requests."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from flow_worker.gateway.problems import Problem
from flow_worker.gateway.store.port import PrincipalId
from flow_worker.telemetry.logs import log
from flow_worker.telemetry.seldom import Seldom

_log = logging.getLogger(__name__)

_MAX_CALLERS: Final = 20_000
"""Callers whose rate is in memory. The one seen longest ago is forgotten first, and begins with a full burst again."""


class RateLimiter:
    """A token bucket for each caller."""

    def __init__(self, per_second: float, burst: int, now: Callable[[], float]) -> None:
        """`now` returns seconds of a clock that never goes back."""
        self._rate = per_second
        self._burst = float(burst)
        self._now = now
        self._buckets: OrderedDict[PrincipalId, tuple[float, float]] = OrderedDict()
        """The tokens of each caller, and when they were counted."""
        self._noted = Seldom()

    def take(self, caller: PrincipalId) -> None:
        """Take one token. Raises `Problem` (429) if there is none."""
        now = self._now()
        tokens, counted = self._buckets.get(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - counted) * self._rate)
        self._buckets[caller] = (tokens - 1 if tokens >= 1 else tokens, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            self._note(caller)
            seconds = (1 - tokens) / self._rate
            raise Problem("rate_limited", "You send requests too fast; wait, then send again.", retry_after=seconds)

    def _note(self, caller: PrincipalId) -> None:
        if self._noted.is_due(f"{caller.tenant}/{caller.oid}"):
            sentence = "A caller sends requests faster than gateway.limits allow, and gets 429."
            log(_log, logging.WARNING, "gateway.rate_limited", sentence, tenant=caller.tenant, caller=caller.oid)


class ActiveRequests:
    """The requests under way. One that waits for a result does not count: it costs memory only."""

    def __init__(self, max_count: int) -> None:
        self._max = max_count
        self.count = 0

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Count a request during the block. Raises `Problem` (503) if there are too many."""
        if self.count >= self._max:
            detail = "The gateway has too many requests under way; send this one again later."
            raise Problem("unavailable", detail, retry_after=1)
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Do not count the request during the block, in which it waits."""
        self.count -= 1
        try:
            yield
        finally:
            self.count += 1


class CallerWaiters:
    """The number of waiting requests of each caller."""

    def __init__(self, max_per_caller: int) -> None:
        self._max = max_per_caller
        self._counts: Counter[PrincipalId] = Counter()

    @contextlib.contextmanager
    def held(self, caller: PrincipalId) -> Iterator[bool]:
        """Count a waiting request during the block. Yield False if the caller has too many: it must not wait then."""
        if self._counts[caller] >= self._max:
            if not self._counts[caller]:
                del self._counts[caller]
            yield False
            return
        self._counts[caller] += 1
        try:
            yield True
        finally:
            self._counts[caller] -= 1
            if not self._counts[caller]:
                del self._counts[caller]
