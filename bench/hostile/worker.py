"""Runs the worker and watches its event loop: `python -m bench.hostile.worker SETTINGS.json`.

A line `begin` on stdin starts a measurement. A line `end` prints two numbers in milliseconds: the longest time for
which the loop ran nothing else, and the most processor time that the process used between two turns of a timer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from flow_worker.app import run
from flow_worker.settings import Settings
from flow_worker.telemetry.logs import configure

_EVERY_SECONDS = 0.002


class LoopWatch:
    """Measures the lateness of a timer of the loop."""

    def __init__(self) -> None:
        self._longest = self._most_cpu = 0.0
        self._woke_at = time.perf_counter()

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            cpu = time.process_time()
            await asyncio.sleep(_EVERY_SECONDS)
            self._longest = max(self._longest, self._late())
            self._most_cpu = max(self._most_cpu, time.process_time() - cpu)
            self._woke_at = time.perf_counter()

    def obey(self) -> None:
        """Obey the lines of stdin until its end. A thread of its own answers also while the loop is blocked."""
        for line in sys.stdin:
            if line.strip() == "begin":
                self._longest = self._most_cpu = 0.0
            else:
                longest = max(self._longest, self._late())
                sys.stdout.write(f"{longest * 1000:.3f} {self._most_cpu * 1000:.3f}\n")
                sys.stdout.flush()

    def _late(self) -> float:
        return time.perf_counter() - self._woke_at - _EVERY_SECONDS


async def _watched(settings: Settings) -> None:
    watch = LoopWatch()
    threading.Thread(target=watch.obey, name="loop watch", daemon=True).start()
    watching = asyncio.create_task(watch.watch())
    try:
        await run(settings)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def main() -> None:
    """Run the worker."""
    configure("WARNING", "text")
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    asyncio.run(_watched(Settings.model_validate(document)))


if __name__ == "__main__":
    main()
