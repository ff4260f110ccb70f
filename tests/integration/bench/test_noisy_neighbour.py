"""The bench runs, and says what it measured; how fast that was is not judged here."""

from __future__ import annotations

import asyncio
import json
import sys

from tests.support.processes import CHECKOUT


async def test_it_measures_both_and_says_the_ratio() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.noisy_neighbour", "--rounds", "1", "--seconds", "0.5", "--rate", "16", "--json"),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    document = json.loads(said)
    assert (document["alone"]["count"], document["beside"]["count"]) == (8, 8)
    assert [turn["noise"] for turn in document["alone"]["turns"]] == [None]
    [beside] = document["beside"]["turns"]
    assert beside["noise"]["sent"] == 8
    assert 0 < beside["noise"]["hanging"] < 16, "it hangs, and not in all lanes"
    assert document["ratio"] == document["beside"]["median"] / document["alone"]["median"]
