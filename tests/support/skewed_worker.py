"""Runs a worker whose wall clock is wrong, while its monotonic clock is right.

`python -m tests.support.skewed_worker SETTINGS.json SECONDS JUMP_SECONDS` moves the clock by SECONDS from the start,
and by JUMP_SECONDS more at each SIGUSR1. It replaces `time.time` before any other import. It also replaces the SDK's
`utc_now`, because nothing can replace the method of a built-in type.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from datetime import UTC, datetime, timedelta

_time, _time_ns = time.time, time.time_ns
_path, _jump = sys.argv[1], float(sys.argv[3])
_skews = [float(sys.argv[2])]


def _skewed_time() -> float:
    return _time() + sum(_skews)


def _skewed_time_ns() -> int:
    return _time_ns() + int(sum(_skews) * 1e9)


time.time, time.time_ns = _skewed_time, _skewed_time_ns


def _utc_now() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=sum(_skews))


def _move(*_: object) -> None:
    _skews.append(_jump)


def main() -> None:
    import json
    from pathlib import Path

    from flow_worker import clock
    from flow_worker.app import run
    from flow_worker.settings import Settings
    from flow_worker.telemetry.logs import configure

    clock.now = _utc_now
    for name, module in list(sys.modules.items()):
        if name.startswith("azure.servicebus") and hasattr(module, "utc_now"):
            module.utc_now = _utc_now  # type: ignore[attr-defined]  # checked by hasattr
    signal.signal(signal.SIGUSR1, _move)
    configure("INFO", "text")
    asyncio.run(run(Settings.model_validate(json.loads(Path(_path).read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
