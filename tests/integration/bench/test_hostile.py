"""Run the benchmark of hostile input with two attacks. No test asserts a duration that the machine decides."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from bench.hostile.__main__ import is_within
from bench.hostile.measurement import ATTACKS, Cost
from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.timeout(180)


async def test_the_benchmark_measures_an_attack_of_a_sender_and_one_of_a_flow() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.hostile", "--seconds", "0.5", "--json"),
        *("--only", "undecodable", "--only", "punycode"),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    rows = json.loads(output)["attacks"]
    assert [(row["source"], row["input"]) for row in rows] == [
        ("sender", "50 undecodable properties"),
        ("flow", "punycode"),
    ]
    assert all(row["loop_ms"] > 0 and row["cpu_ms"] > 0 and row["others_median_ms"] > 0 for row in rows)


def test_the_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) > 20


def test_an_attack_that_blocks_the_loop_or_takes_memory_is_beyond_the_limits() -> None:
    alone = Cost(20.0, 5.0, 0.0, [0.01])
    assert is_within(Cost(110.0, 80.0, 100.0, [0.01]), alone)
    assert not is_within(Cost(130.0, 80.0, 0.0, [0.01]), alone)
    assert not is_within(Cost(110.0, 80.0, 0.0, [0.01]), None)
    assert not is_within(Cost(50.0, 50.0, 2_000.0, [0.01]), alone)
    assert not is_within(Cost(None, None, 0.0, [60.0]), alone)
