"""Gateways that kill themselves at one point each: `python -m tests.support.crashing_gateway SETTINGS:POINT …`.

SETTINGS is a JSON file. POINT is `before` or `after` with the name of a method of the store, `after-send`, or `never`.
The gateways are forks of one process, so that it imports their modules once. It prints `ended POINT` for each that
ends, and ends all of them when its standard input does.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from pathlib import Path
from threading import Thread
from typing import Any

from flow_contracts.servicebus import ServiceBus
from flow_worker.gateway import app
from flow_worker.gateway.store.observed import ObservedGatewayStore
from flow_worker.settings.gateway_process import GatewayProcess


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(point: str) -> None:
    if point == "never":
        return
    moment, name = point.split("-", 1)
    owner: Any = ServiceBus if name == "send" else ObservedGatewayStore
    method = getattr(owner, name)

    @functools.wraps(method)
    async def dying(*args: Any, **kwargs: Any) -> Any:
        if moment == "before":
            _die()
        await method(*args, **kwargs)
        _die()

    setattr(owner, name, dying)


def _fork(settings: str, point: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _arm(point)
        asyncio.run(app.run(GatewayProcess.model_validate_json(Path(settings).read_text(encoding="utf-8"))))
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    pids = {_fork(*argument.rsplit(":", 1)): argument.rsplit(":", 1)[1] for argument in sys.argv[1:]}

    def end_with_input() -> None:
        sys.stdin.read()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    Thread(target=end_with_input, daemon=True).start()
    for _ in range(len(pids)):
        pid, _ = os.wait()
        print("ended", pids.pop(pid), flush=True)  # noqa: T201 - the test waits for it


if __name__ == "__main__":
    main()
