"""An outage takes few lines of the log, however many lanes reconnect."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.system import JsonObject, System
from tests.support.worker_process import worker_process

LANES = 16
SECONDS = 6.0


@pytest.mark.timeout(120)
async def test_an_outage_of_seconds_with_sixteen_lanes_takes_few_lines_and_no_traceback(system: System) -> None:
    lanes: JsonObject = {
        "request_queues": [{"name": "flow-requests", "lanes": LANES}],
        "continuations": {"lanes": LANES},
    }
    async with worker_process(system, **lanes) as worker:
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            system.emulator.amqp.drop_connections()
            await asyncio.sleep(0.1)
        async with asyncio.timeout(30):
            while worker.events("lane.reconnected") < 2:  # noqa: ASYNC110 - no event announces it
                await asyncio.sleep(0.1)
        failing, reconnected = worker.events("lane.reconnecting"), worker.events("lane.reconnected")
        assert 2 <= failing <= 8, "for each of two queues: at once, for another kind of error, after 10 s"
        assert reconnected <= 4
        lines = worker.lines
    assert not [line for line in lines if line.startswith(("Traceback", "  File"))]
    assert len([line for line in lines if " azure." in line]) <= 12
    attempts = sum(int(line.split("attempts=")[1].split()[0].strip("]")) for line in lines if "lane.recon" in line)
    assert attempts >= 2 * LANES, "each attempt is counted"
