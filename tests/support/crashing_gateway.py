"""Gateways that kill themselves: `python -m tests.support.crashing_gateway SETTINGS:POINT,POINT … SETTINGS:POINT,…`.

SETTINGS is a JSON file of one replica. POINT is `before` or `after` with the name of a method of the store, of the
sender (`send`) or of the receiver (`complete`), or `never`. A replica that has died starts again with its next point.
The gateways are forks of one process, so that it imports their modules once. It prints `begun POINT` for each start and
`ended POINT` for each end, and ends all of them when its standard input does.
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
from flow_contracts.servicebus.receiver import Receiver
from flow_worker.gateway import app
from flow_worker.gateway.store.observed import ObservedGatewayStore
from flow_worker.settings.gateway_process import GatewayProcess


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(point: str) -> None:
    if point == "never":
        return
    moment, name = point.split("-", 1)
    owner: Any = {"send": ServiceBus, "complete": Receiver}.get(name, ObservedGatewayStore)
    method = getattr(owner, name)

    @functools.wraps(method)
    async def dying(*args: Any, **kwargs: Any) -> Any:
        if moment == "before":
            _die()
        await method(*args, **kwargs)
        _die()

    setattr(owner, name, dying)


def _fork(settings: str, point: str) -> int:
    print("begun", point, flush=True)  # noqa: T201 - the test waits for it
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
    replicas = {settings: points.split(",") for settings, points in (one.rsplit(":", 1) for one in sys.argv[1:])}
    running = {_fork(settings, points[0]): settings for settings, points in replicas.items()}

    def end_with_input() -> None:
        sys.stdin.read()
        for points in replicas.values():
            del points[1:]
        for pid in list(running):
            os.kill(pid, signal.SIGKILL)

    Thread(target=end_with_input, daemon=True).start()
    while running:
        pid, _ = os.wait()
        settings = running.pop(pid)
        print("ended", replicas[settings].pop(0), flush=True)  # noqa: T201 - the test waits for it
        if replicas[settings]:
            running[_fork(settings, replicas[settings][0])] = settings


if __name__ == "__main__":
    main()
