"""Attempts the deliveries of this worker at once, and those that another worker left behind every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from flow_worker.delivery.lane import SinkLane
from flow_worker.delivery.outbox import DeliveryOutbox, Held
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_NAMES_EVERY_SECONDS = 900.0


async def _nothing() -> None:
    return


class DeliveryRunner:
    """Runs the lanes of all sinks. A `Service` of the supervisor; it holds no lane of a queue."""

    name = "deliveries"

    def __init__(
        self,
        outbox: DeliveryOutbox,
        lanes: Iterable[SinkLane],
        *,
        interval_seconds: float,
        repeat: Callable[[], Awaitable[None]] = _nothing,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`repeat` is called before each look at the store: it writes what could not be written before."""
        self._outbox = outbox
        self._lanes: Mapping[str, SinkLane] = {lane.sink.name: lane for lane in lanes}
        self._interval = interval_seconds
        self.repeat = repeat
        self._monotonic = monotonic
        self._work = asyncio.Event()
        self._stopping = False
        self._next_sweep = float("-inf")
        self._next_names = monotonic() + interval_seconds
        self._reported: set[str] = set()
        self._is_failing = False
        for lane in self._lanes.values():
            lane.wake = self._work.set

    def offer(self, held: Iterable[Held]) -> None:
        """Attempt these deliveries soon."""
        for each in held:
            if (lane := self._lanes.get(each.owed.sink)) is not None:
                lane.offer(each)
        self._work.set()

    async def run(self) -> None:
        """Work until stopped, then until the attempts under way have ended."""
        while not self._stopping:
            self._work.clear()
            await self.turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._next_sweep - self._monotonic())):
                    await self._work.wait()
        await asyncio.gather(*(lane.drained() for lane in self._lanes.values()))

    async def turn(self) -> None:
        """Look at the store if it is time, and begin attempts."""
        is_time = self._monotonic() >= self._next_sweep
        if is_time:
            self._next_sweep = self._monotonic() + self._interval
        await self._sweep([lane for lane in self._lanes.values() if is_time or lane.wants_sweep], is_time=is_time)
        if not self._stopping:
            for lane in self._lanes.values():
                lane.fill()

    async def _sweep(self, lanes: list[SinkLane], *, is_time: bool) -> None:
        try:
            if is_time:
                await self.repeat()
            for lane in lanes:
                await lane.sweep()
            if is_time and self._monotonic() >= self._next_names:
                self._next_names = self._monotonic() + _NAMES_EVERY_SECONDS
                self._report_missing(await self._outbox.sinks())
        except TemporarilyUnavailable as error:
            if not self._is_failing:
                sentence = f"The outbox does not work, and deliveries wait; replies are not affected: {error.message}"
                log(_log, logging.WARNING, "outbox.unavailable", sentence)
            self._is_failing = True
            return
        if self._is_failing and is_time:
            self._is_failing = False
            log(_log, logging.INFO, "outbox.available", "The outbox works again.")

    def _report_missing(self, sinks: Iterable[str]) -> None:
        """Say once which sinks are not in the settings any more, although deliveries wait for them."""
        for sink in sinks:
            if sink in self._lanes or sink in self._reported:
                continue
            self._reported.add(sink)
            sentence = (
                f"Deliveries wait for the sink '{sink}', and the settings do not name it. Add 'delivery.{sink}' again, "
                "or let the deliveries expire (flow-worker deliveries list)."
            )
            log(_log, logging.WARNING, "delivery.sink_missing", sentence, sink=sink)

    def stop(self) -> None:
        """Begin no further attempt."""
        self._stopping = True
        self._work.set()

    def interrupt(self) -> None:
        """Cancel the attempts under way; another worker repeats them."""
        self.stop()
        for lane in self._lanes.values():
            lane.interrupt()
