"""Run the noisy-neighbour benchmark with little load. No test asserts a duration."""

from __future__ import annotations

import asyncio
import json
import sys

from tests.support.processes import CHECKOUT


async def test_the_benchmark_measures_both_phases_and_prints_their_ratio() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.noisy_neighbour", "--rounds", "1", "--seconds", "0.5", "--rate", "16", "--json"),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    document = json.loads(output)
    assert (document["alone"]["count"], document["with_noise"]["count"]) == (8, 8)
    assert [phase["noise"] for phase in document["alone"]["phases"]] == [None]
    [with_noise] = document["with_noise"]["phases"]
    assert (with_noise["noise"]["sent"], with_noise["noise"]["flooded"]) == (8, 8)
    assert 0 < with_noise["noise"]["hanging"] < 16, "some calls hang, but not in all 16 lanes"
    assert document["ratio"] == document["with_noise"]["median"] / document["alone"]["median"]
